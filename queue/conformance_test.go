package queue_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue/batches"
	"github.com/batchd/batchd/queue/fanout"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/ledger"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/tasks"
)

func TestOnlyACommittedBatchExists(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		u, err := b.Open(b.Ctx, "me", "")
		require.NoError(t, err)
		for i := range 1200 { // more than one chunk
			require.NoError(t, u.Add(b.Ctx, queuetest.Action(i)))
		}
		list, _, err := b.List(b.Ctx, batch.OwnedBy("me"), "", 10)
		require.NoError(t, err)
		require.Empty(t, list)

		got, replayed, err := u.Commit(b.Ctx, queuetest.Spec())
		require.NoError(t, err)
		require.False(t, replayed)
		require.Equal(t, batch.Counts{Total: 1200, Pending: 1200}, got.Counts)
		require.Equal(t, batch.StatusQueued, got.Status)
		require.Equal(t, batch.Bulk, got.Lane)
		u.Abort(b.Ctx) // does nothing any more

		read := b.Read(got.ID)
		require.Equal(t, got, read)
		begun := b.Begin(got.ID, 1199)
		require.Equal(t, *queuetest.Action(1199), begun.Action)
		require.Equal(t, "crm", begun.Target)
		require.Equal(t, 1, begun.Attempt)
	})
}

func TestTheFirstResultWins(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.Submit(2, queuetest.Spec()).ID
		begun := b.Begin(id, 0)
		require.Equal(t, batch.StatusRunning, b.Read(id).Status)
		require.ErrorIs(t, b.Ledger.Finish(b.Ctx, id, 0, "other", queuetest.Result(0, batch.Failed)), batch.ErrStale)
		require.ErrorIs(t, b.Ledger.Finish(b.Ctx, id, 1, begun.Token, queuetest.Result(1, batch.Failed)), batch.ErrStale, "never begun")
		require.NoError(t, b.Ledger.Finish(b.Ctx, id, 0, begun.Token, queuetest.Result(0, batch.Succeeded)))
		require.NoError(t, b.Ledger.Finish(b.Ctx, id, 0, begun.Token, queuetest.Result(0, batch.Succeeded)), "a repetition is no error")
		require.ErrorIs(t, b.Ledger.Finish(b.Ctx, id, 0, begun.Token, queuetest.Result(0, batch.Failed)), batch.ErrStale)
		require.Equal(t, batch.Counts{Total: 2, Pending: 1, Succeeded: 1}, b.Read(id).Counts)
		again, err := b.Ledger.Begin(b.Ctx, id, 0, "w2")
		require.NoError(t, err)
		require.Equal(t, batch.Ended, again.Verdict)
	})
}

func TestAnInterruptedActionIsReportedAndFenced(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.Submit(1, queuetest.Spec()).ID
		first := b.Begin(id, 0)
		second, err := b.Ledger.Begin(b.Ctx, id, 0, "w2")
		require.NoError(t, err)
		require.Equal(t, batch.Interrupted, second.Verdict)
		require.Equal(t, first.Token, second.Token)
		require.Equal(t, "w1", second.Worker)
		require.Equal(t, *queuetest.Action(0), second.Action)

		released, err := b.Ledger.Release(b.Ctx, id, 0, second.Token, new(batch.Result))
		require.NoError(t, err)
		require.True(t, released)
		third := b.Begin(id, 0)
		require.Equal(t, 2, third.Attempt)
		require.Equal(t, first.StartedAt, third.FirstAt)
		require.ErrorIs(t, b.Ledger.Finish(b.Ctx, id, 0, first.Token, queuetest.Result(0, batch.Succeeded)), batch.ErrStale, "the earlier holder wakes up")
		_, err = b.Ledger.Release(b.Ctx, id, 0, first.Token, new(batch.Result))
		require.ErrorIs(t, err, batch.ErrStale)
		require.NoError(t, b.Ledger.Finish(b.Ctx, id, 0, third.Token, queuetest.Result(0, batch.Failed)))
		require.Equal(t, batch.StatusCompleted, b.Read(id).Status)
	})
}

func TestAReleaseBearsRepetition(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.Submit(1, queuetest.Spec()).ID
		begun := b.Begin(id, 0)
		for range 2 {
			released, err := b.Ledger.Release(b.Ctx, id, 0, begun.Token, new(batch.Result))
			require.NoError(t, err)
			require.True(t, released)
		}
		require.Equal(t, batch.Counts{Total: 1, Pending: 1}, b.Read(id).Counts)
		require.ErrorIs(t, b.Ledger.Finish(b.Ctx, id, 0, begun.Token, queuetest.Result(0, batch.Succeeded)), batch.ErrStale)
	})
}

