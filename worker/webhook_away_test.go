package worker

import (
	"context"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue"
	"github.com/batchd/batchd/queue/consumer"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
)

// Redis is unavailable for 5 s when the attempt ends. The worker keeps the outcome until Redis
// answers, and only then returns to asynq. Otherwise asynq would leave the task until its
// lease expires, which takes one to two minutes.
func TestADeliveryThatEndsWhileRedisIsAwayIsNeitherLostNorLate(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		first int // the status of the first attempt
		calls int32
	}{
		"accepted": {first: 204, calls: 1},
		"refused":  {first: 500, calls: 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const away = 5 * time.Second
			server := redistest.Start(t)
			thawed := make(chan time.Time, 1)
			r := receive(t, func(call int) int {
				if call > 1 {
					return 204
				}
				server.Freeze()
				time.AfterFunc(away, func() {
					server.Thaw()
					thawed <- time.Now()
				})
				return test.first
			})
			b := setup(t, func(context.Context, *batch.Request, int) *batch.Response { return answer(200) })
			store, err := queue.Open(queue.Config{Redis: rdb.Config{URL: rdb.URL(server.URL())}})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, store.Close()) })
			b.store = store
			b.cfg.Ledger, b.cfg.Sweeper, b.cfg.Registry, b.cfg.Gate, b.cfg.NewServer = store.Ledger, store.Sweeper, store.Sweeper.Recovery, store.Gate, consumer.New(store).NewServer
			id := b.withWebhook(r.URL)
			b.run()
			back := <-thawed
			b.log(id, batch.DeliveryDelivered, int(test.calls))
			require.Less(t, time.Since(back), 20*time.Second, "no lease has to expire first")
			opt, err := redis.ParseURL(server.URL())
			require.NoError(t, err)
			rdb := redis.NewClient(opt)
			t.Cleanup(func() { require.NoError(t, rdb.Close()) })
			inspect := asynq.NewInspectorFromRedisClient(rdb)
			require.Eventually(t, func() bool {
				info, err := inspect.GetQueueInfo(tasks.WebhookQueue)
				require.NoError(t, err)
				return info.Size == 0
			}, 20*time.Second, 10*time.Millisecond, "the task leaves asynq's records")
			require.Equal(t, test.calls, r.calls.Load())
		})
	}
}
