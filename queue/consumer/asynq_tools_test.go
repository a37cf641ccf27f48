package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/hibiken/asynqmon"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/tasks"
)

// tool is a tool with which operators manage asynq's queues.
type tool interface {
	queues() []string
	paused(queue string) bool
	pause(queue string)
	resume(queue string)
	list(queue, state string) (ids []string)
	run(queue, id string)
	remove(queue, state, id string)
}

// inspectorTool is asynq's own API, which its command line uses.
type inspectorTool struct{ b *bundle }

func (i inspectorTool) queues() []string { return queuetest.Must(i.b.Inspector().Queues()) }

func (i inspectorTool) paused(queue string) bool {
	return queuetest.Must(i.b.Inspector().GetQueueInfo(queue)).Paused
}

func (i inspectorTool) pause(queue string) { require.NoError(i.b.T, i.b.Inspector().PauseQueue(queue)) }

func (i inspectorTool) resume(queue string) {
	require.NoError(i.b.T, i.b.Inspector().UnpauseQueue(queue))
}

func (i inspectorTool) list(queue, state string) (ids []string) {
	list := map[string]func(string, ...asynq.ListOption) ([]*asynq.TaskInfo, error){
		"pending": i.b.Inspector().ListPendingTasks, "active": i.b.Inspector().ListActiveTasks, "retry": i.b.Inspector().ListRetryTasks,
	}
	for _, k := range queuetest.Must(list[state](queue)) {
		require.Equal(i.b.T, state, k.State.String())
		ids = append(ids, k.ID)
	}
	return ids
}

func (i inspectorTool) run(queue, id string) {
	require.NoError(i.b.T, i.b.Inspector().RunTask(queue, id))
}

func (i inspectorTool) remove(queue, _, id string) {
	require.NoError(i.b.T, i.b.Inspector().DeleteTask(queue, id))
}

// asynqmonTool is the HTTP API of asynq's web console.
type asynqmonTool struct {
	b       *bundle
	handler http.Handler
}

// sameConnections lets asynqmon use the connections of a store.
type sameConnections struct{ rdb redis.UniversalClient }

func (c sameConnections) MakeRedisClient() any { return c.rdb }

func (m asynqmonTool) call(method, path string, into any) {
	m.b.T.Helper()
	rec := httptest.NewRecorder()
	m.handler.ServeHTTP(rec, httptest.NewRequestWithContext(m.b.Ctx, method, path, nil))
	require.Less(m.b.T, rec.Code, 300, "%s %s: %s", method, path, rec.Body)
	if into != nil {
		require.NoError(m.b.T, json.Unmarshal(rec.Body.Bytes(), into))
	}
}

func (m asynqmonTool) queues() (names []string) {
	var answer struct{ Queues []struct{ Queue string } }
	m.call("GET", "/api/queues", &answer)
	for _, q := range answer.Queues {
		names = append(names, q.Queue)
	}
	return names
}

func (m asynqmonTool) paused(queue string) bool {
	var answer struct{ Current struct{ Paused bool } }
	m.call("GET", "/api/queues/"+queue, &answer)
	return answer.Current.Paused
}

func (m asynqmonTool) pause(queue string) { m.call("POST", "/api/queues/"+queue+":pause", nil) }

func (m asynqmonTool) resume(queue string) { m.call("POST", "/api/queues/"+queue+":resume", nil) }

func (m asynqmonTool) list(queue, state string) (ids []string) {
	var answer struct{ Tasks []struct{ ID, State string } }
	m.call("GET", "/api/queues/"+queue+"/"+state+"_tasks", &answer)
	for _, k := range answer.Tasks {
		ids = append(ids, k.ID)
	}
	return ids
}

func (m asynqmonTool) run(queue, id string) {
	m.call("POST", "/api/queues/"+queue+"/retry_tasks/"+id+":run", nil)
}

func (m asynqmonTool) remove(queue, state, id string) {
	m.call("DELETE", "/api/queues/"+queue+"/"+state+"_tasks/"+id, nil)
}

