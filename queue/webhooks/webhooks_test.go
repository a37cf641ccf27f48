package webhooks

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hibiken/asynq"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/tasks"
)

func TestAsynqDeliversWebhooksAndNothingElse(t *testing.T) {
	queuetest.OnEveryStore(t, func(t *testing.T, b *queuetest.Bundle) {
		delivered := make(chan string, 10)
		server := New(b.DB, asynq.Config{LogLevel: asynq.FatalLevel, TaskCheckInterval: 10 * time.Millisecond, ShutdownTimeout: time.Second}, 3)
		require.NoError(t, server.Start(func(_ context.Context, k *asynq.Task) error {
			delivered <- string(k.Payload())
			return nil
		}))
		defer server.Shutdown()
		var servers []*asynq.ServerInfo
		b.Eventually("asynq's server", func() bool {
			servers = queuetest.Must(b.Inspector().Servers())
			return len(servers) == 1
		})
		require.Equal(t, map[string]int{tasks.WebhookQueue: 1}, servers[0].Queues)
		require.Equal(t, 3, servers[0].Concurrency)

		err := b.Tasks.EnqueueTasks(b.Ctx, []tasks.Task{
			{Queue: tasks.WebhookQueue, Kind: tasks.TaskAction, ID: "x:1", Payload: tasks.EncodeTask("x", 1)},
			{Queue: tasks.WebhookQueue, Kind: "webhooks", ID: "x:2", Payload: tasks.EncodeTask("x", 2)},
			{Queue: tasks.WebhookQueue, Kind: tasks.TaskWebhook, ID: "x:3", Payload: tasks.EncodeTask("x", 3)},
		})
		require.NoError(t, err)
		require.Equal(t, string(tasks.EncodeTask("x", 3)), <-delivered)
		var refused []*asynq.TaskInfo
		b.Eventually("the other ones are refused", func() bool {
			refused = queuetest.Must(b.Inspector().ListArchivedTasks(tasks.WebhookQueue))
			return len(refused) == 2
		})
		for _, k := range refused {
			require.Contains(t, k.LastErr, "in the queue webhooks, expected webhook", "where an operator sees why")
		}
		require.Empty(t, delivered)
	})
}

func TestAWebhooksDelayIsNeverCutShort(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(300 * time.Millisecond)
		for _, d := range []time.Duration{0, time.Millisecond, 700 * time.Millisecond, time.Second, 1500 * time.Millisecond} {
			cfg := serverConfig(asynq.Config{RetryDelayFunc: func(int, error, *asynq.Task) time.Duration { return d }}, 1)
			delay := cfg.RetryDelayFunc(1, nil, nil)
			if d == 0 {
				require.Zero(t, delay)
				continue
			}
			at, earliest := time.Now().Add(delay), time.Now().Add(d)
			require.False(t, time.Unix(at.Unix(), 0).Before(earliest), "asynq keeps whole seconds, and cuts the rest off")
			require.Less(t, at.Sub(earliest), time.Second)
		}
	})
}
