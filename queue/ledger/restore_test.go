package ledger_test

import (
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue/batches"
	"github.com/batchd/batchd/queue/index"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/ledger"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
)

func TestWhatRedisForgotIsRestored(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		spec := queuetest.Spec()
		spec.WebhookURL = "https://example.com/hook"
		id := b.Submit(4, spec).ID
		for i, o := range []batch.Outcome{batch.Succeeded, batch.Failed, batch.Unknown} {
			b.End(id, i, o)
		}
		released := b.Begin(id, 3)
		_, err := b.Ledger.Release(b.Ctx, id, 3, released.Token, queuetest.Result(3, batch.Failed))
		require.NoError(t, err)
		restored, err := b.Ledger.Restorer.Restore(b.Ctx, b.Ledger.Remembered())
		require.NoError(t, err)
		require.Zero(t, restored, "nothing was forgotten")

		waiting := b.LedgerEntry(id, 3)
		b.Rewind(id, 0, b.LedgerEntry(id, 0)) // its end is forgotten
		b.Rewind(id, 1, "")                   // its begin, too
		k := keys.KeysOf(id)
		require.NoError(t, b.DB.Client.SetRange(b.Ctx, k.State, 3, "r").Err())
		require.NoError(t, b.DB.Client.HDel(b.Ctx, k.Groups, "o3").Err())
		b.DropTask(id, 3)
		require.NoError(t, b.DB.Client.ZRem(b.Ctx, keys.OpenKey, id).Err())
		restored, err = b.Ledger.Restorer.Restore(b.Ctx, b.Ledger.Remembered())
		require.NoError(t, err)
		require.Equal(t, 3, restored)
		require.Equal(t, batch.Counts{Total: 4, Pending: 1, Succeeded: 1, Failed: 1, Unknown: 1}, b.Read(id).Counts)
		require.Equal(t, waiting, b.LedgerEntry(id, 3))
		require.NoError(t, b.DB.Client.ZScore(b.Ctx, keys.OpenKey, id).Err(), "the sweeper looks after it again")
		var brought bool
		for _, task := range b.Pending(batch.Interactive) {
			brought = brought || task.ID == tasks.TaskID(id, 3, string(released.Token))
		}
		require.True(t, brought, "what waits for its next attempt has a task")
		restored, err = b.Ledger.Restorer.Restore(b.Ctx, b.Ledger.Remembered())
		require.NoError(t, err)
		require.Zero(t, restored, "once")

		again := b.Begin(id, 3)
		require.Equal(t, 2, again.Attempt)
		require.NoError(t, b.Ledger.Finish(b.Ctx, id, 3, again.Token, queuetest.Result(3, batch.Succeeded)))
		require.Equal(t, batch.StatusCompleted, b.Read(id).Status)
		b.Rewind(id, 3, b.LedgerEntry(id, 3))
		restored, err = b.Ledger.Restorer.Restore(b.Ctx, b.Ledger.Remembered())
		require.NoError(t, err)
		require.Equal(t, 1, restored)
		got := b.Read(id)
		require.Equal(t, batch.StatusCompleted, got.Status, "what was forgotten was the end of the batch")
		for i, r := range b.AllResults(id, 10) {
			if r.Outcome != batch.Unknown {
				require.Equal(t, "answer "+strconv.Itoa(i), string(r.Body))
			}
		}
		tasks, err := b.Inspector().ListPendingTasks(tasks.WebhookQueue)
		require.NoError(t, err)
		require.NotEmpty(t, tasks)
	})
}

