package batches_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/batches"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
)

// retryAndEnd retries a batch, and ends all of it.
func retryAndEnd(b *queuetest.Bundle, id string) {
	b.T.Helper()
	got, _, err := b.Retry(b.Ctx, "me", id, &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Failed}})
	require.NoError(b.T, err)
	for i := range got.Counts.Total {
		b.End(id, i, batch.Succeeded)
	}
}

// outboxMark returns the mark of a delivery that is due.
func outboxMark(b *queuetest.Bundle, id string) string {
	return b.DB.Client.HGet(b.Ctx, keys.KeysOf(id).Meta, "outbox").Val()
}

func TestEveryEndIsAnEventOfItsOwn(t *testing.T) {
	queuetest.OnEveryStore(t, func(t *testing.T, b *queuetest.Bundle) {
		id := b.SubmitFailed(2)
		require.Equal(t, []string{queuetest.WebhookTaskID(id, 1)}, b.Webhooks())
		first, err := b.Batches.Deliveries.Notice(b.Ctx, id, 1)
		require.NoError(t, err)
		require.Equal(t, batch.Counts{Total: 2, Failed: 2}, first.Batch.Counts)

		got, _, err := b.Retry(b.Ctx, "me", id, &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Failed}})
		require.NoError(t, err)
		require.Empty(t, b.Webhooks(), "the one before is withdrawn")
		for delivery := range 4 { // whatever its task would be called
			_, err = b.Batches.Deliveries.Notice(b.Ctx, id, delivery)
			require.ErrorIs(t, err, batch.ErrStale)
			require.ErrorIs(t, b.Batches.Deliveries.Record(b.Ctx, id, delivery, batch.Delivery{Round: 1}, batch.DeliveryPending, time.Now()), batch.ErrStale)
		}
		for i := range got.Counts.Total {
			b.End(id, i, batch.Succeeded)
		}
		require.Equal(t, []string{queuetest.WebhookTaskID(id, 3)}, b.Webhooks())
		second, err := b.Batches.Deliveries.Notice(b.Ctx, id, 3)
		require.NoError(t, err)
		require.Equal(t, batch.Counts{Total: 2, Succeeded: 2}, second.Batch.Counts)
		require.Equal(t, 2, second.Round)
		require.Equal(t, first.MessageID+"_2", second.MessageID)

		require.NoError(t, b.Batches.Deliveries.Record(b.Ctx, id, 3, batch.Delivery{Round: 2}, batch.DeliveryDelivered, time.Time{}))
		_, err = b.Batches.Deliveries.Notice(b.Ctx, id, 3)
		require.ErrorIs(t, err, batch.ErrStale, "a second task sends nothing")
		require.ErrorIs(t, b.Batches.Deliveries.Record(b.Ctx, id, 3, batch.Delivery{Round: 2, Status: 500}, batch.DeliveryPending, time.Now()), batch.ErrStale)
		log, err := b.Deliveries(b.Ctx, "me", id)
		require.NoError(t, err)
		require.Equal(t, batch.DeliveryDelivered, log.State)
		require.Equal(t, []batch.PastDelivery{{Round: 1, MessageID: first.MessageID, State: batch.DeliveryWithdrawn}}, log.Earlier)

		require.NoError(t, b.Redeliver(b.Ctx, "me", id))
		require.Contains(t, b.Webhooks(), queuetest.WebhookTaskID(id, 4))
		again, err := b.Batches.Deliveries.Notice(b.Ctx, id, 4)
		require.NoError(t, err)
		require.Equal(t, second.MessageID, again.MessageID)
		require.Equal(t, second.Results, again.Results)
	})
}

// The outbox mark is written with the end, and goes when the task exists: whatever
// dies in between, the sweeper finds it.
func TestAnEventIsEnqueuedWhateverDiesOnTheWay(t *testing.T) {
	queuetest.OnEveryStore(t, func(t *testing.T, b *queuetest.Bundle) {
		for name, step := range map[string]*rdb.Step{
			"before the task": batches.Steps.Due, "before the mark is cleared": batches.Steps.Enqueued,
		} {
			dead := &queuetest.Mute{Text: step.Hash()}
			b.DB.Client.AddHook(dead)
			dead.On.Store(true)
			id := b.SubmitFailed(1)
			dead.On.Store(false)
			require.NotEmpty(t, outboxMark(b, id), "%s: the mark stands", name)
			require.Equal(t, 1, b.Sweep().Notified, name)
			require.Empty(t, outboxMark(b, id), name)
			require.Equal(t, []string{queuetest.WebhookTaskID(id, 1)}, b.Webhooks(), name)
			require.Zero(t, b.Sweep().Notified, name)
			require.NoError(t, b.Delete(b.Ctx, "me", id))
			require.Empty(t, b.Webhooks(), "what is erased has no webhook left")
		}
	})
}

