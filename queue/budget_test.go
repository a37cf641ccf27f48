package queue_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue"
	"github.com/batchd/batchd/queue/batches"
	"github.com/batchd/batchd/queue/fanout"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/rdb"
)

func TestTheExchangesOfARequestShareItsBudget(t *testing.T) {
	t.Parallel()
	const trip = 200 * time.Millisecond
	distant := redistest.StartDistant(t, redistest.Start(t).Addr, trip)
	s, err := queue.Open(queue.Config{Redis: rdb.Config{URL: rdb.URL(distant.URL())}, Timeout: time.Minute})
	require.NoError(t, err)
	defer s.Close()
	require.NoError(t, s.Ping(t.Context()))
	ctx := batch.WithBudget(t.Context(), 7*trip/2)
	pings, began := 0, time.Now()
	for ; s.Ping(ctx) == nil; pings++ {
		require.Less(t, pings, 4, "each takes a round trip")
	}
	require.True(t, rdb.IsUnavailable(s.Ping(ctx)))
	require.Less(t, time.Since(began), 10*time.Second)
	require.Eventually(t, func() bool { // a new connection may take more round trips than a budget has
		batch.BudgetOf(ctx).Refill()
		return s.Ping(ctx) == nil
	}, time.Minute, time.Millisecond)
}

func TestARequestRepeatsAStepAsLongAsItsBudgetLasts(t *testing.T) {
	t.Parallel()
	away := &batch.UnavailableError{Err: errors.New("away")}
	began, steps := time.Now(), 0
	err := rdb.RetryUnavailable(batch.WithBudget(t.Context(), 5*rdb.RetryPause/2), func() error {
		steps++
		return away
	})
	require.ErrorIs(t, err, away)
	require.Equal(t, 3, steps, "two pauses are within the budget")
	require.Less(t, time.Since(began), 30*time.Second)

	ctx := rdb.Detached(batch.WithBudget(t.Context(), 0))
	err = rdb.RetryUnavailable(ctx, func() error {
		if steps++; steps < 5 {
			return away
		}
		return nil
	})
	require.NoError(t, err, "work that outlives the request has no budget")
	require.NoError(t, context.Cause(ctx))
}

// The pauses between the tries of the read that follows a retry count once towards its budget: a client that
// gets an error then cannot repeat the retry, since the batch runs already.
func TestTheReadAfterARetryUsesItsBudgetOnce(t *testing.T) {
	t.Parallel()
	b, proxy := behindProxy(t)
	id := b.Submit(1, queuetest.Spec()).ID
	b.End(id, 0, batch.Failed)
	const tries = 10
	var retried atomic.Bool
	stop := proxy.Answer(redistest.Rule{
		Reply: "NOPERM no permissions to read", Way: redistest.Refused, Times: tries,
		Match: func(words []string) bool {
			if words[0] == "EVALSHA" && words[1] == fanout.Steps.Retry.Hash() {
				retried.Store(true)
			}
			return words[0] == "EVALSHA" && words[1] == batches.Steps.Snapshot.Hash() && words[3] == keys.KeysOf(id).Meta && retried.Load()
		},
	})
	require.NoError(t, fanout.Steps.Retry.Load(b.Ctx, b.DB.Client).Err())
	ctx := batch.WithBudget(b.Ctx, tries*rdb.RetryPause*7/4)
	got, _, err := b.Retry(ctx, "me", id, &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Failed}})
	require.NoError(t, err)
	require.Equal(t, id, got.ID)
	require.Equal(t, tries, stop())
}
