package batches_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/queuetest"
)

func TestWhatEndsBetweenTwoAttemptsKeepsTheLastOne(t *testing.T) {
	queuetest.OnEveryStore(t, func(t *testing.T, b *queuetest.Bundle) {
		for outcome, end := range map[batch.Outcome]func(id string){
			batch.Cancelled: func(id string) {
				_, err := b.Cancel(b.Ctx, "me", id)
				require.NoError(t, err)
			},
			batch.Expired: func(id string) {
				b.PassDeadline(id)
				require.NoError(t, b.Batches.Expire(b.Ctx, id))
			},
		} {
			id := b.Submit(6, queuetest.Spec()).ID
			b.PutBack(id, 0, 429)
			refused := b.Begin(id, 1)
			_, err := b.Ledger.Release(b.Ctx, id, 1, refused.Token, queuetest.Attempted(refused, 0, &batch.Failure{Code: batch.CodeRefused, Message: "refused by 10.0.0.1"}))
			require.NoError(t, err)
			unsent := b.Begin(id, 2)
			_, err = b.Ledger.GiveBack(b.Ctx, id, 2, unsent.Token)
			require.NoError(t, err)
			b.PutBack(id, 4, 429)
			b.PutBack(id, 4, 503)
			flying := b.Begin(id, 5)
			end(id)
			released, err := b.Ledger.Release(b.Ctx, id, 5, flying.Token, queuetest.Attempted(flying, 502, nil))
			require.NoError(t, err)
			require.False(t, released)
			require.True(t, b.Read(id).Status.Terminal())
			b.RequireTTLs(id, 5, time.Hour)

			for _, all := range [][]batch.Result{b.AllResults(id, 10), b.AllResults(id, 10, outcome)} {
				for i, want := range []struct {
					status, attempts int
					why              string
				}{
					{429, 1, "number 1, was answered with status 429"},
					{0, 1, "number 1, ended with refused: refused by 10.0.0.1"},
					{0, 0, "before this action was sent"},
					{0, 0, "before this action was sent"},
					{503, 2, "number 2, was answered with status 503"},
					{502, 1, "number 1, was answered with status 502"},
				} {
					r := all[i]
					require.Equal(t, outcome, r.Outcome)
					require.Equal(t, "a-"+strconv.Itoa(i), r.ID)
					require.Equal(t, want.status, r.Status, i)
					require.Equal(t, want.attempts, r.Attempts, i)
					require.Equal(t, want.attempts > 0, !r.StartedAt.IsZero())
					require.Contains(t, r.Error.Message, want.why)
					require.Equal(t, outcome.String(), string(r.Error.Code))
				}
			}

			_, _, err = b.Retry(b.Ctx, "me", id, &batch.RetrySpec{Outcomes: []batch.Outcome{outcome}})
			require.NoError(t, err)
			again := b.Begin(id, 0)
			require.Equal(t, 2, again.Attempt)
			require.Equal(t, 1, again.Earlier)
			past := again.Previous.Past()
			require.Len(t, past, 1)
			require.Equal(t, outcome, past[0].Outcome)
			require.Equal(t, 429, past[0].Status)
			require.Equal(t, 1, past[0].Attempts)
			_, err = b.Ledger.Release(b.Ctx, id, 0, again.Token, queuetest.Attempted(again, 500, nil))
			require.NoError(t, err)
			require.Equal(t, past, b.Begin(id, 0).Previous.Past(), "an attempt of this round adds nothing to the history")
			require.Nil(t, b.Begin(id, 3).Previous, "nothing was sent in the round before")
			_, err = b.Cancel(b.Ctx, "me", id)
			require.NoError(t, err)
			r := b.AllResults(id, 10)[4]
			require.Equal(t, batch.Cancelled, r.Outcome)
			require.Zero(t, r.Status, "in this round it was not sent")
			require.Equal(t, 503, r.History[0].Status)
			require.Equal(t, 2, r.History[0].Attempts)
			require.Equal(t, outcome, r.History[0].Outcome)
		}
	})
}

func TestARetriedActionThatEndsUnsentKeepsItsHistory(t *testing.T) {
	queuetest.OnEveryStore(t, func(t *testing.T, b *queuetest.Bundle) {
		id := b.Submit(2, queuetest.Spec()).ID
		b.PutBack(id, 0, 429)
		begun := b.Begin(id, 0)
		failed := queuetest.Result(0, batch.Failed)
		failed.Attempts = begun.Attempt
		require.NoError(t, b.Ledger.Finish(b.Ctx, id, 0, begun.Token, failed))
		b.End(id, 1, batch.Succeeded)
		_, _, err := b.Retry(b.Ctx, "me", id, &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Failed}})
		require.NoError(t, err)
		_, err = b.Cancel(b.Ctx, "me", id)
		require.NoError(t, err)
		r := b.AllResults(id, 10)[0]
		require.Equal(t, batch.Cancelled, r.Outcome)
		require.Zero(t, r.Status)
		require.Equal(t, 2, r.Attempts)
		require.Len(t, r.History, 1)
		require.Equal(t, batch.Failed, r.History[0].Outcome)
		require.Equal(t, 2, r.History[0].Attempts)
		_, _, err = b.Retry(b.Ctx, "me", id, &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Cancelled}})
		require.NoError(t, err)
		previous := b.Begin(id, 0).Previous
		require.Equal(t, batch.Failed, previous.Outcome, "it was not sent in the round between")
	})
}

func TestWhatIsOverdueSaysWhenItWasSent(t *testing.T) {
	queuetest.OnEveryStore(t, func(t *testing.T, b *queuetest.Bundle) {
		id := b.Submit(3, queuetest.Spec()).ID
		b.PutBack(id, 0, 429)
		begun := b.Begin(id, 0)
		b.End(id, 1, batch.Succeeded)
		b.End(id, 2, batch.Failed)
		require.NoError(t, b.Batches.EndOverdue(b.Ctx, id))
		require.Equal(t, batch.Counts{Total: 3, Succeeded: 1, Failed: 1, Unknown: 1}, b.Read(id).Counts)
		for _, all := range [][]batch.Result{b.AllResults(id, 10), b.AllResults(id, 10, batch.Unknown)} {
			r := all[0]
			require.Equal(t, "a-0", r.ID)
			require.Equal(t, batch.Unknown, r.Outcome)
			require.Equal(t, begun.StartedAt, r.StartedAt)
			require.Equal(t, 2, r.Attempts)
			require.Equal(t, batch.CodeInterrupted, r.Error.Code)
		}
		require.ErrorIs(t, b.Ledger.Finish(b.Ctx, id, 0, begun.Token, queuetest.Result(0, batch.Succeeded)), batch.ErrStale)

		_, _, err := b.Retry(b.Ctx, "me", id, &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Unknown, batch.Failed}})
		require.NoError(t, err)
		past := b.Begin(id, 0).Previous.Past()
		require.Len(t, past, 1)
		require.Equal(t, batch.Unknown, past[0].Outcome)
		require.Equal(t, 2, past[0].Attempts)
		again := b.Begin(id, 2)
		require.NoError(t, b.Batches.EndOverdue(b.Ctx, id))
		r := b.AllResults(id, 10)[2]
		require.Equal(t, batch.Unknown, r.Outcome, "not what it came to before it was retried")
		require.Equal(t, again.StartedAt, r.StartedAt)
		require.Equal(t, batch.Failed, r.History[0].Outcome)
	})
}
