package queuetest

import (
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/queue/tasks"
)

// Active returns the ids of the tasks that run by asynq's books.
func (b *Bundle) Active() (ids []string) {
	b.T.Helper()
	queues, err := b.Tasks.TaskQueues(b.Ctx)
	require.NoError(b.T, err)
	for _, queue := range queues {
		ids = append(ids, b.DB.Client.LRange(b.Ctx, tasks.AsynqPrefix(queue)+"active", 0, -1).Val()...)
	}
	return ids
}

// ExpireLeases has the leases of all held tasks end.
func (b *Bundle) ExpireLeases() {
	b.T.Helper()
	for _, id := range b.Active() {
		queues, err := b.Tasks.TaskQueues(b.Ctx)
		require.NoError(b.T, err)
		for _, queue := range queues {
			entry := redis.Z{Member: id, Score: float64(time.Now().Add(-time.Second).Unix())}
			require.NoError(b.T, b.DB.Client.ZAddXX(b.Ctx, tasks.AsynqPrefix(queue)+"lease", entry).Err())
		}
	}
	b.Sweeper.Suspected = time.Time{}
}
