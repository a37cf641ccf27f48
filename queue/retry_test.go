package queue

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

func TestARetryRunsWhatFailedInItsPlace(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		s := spec()
		s.WebhookURL = "https://example.com/hook"
		id := b.submit(6, s).ID
		for i, o := range []batch.Outcome{batch.Succeeded, batch.Failed, batch.Errored, batch.Unknown, batch.Failed, batch.Succeeded} {
			_, _, err := b.Retry(b.ctx, "me", id, &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Failed}})
			require.ErrorIs(t, err, batch.ErrNotTerminal)
			b.end(id, i, o)
		}
		_, _, err := b.Retry(b.ctx, "you", id, &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Failed}})
		require.ErrorIs(t, err, batch.ErrNotFound)
		_, _, err = b.Retry(b.ctx, "me", id, &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Skipped, batch.Expired}})
		require.ErrorIs(t, err, batch.ErrNothingToRetry)
		stale := b.get(id)
		first, err := b.Webhook(b.ctx, id, 1)
		require.NoError(t, err)
		for i := range 6 { // a worker has done them
			b.dropTask(id, i)
		}

		again, _, err := b.Retry(b.ctx, "me", id, &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Failed, batch.Errored}})
		require.NoError(t, err)
		require.Equal(t, batch.Counts{Total: 6, Pending: 3, Succeeded: 2, Unknown: 1}, again.Counts)
		require.Equal(t, batch.StatusQueued, again.Status)
		require.Zero(t, again.EndedAt)
		require.False(t, again.ExpiresAt.Before(stale.ExpiresAt))
		requireTTLs(b, id, 5, 10*time.Hour)
		require.Len(t, b.pending(batch.Interactive), 3)
		require.Equal(t, batch.Pending, b.results(id, 10)[1].Outcome)
		log, err := b.Deliveries(b.ctx, "me", id)
		require.NoError(t, err)
		require.Equal(t, batch.DeliveryWaiting, log.State)

		begun := b.begin(id, 1)
		require.Equal(t, 2, begun.Attempt)
		require.Equal(t, 1, begun.Earlier, "the policy counts anew")
		require.Equal(t, begun.StartedAt, begun.FirstAt)
		require.Equal(t, batch.Failed, begun.Previous.Outcome)
		require.Equal(t, batch.StatusRunning, b.get(id).Status)
		released, err := b.Release(b.ctx, id, 1, begun.Token, new(batch.Result))
		require.NoError(t, err)
		require.True(t, released)
		begun = b.begin(id, 1)
		require.Equal(t, 3, begun.Attempt)
		require.Equal(t, 1, begun.Earlier)
		r := result(1, batch.Succeeded)
		r.History = begun.Previous.Past()
		require.NoError(t, b.Finish(b.ctx, id, 1, begun.Token, r))
		b.end(id, 2, batch.Failed)
		b.end(id, 4, batch.Succeeded)
		done := b.get(id)
		require.Equal(t, batch.StatusCompleted, done.Status)
		require.Equal(t, batch.Counts{Total: 6, Succeeded: 4, Failed: 1, Unknown: 1}, done.Counts)
		all := b.results(id, 10)
		require.Equal(t, batch.Failed, all[1].History[0].Outcome)
		require.Equal(t, "a-4", all[4].ID)
		second, err := b.Webhook(b.ctx, id, 3)
		require.NoError(t, err)
		require.NotEqual(t, first.MessageID, second.MessageID, "another end is another message")
		begunOnce, err := b.Begin(b.ctx, id, 0, "w1")
		require.NoError(t, err)
		require.Equal(t, batch.Ended, begunOnce.Verdict)
	})
}

// Whoever retries a batch in the moment in which it ended comes before its tasks
// are off asynq's books.
func TestARetryDoesNotWaitForTheTasksOfTheRoundBefore(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.submit(2, spec()).ID
		b.end(id, 0, batch.Failed)
		b.end(id, 1, batch.Succeeded)
		b.create()
		require.Len(t, b.pending(batch.Interactive), 2)
		_, _, err := b.Retry(b.ctx, "me", id, &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Failed}})
		require.NoError(t, err)
		b.dropTask(id, 0) // now they are
		b.dropTask(id, 1)
		left := b.pending(batch.Interactive)
		require.Len(t, left, 1)
		require.Equal(t, taskID(id, 0, "2"), left[0].ID)
	})
}
