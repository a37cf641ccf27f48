package consumer

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
)

func TestATaskThatIsRunForLongKeepsItsLease(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		end := make(chan struct{})
		server, _ := b.serve(Target{Slots: 2}, func(int, *Slot) error {
			<-end
			return nil
		})
		defer close(end)
		id := b.Submit(2, queuetest.Spec()).ID
		var held []*asynq.TaskInfo
		b.Eventually("the tasks", func() bool {
			held = b.Listed(batch.Interactive, b.Inspector().ListActiveTasks)
			return len(held) == 2 && runs(server) == 2
		})
		lease := func(index int) (int64, error) {
			name := tasks.TaskID(id, index, "")
			score, err := b.DB.Client.ZScore(b.Ctx, tasks.AsynqPrefix(b.Tasks.QueueOf(queuetest.Crm(batch.Interactive), id, index))+"lease", name).Result()
			return int64(score), err
		}
		before, err := lease(0)
		require.NoError(t, err)
		soon := float64(before - 20) // as if it had run for 20 s
		prefix := tasks.AsynqPrefix(b.Tasks.QueueOf(queuetest.Crm(batch.Interactive), id, 0))
		require.NoError(t, b.DB.Client.ZAddXX(b.Ctx, prefix+"lease", redis.Z{Member: tasks.TaskID(id, 0, ""), Score: soon}).Err())
		n, err := b.Tasks.Requeue(b.Ctx, b.Tasks.QueueOf(queuetest.Crm(batch.Interactive), id, 1), []string{tasks.TaskID(id, 1, "")}) // as of a worker that considered it lost
		require.NoError(t, err)
		require.Equal(t, 1, n)
		server.consumer.stop() // so that it is not taken again
		server.consumer.renewLeases(time.Now().Add(leaseEvery / 4))
		same, err := lease(0)
		require.NoError(t, err)
		require.Equal(t, before-20, same, "not those of tasks that were just taken")
		server.consumer.renewLeases(time.Now().Add(time.Minute))
		after, err := lease(0)
		require.NoError(t, err)
		require.GreaterOrEqual(t, after, before, "by Redis's clock, whatever this process's says")
		require.Less(t, after, before+30)
	})
}

func TestALeaseThatIsGoneIsNotRenewed(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.Submit(1, queuetest.Spec()).ID
		c := newConsumer(b.consumers, ServerConfig{Targets: []Target{{Name: "crm", Slots: 2}}})
		target := c.targets[0]
		for len(target.handed()) == 0 { // of several queues it may poll the wrong ones first
			target.poll(true)
		}
		k := <-target.handed()
		r := &runner{}
		r.now.Store(k)
		target.runners.all = append(target.runners.all, r)
		n, err := b.Tasks.Requeue(b.Ctx, k.queue.name, []string{tasks.TaskID(id, 0, "")}) // as of a worker that was taken for dead
		require.NoError(t, err)
		require.Equal(t, 1, n)
		c.renewLeases(time.Now().Add(time.Minute))
		require.Zero(t, queuetest.Must(b.DB.Client.Exists(b.Ctx, k.queue.prefix+"lease").Result()))
	})
}

func TestATaskThatPanicsComesAgain(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		var runs atomic.Int32
		b.serve(Target{Slots: 1}, func(int, *Slot) error {
			if runs.Add(1) == 1 {
				panic("a fault")
			}
			return nil
		})
		b.Submit(2, queuetest.Spec())
		b.Eventually("all, one of them twice", func() bool { return runs.Load() == 3 })
	})
}

func TestATaskThatComesLaterIsInAsynqsRetrySet(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		b.Submit(1, queuetest.Spec())
		c := newConsumer(b.consumers, ServerConfig{Targets: []Target{{Name: "crm", Slots: 2}}})
		c.retryDelay = func(int, error, *asynq.Task) time.Duration { return time.Hour }
		target := c.targets[0]
		for len(target.handed()) == 0 { // of several queues it may poll the wrong ones first
			target.poll(true)
		}
		k := <-target.handed()
		k.ran(errors.New("later"))
		fail := &queuetest.FailedPipelines{Left: 1}
		b.DB.Client.AddHook(fail)
		target.poll(false)
		require.Equal(t, 1, target.unreported(), "it is reported again")
		target.poll(false)
		require.Zero(t, target.unreported())
		require.Empty(t, b.Listed(batch.Interactive, b.Inspector().ListActiveTasks))
		waiting := b.Listed(batch.Interactive, b.Inspector().ListRetryTasks)
		require.Len(t, waiting, 1)
		require.Equal(t, k.id, waiting[0].ID)
		require.Equal(t, asynq.TaskStateRetry, waiting[0].State)
		require.WithinDuration(t, time.Now().Add(time.Hour), waiting[0].NextProcessAt, time.Minute)
		require.Zero(t, queuetest.Must(b.DB.Client.Exists(b.Ctx, k.queue.prefix+"lease").Result()))
		require.WithinDuration(t, time.Now().Add(time.Hour), k.queue.due, time.Minute, "it is moved when it is due")
	})
}