// A mark that was left behind by a process that died after it had enqueued the task
// is gone with the first attempt, and what is enqueued all the same sends nothing.
func TestAMarkThatWasLeftBehindSendsNothingTwice(t *testing.T) {
	queuetest.OnEveryStore(t, func(t *testing.T, b *queuetest.Bundle) {
		id := b.SubmitFailed(1)
		require.NoError(t, b.DB.Client.HSet(b.Ctx, keys.KeysOf(id).Meta, "outbox", "1").Err())
		require.NoError(t, b.Inspector().DeleteTask(tasks.WebhookQueue, queuetest.WebhookTaskID(id, 1)))
		require.NoError(t, b.Batches.Deliveries.Record(b.Ctx, id, 1, batch.Delivery{Round: 1, Status: 200}, batch.DeliveryDelivered, time.Time{}))
		require.Empty(t, outboxMark(b, id))
		require.NoError(t, b.Batches.Outbox.Enqueue(b.Ctx, id, 1))
		require.Empty(t, b.Webhooks())
		log, err := b.Deliveries(b.Ctx, "me", id)
		require.NoError(t, err)
		require.Equal(t, batch.DeliveryDelivered, log.State)
	})
}

func TestALateEnqueueingChangesNothingOfTheNextEvent(t *testing.T) {
	queuetest.OnEveryStore(t, func(t *testing.T, b *queuetest.Bundle) {
		// The batch is retried, and ends again, while its first end is being enqueued.
		for name, script := range map[string]*rdb.Step{"before": batches.Steps.Due, "after": batches.Steps.Enqueued} {
			s := queuetest.Spec()
			s.WebhookURL = "https://example.com/hook"
			id := b.Submit(1, s).ID
			b.Interrupt(script.Hash(), false, func() {
				retryAndEnd(b, id)
				require.NoError(t, b.DB.Client.HSet(b.Ctx, keys.KeysOf(id).Meta, "outbox", "3").Err())
			})
			b.End(id, 0, batch.Failed)
			require.Equal(t, "3", outboxMark(b, id), "%s: the mark is not the late one's to clear", name)
			_, err := b.Batches.Deliveries.Notice(b.Ctx, id, 1)
			require.ErrorIs(t, err, batch.ErrStale)
			require.NoError(t, b.Delete(b.Ctx, "me", id))
		}
	})
}

func TestAnEventIsReadWholeOrNotAtAll(t *testing.T) {
	queuetest.OnEveryStore(t, func(t *testing.T, b *queuetest.Bundle) {
		s := queuetest.Spec()
		s.WebhookURL = "https://example.com/hook"
		id := b.Submit(3, s).ID
		for i := range 3 {
			begun, err := b.Ledger.Begin(b.Ctx, id, i, "w1")
			require.NoError(t, err)
			r := queuetest.Result(i, batch.Failed)
			r.Body = []byte(strings.Repeat("x", batches.FirstBytes/2)) // so that they are read one after the other
			require.NoError(t, b.Ledger.Finish(b.Ctx, id, i, begun.Token, r))
		}
		n, err := b.Batches.Deliveries.Notice(b.Ctx, id, 1)
		require.NoError(t, err)
		require.Len(t, n.Results, 3)
		b.Interrupt(batches.Steps.Snapshot.Hash(), true, func() { retryAndEnd(b, id) })
		_, err = b.Batches.Deliveries.Notice(b.Ctx, id, 1)
		require.ErrorIs(t, err, batch.ErrStale, "it is of two rounds")
	})
}

func TestADeliveryThatIsRecordedAgainIsLoggedOnce(t *testing.T) {
	t.Parallel()
	b := queuetest.Open(t, rdb.Embedded) // it has a key
	id := b.SubmitFailed(1)
	record := func(status int, state batch.DeliveryState, at time.Time) error {
		d := batch.Delivery{Round: 1, Status: status, At: time.UnixMilli(at.UnixMilli())}
		next := time.Time{}
		if state == batch.DeliveryPending {
			next = at.Add(time.Minute)
		}
		return b.Batches.Deliveries.Record(b.Ctx, id, 1, d, state, next)
	}
	at := time.Now()
	for range 3 {
		require.NoError(t, record(500, batch.DeliveryPending, at))
	}
	require.NoError(t, record(500, batch.DeliveryPending, at.Add(time.Second)))
	for range 3 {
		require.NoError(t, record(200, batch.DeliveryDelivered, at.Add(2*time.Second)))
	}
	require.ErrorIs(t, record(500, batch.DeliveryPending, at.Add(3*time.Second)), batch.ErrStale)
	log, err := b.Deliveries(b.Ctx, "me", id)
	require.NoError(t, err)
	require.Len(t, log.Attempts, 4)
	require.Equal(t, batch.DeliveryDelivered, log.State)
}