func TestTheLastFinishEndsTheBatchAndWakesWaiters(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.Submit(3, queuetest.Spec()).ID
		wake, stop := b.Watch(id)
		defer stop()
		b.End(id, 2, batch.Errored)
		b.End(id, 0, batch.Unknown)
		require.Zero(t, b.Read(id).EndedAt)
		// The subscription may still be under way: try it with another batch.
		probe, stopProbe := b.Watch("probe")
		defer stopProbe()
		b.Eventually("the subscription", func() bool {
			require.NoError(t, b.DB.Client.Publish(b.Ctx, keys.DoneChannel, "probe").Err())
			return len(probe) > 0
		})
		require.Empty(t, wake)
		b.End(id, 1, batch.Skipped)
		done := b.Read(id)
		require.Equal(t, batch.StatusCompleted, done.Status)
		require.NotZero(t, done.EndedAt)
		require.Equal(t, batch.Counts{Total: 3, Errored: 1, Unknown: 1, Skipped: 1}, done.Counts)
		b.Eventually("a wake-up", func() bool { return len(wake) > 0 })
	})
}

// watched returns what a watch has received, once the subscription stands.
func (b *bundle) watched(wake <-chan *batch.Batch) (all []*batch.Batch) {
	b.T.Helper()
	probe, stop := b.Watch("probe") // of one server, what was published before it was heard before
	defer stop()
	b.Eventually("the subscription", func() bool {
		require.NoError(b.T, b.DB.Client.Publish(b.Ctx, keys.DoneChannel, "probe").Err())
		return len(probe) > 0
	})
	for len(wake) > 0 {
		all = append(all, <-wake)
	}
	return all
}

func TestWhoWaitsWhereABatchEndsIsHandedIt(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		for what, row := range map[string]struct {
			n    int
			last func(id string)
			look bool
		}{
			"as a rule": {3, func(id string) { b.End(id, 2, batch.Failed) }, false},
			"with a long result": {3, func(id string) {
				r := queuetest.Result(2, batch.Succeeded)
				r.Body = bytes.Repeat([]byte("x"), batches.FirstBytes)
				require.NoError(b.T, b.Ledger.Finish(b.Ctx, id, 2, b.Begin(id, 2).Token, r))
			}, true},
			"of many actions": {batches.FirstResults + 1, func(id string) { b.End(id, 2, batch.Failed) }, true},
			"cancelled":       {4, func(id string) { _ = queuetest.Must(b.Cancel(b.Ctx, "me", id)) }, true},
		} {
			id := b.Submit(row.n, queuetest.Spec()).ID
			wake, stop := b.Watch(id)
			for i := range row.n {
				if i != 2 && i != 3 {
					b.End(id, i, batch.Succeeded)
				}
			}
			if row.n > 4 {
				b.End(id, 3, batch.Succeeded)
			}
			require.Empty(t, b.watched(wake), what)
			row.last(id)
			b.Eventually("a wake-up", func() bool { return len(wake) > 0 }) // a cluster passes words on in no order
			got := b.watched(wake)
			stop()
			require.Len(t, got, 1, what)
			if row.look {
				require.Nil(t, got[0], what)
				continue
			}
			require.NotNil(t, got[0], what)
			require.True(t, got[0].Status.Terminal(), what)
			require.NotNil(t, got[0].First, what)
			require.Equal(t, queuetest.Must(b.Get(b.Ctx, "me", id, 1000)), got[0], what)
		}
	})
}

// Of several processes, each tells those who wait in it.
func TestWhoWaitsElsewhereIsWoken(t *testing.T) {
	t.Parallel()
	url := redistest.Start(t).URL()
	here, there := open(t, url), open(t, url)
	for _, waited := range []bool{true, false} {
		id := here.Submit(1, queuetest.Spec()).ID
		other, stopOther := there.Watch(id)
		wake, stop := here.Watch(id)
		if !waited {
			stop()
		}
		require.Empty(t, here.watched(wake))
		require.Empty(t, there.watched(other))
		here.End(id, 0, batch.Succeeded)
		require.Equal(t, []*batch.Batch{nil}, there.watched(other))
		if got := here.watched(wake); waited {
			require.Len(t, got, 1)
			require.Equal(t, batch.StatusCompleted, got[0].Status)
		} else {
			require.Empty(t, got)
		}
		stop()
		stopOther()
	}
}