// A restore may break off after its step. The batch has its entry by then, and a repetition
// completes the rest.
func TestARestoreThatBreaksOffIsCompleted(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		spec := queuetest.Spec()
		spec.WebhookURL = "https://example.com/hook"
		ends, waits := b.Submit(1, spec).ID, b.Submit(1, spec).ID
		b.End(ends, 0, batch.Succeeded)
		begun := b.Begin(waits, 0)
		_, err := b.Ledger.Release(b.Ctx, waits, 0, begun.Token, queuetest.Result(0, batch.Failed))
		require.NoError(t, err)
		_, err = b.Ledger.Restorer.Restore(b.Ctx, b.Ledger.Remembered()) // the script is loaded
		require.NoError(t, err)

		b.Rewind(ends, 0, b.LedgerEntry(ends, 0))
		require.NoError(t, b.DB.Client.HDel(b.Ctx, keys.KeysOf(ends).Meta, "outbox", "sending", "delivery").Err())
		require.NoError(t, b.DB.Client.SetRange(b.Ctx, keys.KeysOf(waits).State, 0, "r").Err())
		b.DropTask(waits, 0)
		b.DropTask(ends, 0)
		_ = b.Inspector().DeleteTask(tasks.WebhookQueue, queuetest.WebhookTaskID(ends, 1))
		for _, id := range []string{ends, waits} {
			require.NoError(t, b.DB.Client.ZRem(b.Ctx, keys.OpenKey, id).Err())
			lost := &queuetest.LostReplies{Left: 1, Only: ledger.Steps.Restore.Hash() + " 6 " + keys.KeysOf(id).Meta}
			b.DB.Client.AddHook(lost)
			_, err = b.Ledger.Restorer.Restore(b.Ctx, b.attemptsOf(id))
			require.Error(t, err)
			require.Zero(t, lost.Left)
			require.NoError(t, b.DB.Client.ZScore(b.Ctx, keys.OpenKey, id).Err(), "the sweeper looks after it")
		}
		require.Empty(t, b.Webhooks())
		require.Empty(t, b.Pending(batch.Interactive))
		restored, err := b.Ledger.Restorer.Restore(b.Ctx, b.Ledger.Remembered())
		require.NoError(t, err)
		require.Zero(t, restored)
		require.Equal(t, []string{queuetest.WebhookTaskID(ends, 1)}, b.Webhooks())
		require.Len(t, b.Pending(batch.Interactive), 1)
		require.Equal(t, 2, b.Begin(waits, 0).Attempt)
	})
}

// Redis restarts without its last writes and without the steps. Other processes wait only for settleFor,
// so the number of exchanges must not depend on the number of batches.
func TestTheAttemptsOfManyBatchesAreRestoredInFewExchanges(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		const n = 60
		ids := make([]string, n)
		for i := range ids {
			id := b.Submit(1, queuetest.Spec()).ID
			ids[i] = id
			if i%2 == 0 {
				b.End(id, 0, batch.Succeeded)
				b.Rewind(id, 0, "")
				continue
			}
			begun := b.Begin(id, 0)
			_, err := b.Ledger.Release(b.Ctx, id, 0, begun.Token, queuetest.Result(0, batch.Failed))
			require.NoError(t, err)
			require.NoError(t, b.DB.Client.SetRange(b.Ctx, keys.KeysOf(id).State, 0, "r").Err())
			b.DropTask(id, 0)
		}
		before := len(b.Pending(batch.Interactive))
		require.NoError(t, b.DB.Client.ScriptFlush(b.Ctx).Err())
		sent := &queuetest.Exchanges{}
		b.DB.Client.AddHook(sent)
		restored, err := b.Ledger.Restorer.Restore(b.Ctx, b.Ledger.Remembered())
		require.NoError(t, err)
		require.Equal(t, n, restored)
		require.Less(t, len(sent.With("")), n/2, "on a cluster each server learns each step")
		require.Len(t, b.Pending(batch.Interactive), before+n/2)
		for i, id := range ids {
			require.Equal(t, i%2, b.Read(id).Counts.Pending)
		}

		restoresBefore, reopensBefore := len(sent.With(ledger.Steps.Restore.Hash())), len(sent.With(index.Steps.Reopen.Hash()))
		restored, err = b.Ledger.Restorer.Restore(b.Ctx, b.Ledger.Remembered())
		require.NoError(t, err)
		require.Zero(t, restored)
		require.Len(t, sent.With(ledger.Steps.Restore.Hash()), restoresBefore+1)
		require.Len(t, sent.With(index.Steps.Reopen.Hash()), reopensBefore+1)
	})
}

