package queue_test

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/throttle"
)

func TestSendTimesAreReservedAtTheRate(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		rate := batch.Rate{N: 20, Per: 10 * time.Second}
		const step = (10_000_000 + 50_000) / 20
		reserve := func(target string, r *throttle.Reservation) *throttle.Reserved {
			t.Helper()
			r.Token, r.Late = b.DB.Token(), 50*time.Millisecond
			got, err := b.Gate.Reserve(b.Ctx, target, rate, 2, r)
			require.NoError(t, err)
			return got
		}
		first := reserve("crm", &throttle.Reservation{Most: 3, Horizon: 500 * time.Millisecond})
		require.Equal(t, []throttle.SendRun{{Time: first.Now - step, Step: step, Late: 50_000, N: 2}}, first.Runs, "a burst of two")
		require.Equal(t, first.Now+step, first.Next)
		later := reserve("crm", &throttle.Reservation{Most: 3, Horizon: 200 * time.Millisecond})
		require.Empty(t, later.Runs, "the next one is too far ahead")
		require.Equal(t, first.Next, later.Next)
		far := &throttle.Reservation{Most: 3, Horizon: 2 * time.Second}
		got := reserve("crm", far)
		require.Equal(t, []throttle.SendRun{{Time: first.Next, Step: step, Late: 50_000, N: 3}}, got.Runs)
		again, err := b.Gate.Reserve(b.Ctx, "crm", rate, 2, far)
		require.NoError(t, err)
		require.Equal(t, got.Runs, again.Runs, "a call that is repeated answers the same")

		times := timesOf(got)
		back := reserve("crm", &throttle.Reservation{Returned: []throttle.SendTime{times[0]}})
		require.Equal(t, times[0].Redis, back.Next, "what is returned is the next one")
		got = reserve("crm", &throttle.Reservation{Most: 1, Horizon: 2 * time.Second})
		require.Equal(t, []throttle.SendRun{{Time: times[0].Redis, Step: step, Late: 50_000, N: 1}}, got.Runs)
		back = reserve("crm", &throttle.Reservation{Returned: []throttle.SendTime{times[2], times[1]}})
		require.Equal(t, times[1].Redis, back.Next, "the sequence ends earlier")
		got = reserve("crm", &throttle.Reservation{Most: 2, Horizon: 2 * time.Second})
		require.Equal(t, []throttle.SendRun{{Time: times[1].Redis, Step: step, Late: 50_000, N: 2}}, got.Runs)

		require.NoError(t, b.Gate.Hold(b.Ctx, "other", time.Minute))
		held := reserve("other", &throttle.Reservation{Most: 1, Horizon: 2 * time.Minute})
		require.Greater(t, held.Runs[0].Time, held.Now+50_000_000, "a hold moves them")
		ttl, err := b.DB.Client.PTTL(b.Ctx, keys.GateKey("other")).Result()
		require.NoError(t, err)
		require.Greater(t, ttl, time.Minute)
	})
}

// timesOf returns the send times of an answer.
func timesOf(r *throttle.Reserved) (times []throttle.SendTime) {
	for _, run := range r.Runs {
		for i := range run.N {
			times = append(times, throttle.SendTime{Redis: run.Time + int64(i)*run.Step, Step: run.Step, Late: run.Late})
		}
	}
	return times
}

func TestAHoldIsHeardByAllWorkers(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		var mu sync.Mutex
		heard := map[string]time.Duration{}
		defer b.Gate.Holds(func(target string, d time.Duration) {
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
		b.Eventually("the subscription", func() bool {
			require.NoError(t, b.DB.Client.Publish(b.Ctx, keys.HoldChannel, "5 probe").Err())
			return has("probe", 5*time.Microsecond)
		})
		require.NoError(t, b.Gate.Hold(b.Ctx, "crm", 2*time.Second))
		b.Eventually("the hold", func() bool { return has("crm", 2*time.Second) })

		queues := append(b.Tasks.QueuesOf(queuetest.Crm(batch.Bulk)), b.Tasks.QueuesOf(queuetest.Crm(batch.Interactive))...)
		for _, queue := range queues {
			require.NoError(t, b.DB.Client.SAdd(b.Ctx, keys.AsynqQueues, queue).Err())
		}
		opened, err := b.Gate.Trip(b.Ctx, "crm")
		require.NoError(t, err)
		require.True(t, opened)
		opened, err = b.Gate.Trip(b.Ctx, "crm")
		require.NoError(t, err)
		require.False(t, opened, "it is open already")
		tripped, err := b.Gate.Tripped(b.Ctx)
		require.NoError(t, err)
		require.Equal(t, []string{"crm"}, tripped)
		for _, queue := range queues {
			q, err := b.Inspector().GetQueueInfo(queue)
			require.NoError(t, err)
			require.True(t, q.Paused, "the queue is visibly paused")
		}
		for range 2 {
			require.NoError(t, b.Gate.Reset(b.Ctx, "crm"))
		}
		b.Eventually("the release", func() bool { return has("crm", 0) })
		for _, queue := range queues {
			q, err := b.Inspector().GetQueueInfo(queue)
			require.NoError(t, err)
			require.False(t, q.Paused)
		}
	})
}
