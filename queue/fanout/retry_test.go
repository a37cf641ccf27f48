package fanout_test

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/fanout"
	"github.com/batchd/batchd/queue/index"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/tasks"
)

// failed submits a batch and has every second action fail.
func (b *bundle) failed(n int) string {
	b.T.Helper()
	id := b.Submit(n, queuetest.Spec()).ID
	for i := range n {
		o := batch.Succeeded
		if i%2 == 1 {
			o = batch.Failed
		}
		b.End(id, i, o)
		b.drop(id, i)
	}
	return id
}

func TestARetryIsHeldToTheOwnersLimit(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		limit := batch.Limit{Rate: batch.Rate{N: 10, Per: time.Hour}, Concurrent: 5}
		id := b.failed(8)
		again := &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Failed}, Limit: &limit}
		held, _, _, err := b.Ask("me", 2, limit, false)
		require.NoError(t, err)
		limited := (*batch.LimitedError)(nil)
		_, _, err = b.Retry(b.Ctx, "me", id, again)
		require.ErrorAs(t, err, &limited)
		require.Positive(t, limited.RetryAfter)
		require.Equal(t, batch.StatusCompleted, b.Read(id).Status)
		require.Zero(t, b.queued())
		held.Abort(b.Ctx)

		_, _, err = b.Retry(b.Ctx, "you", id, again)
		require.ErrorIs(t, err, batch.ErrNotFound)
		got, state, err := b.Retry(b.Ctx, "me", id, again)
		require.NoError(t, err)
		require.Equal(t, 4, got.Counts.Pending)
		require.Equal(t, 6, state.Remaining, "neither refusal cost anything")
		require.Equal(t, 1, state.Free)
		require.Equal(t, 4, b.queued())
		require.Equal(t, 1, b.free(limit))
		_, _, err = b.Retry(b.Ctx, "me", id, again)
		require.ErrorIs(t, err, batch.ErrNotTerminal)
		require.Equal(t, 1, b.free(limit), "nor did this one")
		for i := 1; i < 8; i += 2 {
			b.End(id, i, batch.Failed)
			b.drop(id, i)
		}
		require.Equal(t, 5, b.free(limit))
		_, _, err = b.Retry(b.Ctx, "me", id, again)
		require.NoError(t, err)
		require.Equal(t, 1, b.free(limit), "each round counts")
		for i := 1; i < 8; i += 2 {
			b.End(id, i, batch.Failed)
			b.drop(id, i)
		}
		_, _, err = b.Retry(b.Ctx, "me", id, again)
		require.ErrorAs(t, err, &limited, "the rate is used up")
	})
}

func TestARetryThatComesToNothingGivesBackWhatItWasAdmitted(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		limit := batch.Limit{Rate: batch.Rate{N: 20, Per: time.Hour}, Concurrent: 20}
		again := &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Failed}, Limit: &limit}
		plain := &batch.RetrySpec{Outcomes: again.Outcomes}

		// Another retry comes first.
		id := b.failed(8)
		b.Interrupt(fanout.Steps.Retry.Hash(), false, func() {
			_, _, err := b.Retry(b.Ctx, "me", id, plain)
			require.NoError(t, err)
		})
		_, _, err := b.Retry(b.Ctx, "me", id, again)
		require.ErrorIs(t, err, batch.ErrNotTerminal)
		require.Equal(t, 20, b.free(limit))

		// Another retry comes first, and that round has ended with other outcomes.
		id = b.failed(8)
		b.Interrupt(fanout.Steps.Retry.Hash(), false, func() {
			_, _, err := b.Retry(b.Ctx, "me", id, plain)
			require.NoError(t, err)
			for i := 1; i < 8; i += 2 {
				b.End(id, i, map[bool]batch.Outcome{true: batch.Failed, false: batch.Succeeded}[i == 1])
			}
		})
		got, state, err := b.Retry(b.Ctx, "me", id, again)
		require.NoError(t, err)
		require.Equal(t, 1, got.Counts.Pending)
		require.Equal(t, 19, state.Remaining, "it counts what really runs again")
		require.Equal(t, 19, b.free(limit))
		b.End(id, 1, batch.Succeeded)

		// The process dies before the step.
		id = b.failed(8)
		marker := keys.MarkerKey(id, "T")
		require.NoError(t, b.Fanout.PrepareRetry(b.Ctx, "me", id, "T", 4, &limit))
		require.Equal(t, 20-1-4, b.free(limit), "as long as its step can come")
		require.Positive(t, b.DB.Client.PTTL(b.Ctx, marker).Val())
		require.NoError(t, b.DB.Client.Del(b.Ctx, marker).Err()) // its time is over
		_, _, left, err := b.Ask("me", 1, limit, false)
		require.NoError(t, err)
		require.Equal(t, 20-1-4-1, left.Remaining, "the rate runs out with its window")
		require.Equal(t, 19, b.free(batch.Limit{Concurrent: 20}))
		answer, err := b.DB.Run(b.Ctx, fanout.Steps.Retry, append(keys.KeysOf(id).Step(), keys.KeysOf(id).Deliveries, marker), "me", "F", "T", 4, "")
		require.NoError(t, err)
		require.Equal(t, "lost", answer[0], "a step that comes late changes nothing")
	})
}