// An error concerns only its batch: the others are restored.
func TestABatchThatCannotBeRestoredDoesNotHoldUpOthers(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		broken, whole := b.Submit(1, queuetest.Spec()).ID, b.Submit(1, queuetest.Spec()).ID
		for _, id := range []string{broken, whole} {
			b.End(id, 0, batch.Succeeded)
			b.Rewind(id, 0, "")
		}
		k := keys.KeysOf(broken)
		require.NoError(t, b.DB.Client.Del(b.Ctx, k.State).Err())
		require.NoError(t, b.DB.Client.HSet(b.Ctx, k.State, "not", "states").Err())
		restored, err := b.Ledger.Restorer.Restore(b.Ctx, b.Ledger.Remembered())
		require.ErrorContains(t, err, broken)
		require.NotContains(t, err.Error(), whole)
		require.Equal(t, 1, restored)
		require.Equal(t, 1, b.Read(whole).Counts.Succeeded)
	})
}

// attemptsOf returns what the store remembers of a batch.
func (b *bundle) attemptsOf(id string) []*ledger.Attempt {
	return slices.DeleteFunc(b.Ledger.Remembered(), func(a *ledger.Attempt) bool { return a.BatchID() != id })
}

// The clock of the server that is restored may be ahead of the one before.
func TestAnAttemptIsRestoredInItsRoundWhateverTheClocksSay(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.Submit(1, queuetest.Spec()).ID
		b.End(id, 0, batch.Failed)
		_, _, err := b.Retry(b.Ctx, "me", id, &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Failed}})
		require.NoError(t, err)
		ledger := b.LedgerEntry(id, 0)
		b.End(id, 0, batch.Succeeded)
		k := keys.KeysOf(id)
		b.Rewind(id, 0, "")
		later := time.Now().Add(time.Minute)
		require.NoError(t, b.DB.Client.HSet(b.Ctx, k.Ledger, "0", ledger).Err())
		require.NoError(t, b.DB.Client.HSet(b.Ctx, k.Meta, "retried", rdb.MillisOf(later)).Err())
		restored, err := b.Ledger.Restorer.Restore(b.Ctx, b.Ledger.Remembered())
		require.NoError(t, err)
		require.Equal(t, 1, restored)
		require.Equal(t, 1, b.Read(id).Counts.Succeeded)

		b.Rewind(id, 0, "") // in another round it stays as it is, also with a clock that is behind
		require.NoError(t, b.DB.Client.HSet(b.Ctx, k.Ledger, "0", ledger).Err())
		require.NoError(t, b.DB.Client.HSet(b.Ctx, k.Meta, "retried", 1, "round", 3).Err())
		restored, err = b.Ledger.Restorer.Restore(b.Ctx, b.Ledger.Remembered())
		require.NoError(t, err)
		require.Zero(t, restored)
	})
}

// shiftBegin has an action's attempt be begun by a master whose clock differed by so much.
func (b *bundle) shiftBegin(id string, index int, by time.Duration) {
	b.T.Helper()
	e := batches.ParseEntry(b.LedgerEntry(id, index))
	e.First, e.Started = e.First.Add(by), e.Started.Add(by)
	require.NoError(b.T, b.DB.Client.HSet(b.Ctx, keys.KeysOf(id).Ledger, strconv.Itoa(index), e.String()).Err())
}

// shiftRetry has a batch be retried on a master whose clock differed by so much.
func (b *bundle) shiftRetry(id string, by time.Duration) {
	b.T.Helper()
	k := keys.KeysOf(id)
	for _, field := range []string{"retried", "expires"} {
		require.NoError(b.T, b.DB.Client.HIncrBy(b.Ctx, k.Meta, field, by.Milliseconds()).Err())
	}
}