func TestATaskOfAnotherProgramIsDropped(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		_, err := asynq.NewClientFromRedisClient(b.DB.Client).Enqueue(asynq.NewTask("theirs", nil),
			asynq.Queue(b.Tasks.QueueOf(queuetest.Crm(batch.Interactive), "x", 0)), asynq.TaskID("whatever"))
		require.NoError(t, err)
		b.serve(Target{Slots: 2}, func(int, *Slot) error {
			t.Error("it was run")
			return nil
		})
		b.Eventually("it is gone", func() bool {
			n := 0
			for key := range b.AllKeys() {
				if word := queuetest.AsynqKeyKind(key); word == "t" || word == "pending" || word == "active" {
					n++
				}
			}
			return n == 0
		})
	})
}

func TestAHandlerThatDoesNotEndBlocksNoShutdown(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		end := make(chan struct{})
		began := make(chan struct{})
		server, stop := b.serve(Target{Slots: 2}, func(int, *Slot) error {
			close(began)
			<-end
			return nil
		})
		server.drain = 100 * time.Millisecond
		b.Submit(1, queuetest.Spec())
		<-began
		stop()
		require.Len(t, b.Listed(batch.Interactive, b.Inspector().ListActiveTasks), 1, "it is not run a second time")
		close(end)
	})
}

// Runners receive tasks while the server takes back those that no runner has begun.
func TestAServerStopsWhileItsRunnersBegin(t *testing.T) {
	t.Parallel()
	b := open(t, rdb.Embedded)
	for range 300 {
		k := newConsumer(b.consumers, ServerConfig{Targets: []Target{{Name: "crm", Slots: 64}}})
		k.action = func(string, int, *Slot) error { return nil }
		target := k.targets[0]
		target.mu.Lock()
		for range 64 {
			target.slots.inHand++
			target.slots.addRunning(1)
			target.runners.hand(&task{queue: target.queues[0], id: "x:1", slot: Slot{queue: target.queues[0]}})
		}
		target.mu.Unlock()
		close(k.quit)
		left := target.takeRest()
		require.Empty(t, target.takeRest(), "a second time")
		k.runners.Wait()
		require.Equal(t, 64, target.unreported()+len(left))
		require.Zero(t, b.Ledger.AddRunning(0))
	}
}

// Whatever tasks do, all slots, runners and records of asynq are as before in the end.
func TestEndedTasksLeaveNothing(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		var runs atomic.Int32
		server, _ := b.serve(Target{Slots: 16}, func(_ int, slot *Slot) error {
			switch n := runs.Add(1); n % 5 {
			case 0:
				slot.Leave()
			case 1:
				slot.Leave()
				return errors.New("again")
			case 2:
				if n%7 == 0 {
					panic("a fault")
				}
			}
			return nil
		})
		for range 5 {
			b.Submit(60, queuetest.Spec())
		}
		target := server.consumer.targets[0]
		b.Eventually("the end", func() bool {
			for key := range b.AllKeys() {
				if word := queuetest.AsynqKeyKind(key); word == "t" {
					return false
				}
			}
			target.mu.Lock()
			defer target.mu.Unlock()
			return target.slots.inHand == 0 && target.slots.finishing == 0
		})
		target.mu.Lock()
		defer target.mu.Unlock()
		require.Zero(t, target.slots.inBulk)
		require.Zero(t, target.slots.running)
		require.Zero(t, b.Ledger.AddRunning(0))
		require.Empty(t, target.handed())
		require.Empty(t, target.slots.ready)
		require.Len(t, target.runners.all, target.runners.idle)
		require.LessOrEqual(t, len(target.runners.all), 16+maxFinishing(16))
	})
}

// runs returns how many tasks the runners of a server run.
func runs(s *Server) (n int) {
	for _, target := range s.consumer.targets {
		target.mu.Lock()
		n += len(target.runners.tasks())
		target.mu.Unlock()
	}
	return n
}