func TestAThrottledRetryIsHandedOutAsTheLimitAllows(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		limit := batch.Limit{Concurrent: 2}
		id := b.failed(12) // 1, 3, 5, 7, 9, 11
		got, state, err := b.Retry(b.Ctx, "me", id, &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Failed}, Throttle: &limit})
		require.NoError(t, err)
		require.Nil(t, state)
		require.Equal(t, 6, got.Counts.Pending)
		handed := func() (ids []string) {
			for _, task := range b.Pending(batch.Interactive) {
				ids = append(ids, task.ID)
			}
			return ids
		}
		for _, pair := range [][]int{{1, 3}, {5, 7}, {9, 11}} {
			b.release()
			b.release()
			require.Zero(t, b.Sweep().Resumed, "it is no fan-out that broke off")
			want := []string{tasks.TaskID(id, pair[0], "2"), tasks.TaskID(id, pair[1], "2")}
			require.ElementsMatch(t, want, handed())
			if pair[0] < 9 {
				begun, err := b.Ledger.Begin(b.Ctx, id, 11, "w1") // a task of the round before
				require.NoError(t, err)
				require.Equal(t, batch.Waiting, begun.Verdict)
			}
			require.Zero(t, b.free(limit))
			for _, i := range pair {
				b.End(id, i, batch.Succeeded)
				b.drop(id, i)
			}
		}
		require.Equal(t, batch.StatusCompleted, b.Read(id).Status)
		require.Equal(t, batch.Counts{Total: 12, Succeeded: 12}, b.Read(id).Counts)
		require.Equal(t, 2, b.free(limit))
	})
}

// What the fan-out of the first round notes late is not the next round's.
func TestALateNoteOfAFanOutHandsNothingOut(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		limit := batch.Limit{Concurrent: 1}
		id := b.failed(6)
		_, _, err := b.Retry(b.Ctx, "me", id, &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Failed}, Throttle: &limit})
		require.NoError(t, err)
		require.NoError(t, b.Fanout.RecordOffered(b.Ctx, []fanout.Batch{{Flow: tasks.Flow{ID: id}, Total: 6}}))
		b.End(id, 1, batch.Succeeded)
		b.drop(id, 1)
		b.release()
		m, err := b.Batches.Meta(b.Ctx, id)
		require.NoError(t, err)
		require.Equal(t, "4", m["enqueued"])
		left, err := b.throttled(b.Ctx)
		require.NoError(t, err)
		require.Equal(t, []string{id}, left)
	})
}

// A batch that is retried, or whose event is sent again, while the sweeper looks at it as
// it was, stays in the list of open ones.
func TestTheSweeperForgetsNoBatchThatRunsAgain(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		listed := func(list, id string) bool {
			return b.DB.Client.ZScore(b.Ctx, list, id).Err() == nil
		}
		id := b.SubmitFailed(1)
		b.Interrupt(keys.KeysOf(id).Meta+" status", true, func() {
			_, _, err := b.Retry(b.Ctx, "me", id, &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Failed}})
			require.NoError(t, err)
		})
		require.Zero(t, b.Sweep().Closed)
		require.True(t, listed(keys.OpenKey, id), "retried")
		b.End(id, 0, batch.Succeeded)

		redelivered := b.SubmitFailed(1)
		b.Interrupt(keys.KeysOf(redelivered).Meta+" status", true, func() {
			require.NoError(t, b.Redeliver(b.Ctx, "me", redelivered))
		})
		b.Sweep()
		require.True(t, listed(keys.OpenKey, redelivered), "redelivered")

		throttled := b.throttledBatch(1, batch.Limit{Concurrent: 1})
		b.End(throttled, 0, batch.Failed)
		b.Interrupt("hgetall "+keys.KeysOf(throttled).Meta, true, func() {
			_, _, err := b.Retry(b.Ctx, "me", throttled, &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Failed}, Throttle: &batch.Limit{Rate: batch.Rate{N: 1, Per: time.Hour}}})
			require.NoError(t, err)
		})
		b.release()
		require.True(t, listed(keys.ThrottledKey, throttled), "throttled")

		// In the end they go.
		b.End(throttled, 0, batch.Succeeded)
		for _, list := range []string{keys.OpenKey, keys.ThrottledKey} {
			for _, again := range b.DB.Client.ZRange(b.Ctx, againKey(list), 0, -1).Val() {
				old := redis.Z{Score: float64(time.Now().Add(-2 * index.ListHold).UnixMilli()), Member: again}
				require.NoError(t, b.DB.Client.ZAdd(b.Ctx, againKey(list), old).Err())
			}
		}
		require.Equal(t, 3, b.Sweep().Closed)
		b.release()
		for _, list := range []string{keys.OpenKey, keys.ThrottledKey} {
			require.Zero(t, b.DB.Client.Exists(b.Ctx, list, againKey(list)).Val(), list)
		}
	})
}

// againKey returns the key of the entries of a list that were entered again.
func againKey(list string) string { return "{" + list + "}:again" }
