package queue_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/seal"
)

// A batch that was cancelled, or that expired, runs after a retry like any other: nothing
// of its former end is left.
func TestARetryOfABatchThatWasEndedEarlyRunsToItsOwnEnd(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		outcome batch.Outcome
		status  batch.Status
		end     func(b *bundle, id string)
	}{
		"cancelled": {batch.Cancelled, batch.StatusCancelled, func(b *bundle, id string) {
			_, err := b.Cancel(b.Ctx, "me", id)
			require.NoError(b.T, err)
		}},
		"expired": {batch.Expired, batch.StatusExpired, func(b *bundle, id string) {
			late := time.Now().Add(-time.Minute)
			require.NoError(b.T, b.DB.Client.HSet(b.Ctx, keys.KeysOf(id).Meta, "created", late.Add(-time.Hour).UnixMilli(), "expires", late.UnixMilli()).Err())
			b.Sweep()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := open(t, redistest.Start(t).URL())
			id := b.Submit(4, queuetest.Spec()).ID
			b.End(id, 0, batch.Succeeded)
			inFlight := b.Begin(id, 1)
			c.end(b, id)
			require.NoError(t, b.Ledger.Finish(b.Ctx, id, 1, inFlight.Token, queuetest.Result(1, batch.Succeeded)))
			require.Equal(t, c.status, b.Read(id).Status)

			again, _, err := b.Retry(b.Ctx, "me", id, &batch.RetrySpec{Outcomes: []batch.Outcome{c.outcome}})
			require.NoError(t, err)
			require.Equal(t, batch.StatusQueued, again.Status)
			require.Equal(t, 2, again.Counts.Pending)
			require.Zero(t, again.EndedAt)
			b.Sweep()
			require.Equal(t, 2, b.Read(id).Counts.Pending, "the sweeper ends nothing of it")

			begun := b.Begin(id, 2)
			released, err := b.Ledger.Release(b.Ctx, id, 2, begun.Token, new(batch.Result))
			require.NoError(t, err)
			require.True(t, released, "an attempt that is repeated goes back to wait")
			b.End(id, 2, batch.Failed)
			b.End(id, 3, batch.Succeeded)
			done := b.Read(id)
			require.Equal(t, batch.StatusCompleted, done.Status)
			require.Equal(t, batch.Counts{Total: 4, Succeeded: 3, Failed: 1}, done.Counts)
		})
	}
}

// Whoever can write to Redis cannot have one value pass for another.
func TestASealedValueOpensOnlyWhereItWasStored(t *testing.T) {
	t.Parallel()
	b := open(t, redistest.Start(t).URL())
	ids := []string{b.Submit(3, queuetest.Spec()).ID, b.Submit(3, queuetest.Spec()).ID}
	for _, id := range ids {
		b.End(id, 0, batch.Succeeded)
		b.End(id, 1, batch.Succeeded)
	}
	kind := map[string]func(id string) string{
		"actions": func(id string) string { return keys.KeysOf(id).Actions },
		"results": func(id string) string { return keys.KeysOf(id).Results },
	}
	read := map[string]func(id string) error{
		"actions": func(id string) error {
			begun, err := b.Ledger.Begin(b.Ctx, id, 2, "w1")
			if err == nil {
				_, err = b.Ledger.Release(b.Ctx, id, 2, begun.Token, new(batch.Result))
				require.NoError(t, err)
				return nil
			}
			return err
		},
		"results": func(id string) error {
			_, err := b.Results(b.Ctx, "me", id, batch.ResultQuery{Limit: 10})
			return err
		},
	}
	field := map[string]string{"actions": "2", "results": "1"}
	for name, c := range map[string]struct{ into, from, fromID, fromField string }{
		"an action of another index":   {"actions", "actions", ids[0], "1"},
		"an action of another batch":   {"actions", "actions", ids[1], "2"},
		"a result as an action":        {"actions", "results", ids[0], "1"},
		"a result of another index":    {"results", "results", ids[0], "0"},
		"a result of another batch":    {"results", "results", ids[1], "1"},
		"an action in place of result": {"results", "actions", ids[0], "1"},
	} {
		key := kind[c.into](ids[0])
		own, err := b.DB.Client.HGet(b.Ctx, key, field[c.into]).Result()
		require.NoError(t, err)
		other, err := b.DB.Client.HGet(b.Ctx, kind[c.from](c.fromID), c.fromField).Result()
		require.NoError(t, err)
		require.NoError(t, b.DB.Client.HSet(b.Ctx, key, field[c.into], other).Err())
		require.ErrorIs(t, read[c.into](ids[0]), seal.ErrSealed, name)
		require.NoError(t, b.DB.Client.HSet(b.Ctx, key, field[c.into], own).Err())
		require.NoError(t, read[c.into](ids[0]), "%s: with its own value it opens again", name)
	}
}
