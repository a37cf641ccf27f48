package queue

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

func TestPlacesAreHandedOutAtTheRate(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		rate := batch.Rate{N: 20, Per: 10 * time.Second} // a burst of two, then every half second
		var last time.Duration
		for i := range 12 {
			wait, err := b.Reserve(b.ctx, "crm", rate)
			require.NoError(t, err)
			if i < 2 {
				require.Zero(t, wait)
			} else {
				require.Greater(t, wait, last, "each place is later than the one before")
			}
			last = wait
		}
		require.InDelta(t, 5*time.Second, last, float64(3*time.Second))
		wait, err := b.Reserve(b.ctx, "other", rate)
		require.NoError(t, err)
		require.Zero(t, wait)
		require.NoError(t, b.Hold(b.ctx, "other", time.Minute))
		wait, err = b.Reserve(b.ctx, "other", rate)
		require.NoError(t, err)
		require.Greater(t, wait, 50*time.Second, "a hold moves the places")
	})
}

func TestAHoldIsHeardByAllWorkers(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		var mu sync.Mutex
		heard := map[string]time.Duration{}
		defer b.Holds(func(target string, d time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			heard[target] = d
		})()
		has := func(target string, d time.Duration) bool {
			mu.Lock()
			defer mu.Unlock()
			got, ok := heard[target]
			return ok && got == d
		}
		b.eventually("the subscription", func() bool {
			require.NoError(t, b.rdb.Publish(b.ctx, holdChannel, "5 probe").Err())
			return has("probe", 5*time.Microsecond)
		})
		require.NoError(t, b.Hold(b.ctx, "crm", 2*time.Second))
		b.eventually("the hold", func() bool { return has("crm", 2*time.Second) })

		queues := append(b.queuesOf(crm(batch.Bulk)), b.queuesOf(crm(batch.Interactive))...)
		for _, queue := range queues {
			require.NoError(t, b.rdb.SAdd(b.ctx, asynqQueues, queue).Err())
		}
		opened, err := b.Trip(b.ctx, "crm")
		require.NoError(t, err)
		require.True(t, opened)
		opened, err = b.Trip(b.ctx, "crm")
		require.NoError(t, err)
		require.False(t, opened, "it is open already")
		tripped, err := b.Tripped(b.ctx)
		require.NoError(t, err)
		require.Equal(t, []string{"crm"}, tripped)
		for _, queue := range queues {
			q, err := b.inspector().GetQueueInfo(queue)
			require.NoError(t, err)
			require.True(t, q.Paused, "the queue is visibly paused")
		}
		for range 2 {
			require.NoError(t, b.Mend(b.ctx, "crm"))
		}
		b.eventually("the release", func() bool { return has("crm", 0) })
		for _, queue := range queues {
			q, err := b.inspector().GetQueueInfo(queue)
			require.NoError(t, err)
			require.False(t, q.Paused)
		}
	})
}