// Nobody else says so.
func TestWhoWaitsIsWokenByAFinishWhoseAnswerWasLost(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		require.NoError(t, ledger.Steps.Finish.Load(b.Ctx, b.DB.Client).Err()) // by all servers
		id := b.Submit(1, queuetest.Spec()).ID
		wake, stop := b.Watch(id)
		defer stop()
		token := b.Begin(id, 0).Token
		require.Empty(t, b.watched(wake))
		b.DB.Client.AddHook(&queuetest.LostReplies{Left: 1, Only: ledger.Steps.Finish.Hash()})
		require.Error(t, b.Ledger.Finish(b.Ctx, id, 0, token, queuetest.Result(0, batch.Succeeded)))
		require.NoError(t, b.Ledger.Finish(b.Ctx, id, 0, token, queuetest.Result(0, batch.Succeeded)), "it is repeated")
		require.Equal(t, []*batch.Batch{nil}, b.watched(wake))
		require.Equal(t, batch.StatusCompleted, b.Read(id).Status)
	})
}

func TestCancelEndsWhatWaitsAndNothingElse(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.Submit(5, queuetest.Spec()).ID
		b.End(id, 0, batch.Succeeded)
		flying, returned := b.Begin(id, 1), b.Begin(id, 2)

		got, err := b.Cancel(b.Ctx, "me", id)
		require.NoError(t, err)
		require.Equal(t, batch.StatusCancelling, got.Status)
		require.Equal(t, batch.Counts{Total: 5, Succeeded: 1, Pending: 2, Cancelled: 2}, got.Counts)
		begun, err := b.Ledger.Begin(b.Ctx, id, 3, "w1")
		require.NoError(t, err)
		require.Equal(t, batch.Ended, begun.Verdict, "nothing new is sent")
		_, err = b.Cancel(b.Ctx, "me", id)
		require.NoError(t, err, "cancelling twice is cancelling once")

		released, err := b.Ledger.Release(b.Ctx, id, 2, returned.Token, new(batch.Result))
		require.NoError(t, err)
		require.False(t, released, "no further attempt follows")
		require.NoError(t, b.Ledger.Finish(b.Ctx, id, 1, flying.Token, queuetest.Result(1, batch.Failed)), "what was in flight is told truthfully")
		done := b.Read(id)
		require.Equal(t, batch.StatusCancelled, done.Status)
		require.Equal(t, batch.Counts{Total: 5, Succeeded: 1, Failed: 1, Cancelled: 3}, done.Counts)
		_, err = b.Cancel(b.Ctx, "me", id)
		require.NoError(t, err)
		completed := b.Submit(1, queuetest.Spec()).ID
		b.End(completed, 0, batch.Succeeded)
		_, err = b.Cancel(b.Ctx, "me", completed)
		require.ErrorIs(t, err, batch.ErrTerminal)

		all := b.AllResults(id, 2)
		require.Equal(t, "a-4", all[4].ID)
		require.Equal(t, batch.CodeCancelled, all[4].Error.Code)
		require.Equal(t, 1, all[2].Attempts)
	})
}

func TestTheDeadlineEndsWhatWaits(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.Submit(3, queuetest.Spec()).ID
		flying := b.Begin(id, 0)
		b.PassDeadline(id)
		begun, err := b.Ledger.Begin(b.Ctx, id, 1, "w1")
		require.NoError(t, err)
		require.Equal(t, batch.Ended, begun.Verdict)
		require.Equal(t, batch.Counts{Total: 3, Pending: 1, Expired: 2}, b.Read(id).Counts)
		require.NoError(t, b.Ledger.Finish(b.Ctx, id, 0, flying.Token, queuetest.Result(0, batch.Succeeded)))
		require.Equal(t, batch.StatusExpired, b.Read(id).Status)
		require.Equal(t, batch.CodeExpired, b.AllResults(id, 10)[2].Error.Code)
	})
}

func TestABeginThatEndsTheBatchSendsItsWebhook(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		s := queuetest.Spec()
		s.WebhookURL = "https://example.com/hook"
		id := b.Submit(2, s).ID
		b.PassDeadline(id)
		begun, err := b.Ledger.Begin(b.Ctx, id, 0, "w1")
		require.NoError(t, err)
		require.Equal(t, batch.Ended, begun.Verdict)
		require.Equal(t, batch.StatusExpired, b.Read(id).Status)
		tasks, err := b.Inspector().ListPendingTasks(tasks.WebhookQueue)
		require.NoError(t, err)
		require.Len(t, tasks, 1)
	})
}

