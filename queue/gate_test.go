package queue

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

func TestSendTimesAreReservedAtTheRate(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		rate := batch.Rate{N: 20, Per: 10 * time.Second}
		const step = (10_000_000 + 50_000) / 20
		reserve := func(target string, r *reservation) *reserved {
			t.Helper()
			r.token, r.late = b.db.Token(), 50*time.Millisecond
			got, err := b.reserve(b.ctx, target, rate, 2, r)
			require.NoError(t, err)
			return got
		}
		first := reserve("crm", &reservation{most: 3, horizon: 500 * time.Millisecond})
		require.Equal(t, []sendRun{{first.now - step, step, 50_000, 2}}, first.runs, "a burst of two")
		require.Equal(t, first.now+step, first.next)
		later := reserve("crm", &reservation{most: 3, horizon: 200 * time.Millisecond})
		require.Empty(t, later.runs, "the next one is too far ahead")
		require.Equal(t, first.next, later.next)
		far := &reservation{most: 3, horizon: 2 * time.Second}
		got := reserve("crm", far)
		require.Equal(t, []sendRun{{first.next, step, 50_000, 3}}, got.runs)
		again, err := b.reserve(b.ctx, "crm", rate, 2, far)
		require.NoError(t, err)
		require.Equal(t, got.runs, again.runs, "a call that is repeated answers the same")

		times := timesOf(got)
		back := reserve("crm", &reservation{returned: []sendTime{times[0]}})
		require.Equal(t, times[0].redis, back.next, "what is returned is the next one")
		got = reserve("crm", &reservation{most: 1, horizon: 2 * time.Second})
		require.Equal(t, []sendRun{{times[0].redis, step, 50_000, 1}}, got.runs)
		back = reserve("crm", &reservation{returned: []sendTime{times[2], times[1]}})
		require.Equal(t, times[1].redis, back.next, "the sequence ends earlier")
		got = reserve("crm", &reservation{most: 2, horizon: 2 * time.Second})
		require.Equal(t, []sendRun{{times[1].redis, step, 50_000, 2}}, got.runs)

		require.NoError(t, b.Hold(b.ctx, "other", time.Minute))
		held := reserve("other", &reservation{most: 1, horizon: 2 * time.Minute})
		require.Greater(t, held.runs[0].time, held.now+50_000_000, "a hold moves them")
		ttl, err := b.db.Client.PTTL(b.ctx, gateKey("other")).Result()
		require.NoError(t, err)
		require.Greater(t, ttl, time.Minute)
	})
}

// timesOf returns the send times of an answer.
func timesOf(r *reserved) (times []sendTime) {
	for _, run := range r.runs {
		for i := range run.n {
			times = append(times, sendTime{redis: run.time + int64(i)*run.step, step: run.step, late: run.late})
		}
	}
	return times
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
			require.NoError(t, b.db.Client.Publish(b.ctx, holdChannel, "5 probe").Err())
			return has("probe", 5*time.Microsecond)
		})
		require.NoError(t, b.Hold(b.ctx, "crm", 2*time.Second))
		b.eventually("the hold", func() bool { return has("crm", 2*time.Second) })

		queues := append(b.queuesOf(crm(batch.Bulk)), b.queuesOf(crm(batch.Interactive))...)
		for _, queue := range queues {
			require.NoError(t, b.db.Client.SAdd(b.ctx, asynqQueues, queue).Err())
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
			require.NoError(t, b.Reset(b.ctx, "crm"))
		}
		b.eventually("the release", func() bool { return has("crm", 0) })
		for _, queue := range queues {
			q, err := b.inspector().GetQueueInfo(queue)
			require.NoError(t, err)
			require.False(t, q.Paused)
		}
	})
}
