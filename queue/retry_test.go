package queue_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/tasks"
)

func TestARetryRunsWhatFailedInItsPlace(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		s := queuetest.Spec()
		s.WebhookURL = "https://example.com/hook"
		id := b.Submit(6, s).ID
		for i, o := range []batch.Outcome{batch.Succeeded, batch.Failed, batch.Errored, batch.Unknown, batch.Failed, batch.Succeeded} {
			_, _, err := b.Retry(b.Ctx, "me", id, &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Failed}})
			require.ErrorIs(t, err, batch.ErrNotTerminal)
			b.End(id, i, o)
		}
		_, _, err := b.Retry(b.Ctx, "you", id, &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Failed}})
		require.ErrorIs(t, err, batch.ErrNotFound)
		_, _, err = b.Retry(b.Ctx, "me", id, &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Skipped, batch.Expired}})
		require.ErrorIs(t, err, batch.ErrNothingToRetry)
		stale := b.Read(id)
		first, err := b.Batches.Deliveries.Notice(b.Ctx, id, 1)
		require.NoError(t, err)
		for i := range 6 { // a worker has done them
			b.DropTask(id, i)
		}

		again, _, err := b.Retry(b.Ctx, "me", id, &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Failed, batch.Errored}})
		require.NoError(t, err)
		require.Equal(t, batch.Counts{Total: 6, Pending: 3, Succeeded: 2, Unknown: 1}, again.Counts)
		require.Equal(t, batch.StatusQueued, again.Status)
		require.Zero(t, again.EndedAt)
		require.False(t, again.ExpiresAt.Before(stale.ExpiresAt))
		b.RequireTTLs(id, 5, 10*time.Hour)
		require.Len(t, b.Pending(batch.Interactive), 3)
		require.Equal(t, batch.Pending, b.AllResults(id, 10)[1].Outcome)
		log, err := b.Deliveries(b.Ctx, "me", id)
		require.NoError(t, err)
		require.Equal(t, batch.DeliveryWaiting, log.State)

		begun := b.Begin(id, 1)
		require.Equal(t, 2, begun.Attempt)
		require.Equal(t, 1, begun.Earlier, "the policy counts anew")
		require.Equal(t, begun.StartedAt, begun.FirstAt)
		require.Equal(t, batch.Failed, begun.Previous.Outcome)
		require.Equal(t, batch.StatusRunning, b.Read(id).Status)
		released, err := b.Ledger.Release(b.Ctx, id, 1, begun.Token, new(batch.Result))
		require.NoError(t, err)
		require.True(t, released)
		begun = b.Begin(id, 1)
		require.Equal(t, 3, begun.Attempt)
		require.Equal(t, 1, begun.Earlier)
		r := queuetest.Result(1, batch.Succeeded)
		r.History = begun.Previous.Past()
		require.NoError(t, b.Ledger.Finish(b.Ctx, id, 1, begun.Token, r))
		b.End(id, 2, batch.Failed)
		b.End(id, 4, batch.Succeeded)
		done := b.Read(id)
		require.Equal(t, batch.StatusCompleted, done.Status)
		require.Equal(t, batch.Counts{Total: 6, Succeeded: 4, Failed: 1, Unknown: 1}, done.Counts)
		all := b.AllResults(id, 10)
		require.Equal(t, batch.Failed, all[1].History[0].Outcome)
		require.Equal(t, "a-4", all[4].ID)
		second, err := b.Batches.Deliveries.Notice(b.Ctx, id, 3)
		require.NoError(t, err)
		require.NotEqual(t, first.MessageID, second.MessageID, "another end is another message")
		begunOnce, err := b.Ledger.Begin(b.Ctx, id, 0, "w1")
		require.NoError(t, err)
		require.Equal(t, batch.Ended, begunOnce.Verdict)
	})
}