func TestAReleaseAfterTheDeadlineEndsTheBatch(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.Submit(3, queuetest.Spec()).ID
		begun := b.Begin(id, 0)
		require.NoError(t, b.DB.Client.HSet(b.Ctx, keys.KeysOf(id).Meta, "expires", time.Now().Add(-time.Second).UnixMilli()).Err())
		released, err := b.Ledger.Release(b.Ctx, id, 0, begun.Token, new(batch.Result))
		require.NoError(t, err)
		require.False(t, released)
		got := b.Read(id)
		require.Equal(t, batch.Counts{Total: 3, Expired: 3}, got.Counts)
		require.Equal(t, batch.StatusExpired, got.Status)
	})
}

func TestABatchIsItsOwnersAlone(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.Submit(1, queuetest.Spec()).ID
		for _, owner := range []string{"you", ""} {
			_, err := b.Get(b.Ctx, owner, id, 0)
			require.ErrorIs(t, err, batch.ErrNotFound)
			_, err = b.Results(b.Ctx, owner, id, batch.ResultQuery{Limit: 1})
			require.ErrorIs(t, err, batch.ErrNotFound)
			_, err = b.Cancel(b.Ctx, owner, id)
			require.ErrorIs(t, err, batch.ErrNotFound)
			_, err = b.Deliveries(b.Ctx, owner, id)
			require.ErrorIs(t, err, batch.ErrNotFound)
			require.ErrorIs(t, b.Redeliver(b.Ctx, owner, id), batch.ErrNotFound)
			require.ErrorIs(t, b.Delete(b.Ctx, owner, id), batch.ErrNotFound)
			list, _, err := b.List(b.Ctx, batch.OwnedBy(owner), "", 10)
			require.NoError(t, err)
			require.Empty(t, list)
		}
		require.Equal(t, 1, b.Read(id).Counts.Pending)
		for _, strange := range []string{"", "x", "{" + id + "}", strings.ToUpper(id), id + "}:m"} {
			_, err := b.Get(b.Ctx, "me", strange, 0)
			require.ErrorIs(t, err, batch.ErrNotFound)
		}
	})
}

func TestBatchesAreListedNewestFirst(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		var want []string
		for range 7 {
			want = append([]string{b.Submit(1, queuetest.Spec()).ID}, want...)
		}
		require.NoError(t, b.Delete(b.Ctx, "me", want[3]))
		want = append(want[:3], want[4:]...)
		var got []string
		cursor := ""
		for {
			page, next, err := b.List(b.Ctx, batch.OwnedBy("me"), cursor, 2)
			require.NoError(t, err)
			for _, one := range page {
				got = append(got, one.ID)
			}
			if next == "" {
				break
			}
			cursor = next
		}
		require.Equal(t, want, got)
	})
}

func TestListsOfSeveralOwnersAreMerged(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		var want []string
		for i := range 9 {
			owner := []string{"me", "you", "them"}[i%3]
			up, err := b.Open(b.Ctx, owner, "")
			require.NoError(t, err)
			require.NoError(t, up.Add(b.Ctx, &batch.Action{Method: "GET", Path: "/"}))
			one, _, err := up.Commit(b.Ctx, queuetest.Spec())
			require.NoError(t, err)
			found, err := b.OwnerOf(b.Ctx, batch.OfAll(), one.ID)
			require.NoError(t, err)
			require.Equal(t, owner, found)
			if owner != "them" {
				want = append([]string{one.ID}, want...)
			}
		}
		for limit := 1; limit <= len(want)+1; limit++ {
			var got []string
			for cursor := ""; ; {
				page, next, err := b.List(b.Ctx, batch.OwnedBy("me", "you", "nobody"), cursor, limit)
				require.NoError(t, err)
				require.LessOrEqual(t, len(page), limit)
				for _, one := range page {
					got = append(got, one.ID)
				}
				if cursor = next; next == "" {
					break
				}
			}
			require.Equal(t, want, got, "in pages of %d", limit)
		}
		for _, strange := range []string{"", "x", uuid.NewString()} {
			_, err := b.OwnerOf(b.Ctx, batch.OfAll(), strange)
			require.ErrorIs(t, err, batch.ErrNotFound)
		}
	})
}

