package throttle_test

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
	queuetest.OnEveryStore(t, func(t *testing.T, b *queuetest.Bundle) {
		rate := batch.Rate{N: 20, Per: 10 * time.Minute} // a busy machine is not late by a send time
		const step = (600_000_000 + 50_000) / 20
		reserve := func(target string, most int, horizon time.Duration, returned ...throttle.SendTime) *throttle.Reserved {
			t.Helper()
			got, err := b.Gate.Reserve(b.Ctx, target, rate, 2, throttle.NewReservation(b.DB.Token(), most, horizon, returned...))
			require.NoError(t, err)
			return got
		}
		first := reserve("crm", 3, 30*time.Second)
		require.Equal(t, []throttle.SendRun{{Time: first.Now() - step, Step: step, Late: 50_000, N: 2}}, first.Runs(), "a burst of two")
		require.Equal(t, first.Now()+step, first.Next())
		later := reserve("crm", 3, 12*time.Second)
		require.Empty(t, later.Runs(), "the next one is too far ahead")
		require.Equal(t, first.Next(), later.Next())
		far := throttle.NewReservation(b.DB.Token(), 3, 2*time.Minute)
		got, err := b.Gate.Reserve(b.Ctx, "crm", rate, 2, far)
		require.NoError(t, err)
		require.Equal(t, []throttle.SendRun{{Time: first.Next(), Step: step, Late: 50_000, N: 3}}, got.Runs())
		again, err := b.Gate.Reserve(b.Ctx, "crm", rate, 2, far)
		require.NoError(t, err)
		require.Equal(t, got.Runs(), again.Runs(), "a repeated call has the same reply")

		times := got.Times()
		back := reserve("crm", 0, 0, times[0])
		require.Equal(t, times[0].Time(), back.Next(), "a returned send time is the next one")
		got = reserve("crm", 1, 2*time.Minute)
		require.Equal(t, []throttle.SendRun{{Time: times[0].Time(), Step: step, Late: 50_000, N: 1}}, got.Runs())
		back = reserve("crm", 0, 0, times[2], times[1])
		require.Equal(t, times[1].Time(), back.Next(), "the sequence ends earlier")
		got = reserve("crm", 2, 2*time.Minute)
		require.Equal(t, []throttle.SendRun{{Time: times[1].Time(), Step: step, Late: 50_000, N: 2}}, got.Runs())

		require.NoError(t, b.Gate.Hold(b.Ctx, "other", time.Minute))
		held := reserve("other", 1, 2*time.Minute)
		require.Greater(t, held.Runs()[0].Time, held.Now()+50_000_000, "a hold moves them")
		ttl, err := b.DB.Client.PTTL(b.Ctx, keys.GateKey("other")).Result()
		require.NoError(t, err)
		require.Greater(t, ttl, time.Minute)
	})
}

func TestAHoldIsHeardByAllWorkers(t *testing.T) {
	queuetest.OnEveryStore(t, func(t *testing.T, b *queuetest.Bundle) {
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