// The status of a batch tells how its last round ended.
func TestABatchIsExpiredOnlyIfActionsOfItsLastRoundAre(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.Submit(3, queuetest.Spec()).ID
		retry := func(o batch.Outcome) {
			t.Helper()
			_, _, err := b.Retry(b.Ctx, "me", id, &batch.RetrySpec{Outcomes: []batch.Outcome{o}})
			require.NoError(t, err)
		}
		expire := func() { expireNow(t, b, id) }
		b.End(id, 0, batch.Failed)
		expire()
		require.Equal(t, batch.StatusExpired, b.Read(id).Status)
		require.Equal(t, batch.Counts{Total: 3, Failed: 1, Expired: 2}, b.Read(id).Counts)

		retry(batch.Failed) // the others stay expired
		begun := b.Begin(id, 0)
		expire() // while no action waits
		require.NoError(t, b.Ledger.Finish(b.Ctx, id, 0, begun.Token, queuetest.Result(0, batch.Failed)))
		require.Equal(t, batch.StatusCompleted, b.Read(id).Status)
		require.Equal(t, 2, b.Read(id).Counts.Expired)

		retry(batch.Failed)
		expire()
		require.Equal(t, batch.StatusExpired, b.Read(id).Status)
		require.Equal(t, 3, b.Read(id).Counts.Expired)

		retry(batch.Expired)
		begun = b.Begin(id, 0)
		expire() // fewer than in the round before, but in this round
		require.NoError(t, b.Ledger.Finish(b.Ctx, id, 0, begun.Token, queuetest.Result(0, batch.Succeeded)))
		require.Equal(t, batch.StatusExpired, b.Read(id).Status)
		require.Equal(t, 2, b.Read(id).Counts.Expired)
	})
}

// An action whose attempt was overdue is retried, ends unsent, and is retried again: its last attempt stays readable.
func TestAnOverdueAttemptStaysReadableInLaterRounds(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		for _, unsent := range []batch.Outcome{batch.Cancelled, batch.Expired} {
			id := b.Submit(1, queuetest.Spec()).ID
			retry := func(o batch.Outcome) {
				t.Helper()
				_, _, err := b.Retry(b.Ctx, "me", id, &batch.RetrySpec{Outcomes: []batch.Outcome{o}})
				require.NoError(t, err)
			}
			end := func() {
				t.Helper()
				if unsent == batch.Cancelled {
					_, err := b.Cancel(b.Ctx, "me", id)
					require.NoError(t, err)
					return
				}
				expireNow(t, b, id)
			}
			b.Begin(id, 0)
			require.NoError(t, b.Batches.EndOverdue(b.Ctx, id))
			for range 2 {
				retry(batch.Unknown)
				end()
				require.Equal(t, unsent, b.AllResults(id, 1)[0].Outcome)
				retry(unsent)
				begun := b.Begin(id, 0)
				require.Equal(t, batch.Unknown, begun.Previous.Outcome)
				require.NoError(t, b.Batches.EndOverdue(b.Ctx, id))
				require.Equal(t, batch.Unknown, b.AllResults(id, 1)[0].Outcome)
			}
		}
	})
}

// expireNow lets the deadline of a batch pass.
func expireNow(t *testing.T, b *bundle, id string) {
	t.Helper()
	for _, field := range []string{"created", "retried", "expires"} { // the next round gets as much time
		if meta := keys.KeysOf(id).Meta; b.DB.Client.HExists(b.Ctx, meta, field).Val() {
			require.NoError(t, b.DB.Client.HIncrBy(b.Ctx, meta, field, -(2*time.Hour).Milliseconds()).Err())
		}
	}
	require.NoError(t, b.Batches.Expire(b.Ctx, id))
}

// Whoever retries a batch in the moment in which it ended comes before its tasks
// are off asynq's books.
func TestARetryDoesNotWaitForTheTasksOfTheRoundBefore(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.Submit(2, queuetest.Spec()).ID
		b.End(id, 0, batch.Failed)
		b.End(id, 1, batch.Succeeded)
		b.CreateTasks()
		require.Len(t, b.Pending(batch.Interactive), 2)
		_, _, err := b.Retry(b.Ctx, "me", id, &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Failed}})
		require.NoError(t, err)
		b.DropTask(id, 0) // now they are
		b.DropTask(id, 1)
		left := b.Pending(batch.Interactive)
		require.Len(t, left, 1)
		require.Equal(t, tasks.TaskID(id, 0, "2"), left[0].ID)
	})
}