func TestAsynqsToolsListPauseRunAndDeleteTasks(t *testing.T) {
	tools := map[string]func(b *bundle) tool{
		"inspector": func(b *bundle) tool { return inspectorTool{b} },
		"asynqmon": func(b *bundle) tool {
			return asynqmonTool{b, asynqmon.New(asynqmon.Options{RedisConnOpt: sameConnections{b.DB.Client}})}
		},
	}
	onEveryStore(t, func(t *testing.T, b *bundle) {
		for name, with := range tools {
			t.Log(name)
			b.T = t
			lookAfterTasks(t, b, with(b))
		}
	})
}

// lookAfterTasks lets an operator manage the tasks of a batch of four actions: the first runs
// until the test ends it, the second fails, and the others succeed.
func lookAfterTasks(t *testing.T, b *bundle, op tool) {
	t.Helper()
	var got queuetest.Indexes
	var fails atomic.Int32
	end := make(chan struct{})
	server := b.consumers.NewServer(ServerConfig{
		Targets: []Target{{Name: "crm", Slots: 8}}, WebhookSlots: 1,
		Config: asynq.Config{
			LogLevel: asynq.FatalLevel, TaskCheckInterval: 10 * time.Millisecond, ShutdownTimeout: 30 * time.Second,
			RetryDelayFunc: func(int, error, *asynq.Task) time.Duration { return time.Hour },
		},
	})
	require.NoError(t, server.Start(Handlers{
		Action: func(_ string, index int, _ *Slot) error {
			switch index {
			case 0:
				<-end
			case 1:
				fails.Add(1)
				return errors.New("later")
			}
			got.Add(index)
			return nil
		},
		Webhook: func(context.Context, *asynq.Task) error { return nil },
	}))
	defer server.Shutdown()
	for _, queue := range b.Tasks.QueuesOf(queuetest.Crm(batch.Interactive)) {
		op.pause(queue)
	}
	id := b.Submit(4, queuetest.Spec()).ID
	queue := b.Tasks.QueueOf(queuetest.Crm(batch.Interactive), id, 0)
	task := func(index int) string { return tasks.TaskID(id, index, "") }
	require.Contains(t, op.queues(), queue)
	require.True(t, op.paused(queue))
	b.Eventually("a queue that is paused has the next tasks", func() bool { return len(op.list(queue, "pending")) == 4 })
	require.ElementsMatch(t, []string{task(0), task(1), task(2), task(3)}, op.list(queue, "pending"))

	// An action outlives its task: the sweeper offers it again.
	op.remove(queue, "pending", task(3))
	require.NotContains(t, op.list(queue, "pending"), task(3))
	b.Sweep()
	usual := b.Sweeper.Timing.StuckAfter
	b.Sweeper.Timing.StuckAfter = 0
	require.Equal(t, 1, b.Sweep().Lost)
	b.Sweeper.Timing.StuckAfter = usual
	b.Eventually("its task again", func() bool { return len(op.list(queue, "pending")) == 4 })
	require.Empty(t, got.Sorted(), "nothing is taken from a queue that is paused")
	require.Zero(t, fails.Load())

	for _, queue := range b.Tasks.QueuesOf(queuetest.Crm(batch.Interactive)) {
		op.resume(queue)
	}
	require.False(t, op.paused(queue))
	b.Eventually("what the queue held", func() bool {
		return slices.Equal([]int{2, 3}, got.Sorted()) && slices.Equal([]string{task(0)}, op.list(queue, "active")) &&
			slices.Equal([]string{task(1)}, op.list(queue, "retry"))
	})
	op.run(queue, task(1))
	b.Eventually("it runs at once and fails again", func() bool {
		return fails.Load() == 2 && slices.Equal([]string{task(1)}, op.list(queue, "retry"))
	})
	op.remove(queue, "retry", task(1))
	require.Empty(t, op.list(queue, "retry"))
	close(end)
	b.Eventually("asynq's records are empty", func() bool {
		return slices.Equal([]int{0, 2, 3}, got.Sorted()) && len(op.list(queue, "active")) == 0
	})
	_, err := b.Cancel(b.Ctx, "me", id)
	require.NoError(t, err)
}