// After a failover another server's clock counts.
func TestAttemptsAreCountedByRoundWhateverTheClocksSay(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		for _, by := range []time.Duration{-10 * time.Minute, 10 * time.Minute} { // the next master is behind, or ahead
			failed := &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Failed}}
			id := b.Submit(2, queuetest.Spec()).ID
			b.PutBack(id, 0, 503)
			b.End(id, 0, batch.Failed)
			b.End(id, 1, batch.Failed)
			for i := range 2 {
				b.shiftBegin(id, i, -by) // the master was another one
			}
			_, _, err := b.Retry(b.Ctx, "me", id, failed)
			require.NoError(t, err)

			again := b.Begin(id, 0)
			require.Equal(t, 3, again.Attempt)
			require.Equal(t, 2, again.Earlier, "the round before had its own attempts")
			require.Equal(t, again.StartedAt, again.FirstAt)
			_, err = b.Ledger.Release(b.Ctx, id, 0, again.Token, queuetest.Attempted(again, 503, nil))
			require.NoError(t, err)
			unsent := b.Begin(id, 1)
			_, err = b.Ledger.GiveBack(b.Ctx, id, 1, unsent.Token)
			require.NoError(t, err)

			b.shiftRetry(id, -by) // the master changes in the round
			again = b.Begin(id, 0)
			require.Equal(t, 4, again.Attempt)
			require.Equal(t, 2, again.Earlier, "an attempt of this round counts in it")
			now, err := b.DB.Now(b.Ctx)
			require.NoError(t, err)
			require.WithinDuration(t, now, again.StartedAt, time.Minute, "a start is by the clock of the master that is")
			require.NoError(t, b.Ledger.Finish(b.Ctx, id, 0, again.Token, queuetest.Result(0, batch.Failed)))
			first := b.Begin(id, 1)
			require.Equal(t, 2, first.Attempt)
			require.Equal(t, 1, first.Earlier)
			require.Equal(t, first.StartedAt, first.FirstAt, "what was given back was not the first attempt")
			require.NoError(t, b.Ledger.Finish(b.Ctx, id, 1, first.Token, queuetest.Result(1, batch.Failed)))

			_, _, err = b.Retry(b.Ctx, "me", id, failed)
			require.NoError(t, err)
			last := b.Begin(id, 0)
			require.Equal(t, 5, last.Attempt)
			require.Equal(t, 4, last.Earlier)
		}
	})
}

func TestNothingIsRestoredOverWhatCameLater(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		restored := func() int {
			t.Helper()
			n, err := b.Ledger.Restorer.Restore(b.Ctx, b.Ledger.Remembered())
			require.NoError(t, err)
			return n
		}
		// A worker was thought to be dead, and another decided about its action.
		id := b.Submit(3, queuetest.Spec()).ID
		lost := b.Begin(id, 0)
		_, err := b.DB.Client.HSet(b.Ctx, keys.KeysOf(id).Ledger, "0", "other|2|1|2|0|w2").Result()
		require.NoError(t, err)
		require.Zero(t, restored())
		require.ErrorIs(t, b.Ledger.Finish(b.Ctx, id, 0, lost.Token, queuetest.Result(0, batch.Succeeded)), batch.ErrStale)
		require.NoError(t, b.DB.Client.SetRange(b.Ctx, keys.KeysOf(id).State, 0, "p").Err())
		require.Zero(t, restored(), "it waits for an attempt after that of another")

		// The batch was retried.
		id = b.Submit(1, queuetest.Spec()).ID
		b.End(id, 0, batch.Failed)
		_, _, err = b.Retry(b.Ctx, "me", id, &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Failed}})
		require.NoError(t, err)
		require.Zero(t, restored())
		_, err = b.DB.Client.HSet(b.Ctx, keys.KeysOf(id).Ledger, "0", "other|1|1|2|0|").Result() // as an attempt of which nothing was sent
		require.NoError(t, err)
		require.Zero(t, restored())
		require.Equal(t, 1, b.Read(id).Counts.Pending)
		require.Equal(t, batch.Run, queuetest.Must(b.Ledger.Begin(b.Ctx, id, 0, "w1")).Verdict)

		// It was deleted.
		id = b.Submit(1, queuetest.Spec()).ID
		b.End(id, 0, batch.Failed)
		require.NoError(t, b.Delete(b.Ctx, "me", id))
		require.Zero(t, restored())
		for key := range b.AllKeys() {
			require.NotContains(t, key, "batchd:{"+id)
		}
	})
}