func TestEveryKeyExpiresAndDeletionLeavesNone(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		bare := b.Submit(2, queuetest.Spec()).ID
		b.End(bare, 0, batch.Succeeded)
		b.RequireTTLs(bare, 5, 10*time.Hour)
		b.End(bare, 1, batch.Succeeded)
		b.RequireTTLs(bare, 5, time.Hour)
		require.NoError(t, b.Delete(b.Ctx, "me", bare))

		s := queuetest.Spec()
		s.WebhookURL = "https://example.com/hook"
		id := b.Submit(3, s).ID
		for i := range 3 {
			b.End(id, i, batch.Succeeded)
		}
		require.NoError(t, b.Batches.Deliveries.Record(b.Ctx, id, 1, batch.Delivery{At: time.Now(), Status: 200}, batch.DeliveryDelivered, time.Time{}))
		b.RequireTTLs(id, 6, s.Retention)
		require.NoError(t, b.Delete(b.Ctx, "me", id))
		for key := range b.AllKeys() {
			require.NotContains(t, key, "batchd:{"+id)
			require.NotContains(t, key, "batchd:owner")
			require.NotEqual(t, keys.AllBatchesKey, key)
		}
		require.ErrorIs(t, b.Ledger.Finish(b.Ctx, id, 0, "t", queuetest.Result(0, batch.Succeeded)), batch.ErrNotFound)
		begun, err := b.Ledger.Begin(b.Ctx, id, 0, "w1")
		require.NoError(t, err)
		require.Equal(t, batch.Gone, begun.Verdict)
		_, err = b.Ledger.Release(b.Ctx, id, 0, "t", new(batch.Result))
		require.ErrorIs(t, err, batch.ErrNotFound)
		require.ErrorIs(t, b.Batches.Deliveries.Record(b.Ctx, id, 1, batch.Delivery{}, batch.DeliveryFailed, time.Time{}), batch.ErrNotFound)
		require.NoError(t, b.Fanout.Offer(b.Ctx, fanout.Batch{Flow: tasks.Flow{Owner: "me", ID: id, Round: "", Route: queuetest.Crm(batch.Bulk)}, Total: 3}))
		for key := range b.AllKeys() {
			require.NotContains(t, key, "batchd:{"+id, "late steps bring nothing back")
		}
	})
}

func TestTheWebhookIsEnqueuedWithTheEnd(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		s := queuetest.Spec()
		s.WebhookURL, s.Metadata = "https://example.com/secret-path", map[string]string{"k": "v"}
		id := b.Submit(2, s).ID
		require.ErrorIs(t, b.Redeliver(b.Ctx, "me", id), batch.ErrNotTerminal)
		l, err := b.Deliveries(b.Ctx, "me", id)
		require.NoError(t, err)
		require.Equal(t, batch.DeliveryWaiting, l.State)
		b.End(id, 0, batch.Succeeded)
		b.End(id, 1, batch.Failed)

		brought, err := b.Inspector().ListPendingTasks(tasks.WebhookQueue)
		require.NoError(t, err)
		require.Len(t, brought, 1)
		got, _, err := tasks.DecodeTask(brought[0].Payload)
		require.NoError(t, err)
		require.Equal(t, id, got)

		n, err := b.Batches.Deliveries.Notice(b.Ctx, id, 1)
		require.NoError(t, err)
		require.Equal(t, s.WebhookURL, n.Batch.WebhookURL)
		require.Equal(t, s.Metadata, n.Batch.Metadata)
		require.Len(t, n.Results, 2)
		require.Equal(t, "msg_"+id, n.MessageID)
		require.Equal(t, 1, n.Round)

		next := time.Now().Add(10 * time.Hour).Truncate(time.Millisecond).UTC()
		require.NoError(t, b.Batches.Deliveries.Record(b.Ctx, id, 1, batch.Delivery{At: time.Now(), Status: 500, Error: "x"}, batch.DeliveryPending, next))
		l, err = b.Deliveries(b.Ctx, "me", id)
		require.NoError(t, err)
		require.Equal(t, &next, l.NextAt)
		require.Len(t, l.Attempts, 1)
		for key, ttl := range b.AllKeys() {
			if strings.HasPrefix(key, "batchd:{"+id) {
				require.Greater(t, ttl, 10*time.Hour, "kept until it is delivered: %s", key)
			}
		}
		require.NoError(t, b.Redeliver(b.Ctx, "me", id), "while it is on its way")
		plain := b.Submit(1, queuetest.Spec()).ID
		b.End(plain, 0, batch.Succeeded)
		require.ErrorIs(t, b.Redeliver(b.Ctx, "me", plain), batch.ErrNoWebhook)
		_, err = b.Deliveries(b.Ctx, "me", plain)
		require.ErrorIs(t, err, batch.ErrNoWebhook)
	})
}