func TestAnActionThatWasReleasedEndsWithItsBatchAlsoIfThatWasForgotten(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.Submit(2, queuetest.Spec()).ID
		begun := b.Begin(id, 0)
		_, err := b.Ledger.Release(b.Ctx, id, 0, begun.Token, queuetest.Result(0, batch.Failed))
		require.NoError(t, err)
		require.NoError(t, b.DB.Client.SetRange(b.Ctx, keys.KeysOf(id).State, 0, "r").Err())
		_, err = b.Cancel(b.Ctx, "me", id)
		require.NoError(t, err)
		restored, err := b.Ledger.Restorer.Restore(b.Ctx, b.Ledger.Remembered())
		require.NoError(t, err)
		require.Equal(t, 1, restored)
		require.Equal(t, batch.Counts{Total: 2, Cancelled: 2}, b.Read(id).Counts)
		for i, r := range b.AllResults(id, 10) {
			require.Equal(t, batch.Cancelled, r.Outcome)
			require.Equal(t, 1-i, r.Attempts)
		}

		_, _, err = b.Retry(b.Ctx, "me", id, &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Cancelled}})
		require.NoError(t, err)
		past := b.Begin(id, 0).Previous.Past()
		require.Len(t, past, 1)
		require.Equal(t, batch.Cancelled, past[0].Outcome)
	})
}

func TestAnActionThatItsWorkerGaveUpIsDecidedAboutByAny(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.Submit(2, queuetest.Spec()).ID
		_, err := b.Ledger.Workers.Beat(b.Ctx, "w1")
		require.NoError(t, err)
		begun := b.Begin(id, 0)
		for i := range 2 {
			b.DropTask(id, i)
		}
		for _, wrong := range [][]any{{0, "another"}, {1, string(begun.Token)}} {
			n, err := b.Ledger.Restorer.Disown(b.Ctx, id, "w1", wrong)
			require.NoError(t, err)
			require.Zero(t, n)
		}
		n, err := b.Ledger.Restorer.Disown(b.Ctx, id, "w2", []any{0, string(begun.Token)})
		require.NoError(t, err)
		require.Zero(t, n)
		require.Equal(t, batch.Held, queuetest.Must(b.Ledger.Begin(b.Ctx, id, 0, "w2")).Verdict)
		for range 2 { // repeating it brings it once
			n, err = b.Ledger.Restorer.Disown(b.Ctx, id, "w1", []any{0, string(begun.Token)})
			require.NoError(t, err)
			require.Equal(t, 1, n)
		}
		require.Len(t, b.Pending(batch.Interactive), 1)
		got := queuetest.Must(b.Ledger.Begin(b.Ctx, id, 0, "w2"))
		require.Equal(t, batch.Interrupted, got.Verdict)
		require.Equal(t, begun.Token, got.Token)
	})
}

func TestABeatThatWasForgottenIsNoticed(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		for range 2 {
			_, err := b.Ledger.Workers.Beat(b.Ctx, "w1")
			require.NoError(t, err)
			require.Zero(t, b.Ledger.SettlesUntil())
		}
		b.Silence("w1", time.Minute)
		id := b.Submit(1, queuetest.Spec()).ID
		forgotten := time.Now()
		_, err := b.Ledger.Workers.Beat(b.Ctx, "w1")
		require.NoError(t, err)
		require.False(t, b.Ledger.SettlesUntil().Before(forgotten.Add(ledger.SettleFor)))
		b.Ledger.SettleUntil(time.Now().Add(ledger.SettleFor / 20)) // most of the time passes
		b.Begin(id, 0)
		require.False(t, time.Now().Before(b.Ledger.SettlesUntil()), "others get time to repeat what they did")
	})
}

// A new connection is asked for the server's history before it is used.
func TestEveryNewConnectionTellsItsHistory(t *testing.T) {
	t.Parallel()
	b := open(t, redistest.Start(t).URL())
	require.NoError(t, b.Ping(b.Ctx))
	require.Equal(t, 1, b.Ledger.Histories())
	b.Ledger.KnowAnotherHistory()                                                       // as if it had been another server until now
	_ = b.DB.Client.Do(b.Ctx, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no").Err() // its own connection is closed, too
	require.NoError(t, b.Ping(b.Ctx))
	require.Equal(t, 2, b.Ledger.Histories())
	require.True(t, time.Now().Before(b.Ledger.SettlesUntil()))
}
