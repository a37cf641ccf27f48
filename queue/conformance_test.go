package queue

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
)

func TestOnlyACommittedBatchExists(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		u, err := b.Open(b.ctx, "me", "")
		require.NoError(t, err)
		for i := range 1200 { // more than one chunk
			require.NoError(t, u.Add(b.ctx, action(i)))
		}
		list, _, err := b.List(b.ctx, "me", "", 10)
		require.NoError(t, err)
		require.Empty(t, list)

		got, replayed, err := u.Commit(b.ctx, spec())
		require.NoError(t, err)
		require.False(t, replayed)
		require.Equal(t, batch.Counts{Total: 1200, Pending: 1200}, got.Counts)
		require.Equal(t, batch.StatusQueued, got.Status)
		require.Equal(t, batch.Bulk, got.Lane)
		u.Abort(b.ctx) // does nothing any more

		read := b.get(got.ID)
		require.Equal(t, got, read)
		begun := b.begin(got.ID, 1199)
		require.Equal(t, *action(1199), begun.Action)
		require.Equal(t, "crm", begun.Target)
		require.Equal(t, 1, begun.Attempt)
	})
}

func TestAnAbortedUploadLeavesNothing(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		u, err := b.Open(b.ctx, "me", "key")
		require.NoError(t, err)
		for i := range 1200 {
			require.NoError(t, u.Add(b.ctx, action(i)))
		}
		require.NoError(t, u.(*upload).settle(t.Context()))
		for key, ttl := range b.allKeys() {
			require.Positive(t, ttl, "staged keys expire by themselves: %s", key)
		}
		cancelled, cancel := context.WithCancel(b.ctx)
		cancel() // the client is gone, as with a connection that was cut
		u.Abort(cancelled)
		for key := range b.allKeys() {
			require.True(t, strings.HasPrefix(key, "batchd:key:"), "left behind: %s", key)
		}
		again, err := b.Open(b.ctx, "me", "key")
		require.NoError(t, err, "the key is free again")
		again.Abort(b.ctx)
	})
}

func TestTheFirstResultWins(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.submit(2, spec()).ID
		begun := b.begin(id, 0)
		require.Equal(t, batch.StatusRunning, b.get(id).Status)
		require.ErrorIs(t, b.Finish(b.ctx, id, 0, "other", result(0, batch.Failed)), batch.ErrStale)
		require.ErrorIs(t, b.Finish(b.ctx, id, 1, begun.Token, result(1, batch.Failed)), batch.ErrStale, "never begun")
		require.NoError(t, b.Finish(b.ctx, id, 0, begun.Token, result(0, batch.Succeeded)))
		require.NoError(t, b.Finish(b.ctx, id, 0, begun.Token, result(0, batch.Succeeded)), "a repetition is no error")
		require.ErrorIs(t, b.Finish(b.ctx, id, 0, begun.Token, result(0, batch.Failed)), batch.ErrStale)
		require.Equal(t, batch.Counts{Total: 2, Pending: 1, Succeeded: 1}, b.get(id).Counts)
		again, err := b.Begin(b.ctx, id, 0, "w2")
		require.NoError(t, err)
		require.Equal(t, batch.Ended, again.Verdict)
	})
}

func TestAnInterruptedActionIsReportedAndFenced(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.submit(1, spec()).ID
		first := b.begin(id, 0)
		second, err := b.Begin(b.ctx, id, 0, "w2")
		require.NoError(t, err)
		require.Equal(t, batch.Interrupted, second.Verdict)
		require.Equal(t, first.Token, second.Token)
		require.Equal(t, "w1", second.Worker)
		require.Equal(t, *action(0), second.Action)

		released, err := b.Release(b.ctx, id, 0, second.Token, new(batch.Result))
		require.NoError(t, err)
		require.True(t, released)
		third := b.begin(id, 0)
		require.Equal(t, 2, third.Attempt)
		require.Equal(t, first.StartedAt, third.FirstAt)
		require.ErrorIs(t, b.Finish(b.ctx, id, 0, first.Token, result(0, batch.Succeeded)), batch.ErrStale, "the earlier holder wakes up")
		_, err = b.Release(b.ctx, id, 0, first.Token, new(batch.Result))
		require.ErrorIs(t, err, batch.ErrStale)
		require.NoError(t, b.Finish(b.ctx, id, 0, third.Token, result(0, batch.Failed)))
		require.Equal(t, batch.StatusCompleted, b.get(id).Status)
	})
}

func TestAReleaseBearsRepetition(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.submit(1, spec()).ID
		begun := b.begin(id, 0)
		for range 2 {
			released, err := b.Release(b.ctx, id, 0, begun.Token, new(batch.Result))
			require.NoError(t, err)
			require.True(t, released)
		}
		require.Equal(t, batch.Counts{Total: 1, Pending: 1}, b.get(id).Counts)
		require.ErrorIs(t, b.Finish(b.ctx, id, 0, begun.Token, result(0, batch.Succeeded)), batch.ErrStale)
	})
}

func TestTheLastFinishEndsTheBatchAndWakesWaiters(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.submit(3, spec()).ID
		wake, stop := b.Watch(id)
		defer stop()
		b.end(id, 2, batch.Errored)
		b.end(id, 0, batch.Unknown)
		require.Zero(t, b.get(id).EndedAt)
		// The subscription may still be under way: try it with another batch.
		probe, stopProbe := b.Watch("probe")
		defer stopProbe()
		b.eventually("the subscription", func() bool {
			require.NoError(t, b.db.Client.Publish(b.ctx, doneChannel, "probe").Err())
			return len(probe) > 0
		})
		require.Empty(t, wake)
		b.end(id, 1, batch.Skipped)
		done := b.get(id)
		require.Equal(t, batch.StatusCompleted, done.Status)
		require.NotZero(t, done.EndedAt)
		require.Equal(t, batch.Counts{Total: 3, Errored: 1, Unknown: 1, Skipped: 1}, done.Counts)
		b.eventually("a wake-up", func() bool { return len(wake) > 0 })
	})
}

// watched returns what a watch has received, once the subscription stands.
func (b *bundle) watched(wake <-chan *batch.Batch) (all []*batch.Batch) {
	b.t.Helper()
	probe, stop := b.Watch("probe") // of one server, what was published before it was heard before
	defer stop()
	b.eventually("the subscription", func() bool {
		require.NoError(b.t, b.db.Client.Publish(b.ctx, doneChannel, "probe").Err())
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
			"as a rule": {3, func(id string) { b.end(id, 2, batch.Failed) }, false},
			"with a long result": {3, func(id string) {
				r := result(2, batch.Succeeded)
				r.Body = bytes.Repeat([]byte("x"), firstBytes)
				require.NoError(b.t, b.Finish(b.ctx, id, 2, b.begin(id, 2).Token, r))
			}, true},
			"of many actions": {firstResults + 1, func(id string) { b.end(id, 2, batch.Failed) }, true},
			"cancelled":       {4, func(id string) { _ = must(b.Cancel(b.ctx, "me", id)) }, true},
		} {
			id := b.submit(row.n, spec()).ID
			wake, stop := b.Watch(id)
			for i := range row.n {
				if i != 2 && i != 3 {
					b.end(id, i, batch.Succeeded)
				}
			}
			if row.n > 4 {
				b.end(id, 3, batch.Succeeded)
			}
			require.Empty(t, b.watched(wake), what)
			row.last(id)
			b.eventually("a wake-up", func() bool { return len(wake) > 0 }) // a cluster passes words on in no order
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
			require.Equal(t, must(b.Get(b.ctx, "me", id, 1000)), got[0], what)
		}
	})
}

// Of several processes, each tells those who wait in it.
func TestWhoWaitsElsewhereIsWoken(t *testing.T) {
	t.Parallel()
	url := redistest.Start(t).URL()
	here, there := open(t, url), open(t, url)
	for _, waited := range []bool{true, false} {
		id := here.submit(1, spec()).ID
		other, stopOther := there.Watch(id)
		wake, stop := here.Watch(id)
		if !waited {
			stop()
		}
		require.Empty(t, here.watched(wake))
		require.Empty(t, there.watched(other))
		here.end(id, 0, batch.Succeeded)
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
		require.NoError(t, b.steps.finish.Load(b.ctx, b.db.Client).Err()) // by all servers
		id := b.submit(1, spec()).ID
		wake, stop := b.Watch(id)
		defer stop()
		token := b.begin(id, 0).Token
		require.Empty(t, b.watched(wake))
		b.db.Client.AddHook(&lostReplies{left: 1, only: b.steps.finish.Hash()})
		require.Error(t, b.Finish(b.ctx, id, 0, token, result(0, batch.Succeeded)))
		require.NoError(t, b.Finish(b.ctx, id, 0, token, result(0, batch.Succeeded)), "it is repeated")
		require.Equal(t, []*batch.Batch{nil}, b.watched(wake))
		require.Equal(t, batch.StatusCompleted, b.get(id).Status)
	})
}

// By the time that the answer is there, the batch may have been retried.
func TestWhoWaitsSinceTheBatchEndedIsNotHandedThatEnd(t *testing.T) {
	t.Parallel()
	n := newWaiters(nil, "")
	n.listen.Do(func() {})
	early, stopEarly := n.watch("b")
	defer stopEarly()
	last := n.awaited("b")
	late, stopLate := n.watch("b")
	defer stopLate()
	require.Positive(t, last)
	require.Zero(t, n.awaited("another"))
	ended := &batch.Batch{}
	n.tell("b", ended, last)
	require.Same(t, ended, <-early)
	require.Nil(t, <-late)
}

func TestCancelEndsWhatWaitsAndNothingElse(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.submit(5, spec()).ID
		b.end(id, 0, batch.Succeeded)
		flying, returned := b.begin(id, 1), b.begin(id, 2)

		got, err := b.Cancel(b.ctx, "me", id)
		require.NoError(t, err)
		require.Equal(t, batch.StatusCancelling, got.Status)
		require.Equal(t, batch.Counts{Total: 5, Succeeded: 1, Pending: 2, Cancelled: 2}, got.Counts)
		begun, err := b.Begin(b.ctx, id, 3, "w1")
		require.NoError(t, err)
		require.Equal(t, batch.Ended, begun.Verdict, "nothing new is sent")
		_, err = b.Cancel(b.ctx, "me", id)
		require.NoError(t, err, "cancelling twice is cancelling once")

		released, err := b.Release(b.ctx, id, 2, returned.Token, new(batch.Result))
		require.NoError(t, err)
		require.False(t, released, "no further attempt follows")
		require.NoError(t, b.Finish(b.ctx, id, 1, flying.Token, result(1, batch.Failed)), "what was in flight is told truthfully")
		done := b.get(id)
		require.Equal(t, batch.StatusCancelled, done.Status)
		require.Equal(t, batch.Counts{Total: 5, Succeeded: 1, Failed: 1, Cancelled: 3}, done.Counts)
		_, err = b.Cancel(b.ctx, "me", id)
		require.NoError(t, err)
		completed := b.submit(1, spec()).ID
		b.end(completed, 0, batch.Succeeded)
		_, err = b.Cancel(b.ctx, "me", completed)
		require.ErrorIs(t, err, batch.ErrTerminal)

		all := b.results(id, 2)
		require.Equal(t, "a-4", all[4].ID)
		require.Equal(t, batch.CodeCancelled, all[4].Error.Code)
		require.Equal(t, 1, all[2].Attempts)
	})
}

func TestTheDeadlineEndsWhatWaits(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.submit(3, spec()).ID
		flying := b.begin(id, 0)
		b.passDeadline(id)
		begun, err := b.Begin(b.ctx, id, 1, "w1")
		require.NoError(t, err)
		require.Equal(t, batch.Ended, begun.Verdict)
		require.Equal(t, batch.Counts{Total: 3, Pending: 1, Expired: 2}, b.get(id).Counts)
		require.NoError(t, b.Finish(b.ctx, id, 0, flying.Token, result(0, batch.Succeeded)))
		require.Equal(t, batch.StatusExpired, b.get(id).Status)
		require.Equal(t, batch.CodeExpired, b.results(id, 10)[2].Error.Code)
	})
}

func TestABeginThatEndsTheBatchSendsItsWebhook(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		s := spec()
		s.WebhookURL = "https://example.com/hook"
		id := b.submit(2, s).ID
		b.passDeadline(id)
		begun, err := b.Begin(b.ctx, id, 0, "w1")
		require.NoError(t, err)
		require.Equal(t, batch.Ended, begun.Verdict)
		require.Equal(t, batch.StatusExpired, b.get(id).Status)
		tasks, err := b.inspector().ListPendingTasks(WebhookQueue)
		require.NoError(t, err)
		require.Len(t, tasks, 1)
	})
}

func TestAReleaseAfterTheDeadlineEndsTheBatch(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.submit(3, spec()).ID
		begun := b.begin(id, 0)
		require.NoError(t, b.db.Client.HSet(b.ctx, keysOf(id).meta, "expires", time.Now().Add(-time.Second).UnixMilli()).Err())
		released, err := b.Release(b.ctx, id, 0, begun.Token, new(batch.Result))
		require.NoError(t, err)
		require.False(t, released)
		got := b.get(id)
		require.Equal(t, batch.Counts{Total: 3, Expired: 3}, got.Counts)
		require.Equal(t, batch.StatusExpired, got.Status)
	})
}

func TestABatchIsItsOwnersAlone(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.submit(1, spec()).ID
		for _, owner := range []string{"you", ""} {
			_, err := b.Get(b.ctx, owner, id, 0)
			require.ErrorIs(t, err, batch.ErrNotFound)
			_, err = b.Results(b.ctx, owner, id, batch.ResultQuery{Limit: 1})
			require.ErrorIs(t, err, batch.ErrNotFound)
			_, err = b.Cancel(b.ctx, owner, id)
			require.ErrorIs(t, err, batch.ErrNotFound)
			_, err = b.Deliveries(b.ctx, owner, id)
			require.ErrorIs(t, err, batch.ErrNotFound)
			require.ErrorIs(t, b.Redeliver(b.ctx, owner, id), batch.ErrNotFound)
			require.ErrorIs(t, b.Delete(b.ctx, owner, id), batch.ErrNotFound)
			list, _, err := b.List(b.ctx, owner, "", 10)
			require.NoError(t, err)
			require.Empty(t, list)
		}
		require.Equal(t, 1, b.get(id).Counts.Pending)
		for _, strange := range []string{"", "x", "{" + id + "}", strings.ToUpper(id), id + "}:m"} {
			_, err := b.Get(b.ctx, "me", strange, 0)
			require.ErrorIs(t, err, batch.ErrNotFound)
		}
	})
}

func TestResultsStandInTheOrderOfTheActionsWhileTheBatchRuns(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.submit(40, spec()).ID
		for _, i := range []int{39, 0, 17, 3} {
			b.end(id, i, batch.Succeeded)
		}
		b.end(id, 20, batch.Failed)
		all := b.results(id, 7)
		require.Len(t, all, 40)
		for i, r := range all {
			require.Equal(t, i, r.Index)
			require.Equal(t, fmt.Sprintf("a-%d", i), r.ID)
		}
		require.Equal(t, "answer 17", string(all[17].Body))
		require.Equal(t, batch.Pending, all[18].Outcome)

		some := b.results(id, 2, batch.Succeeded, batch.Failed)
		indexes := make([]int, 0, len(some))
		for _, r := range some {
			indexes = append(indexes, r.Index)
		}
		require.Equal(t, []int{0, 3, 17, 20, 39}, indexes)
		require.Len(t, b.results(id, 9, batch.Pending), 35)
		require.Empty(t, b.results(id, 9, batch.Unknown))
	})
}

func TestAPageOfLargeResultsIsCutByItsSize(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		const n = 7
		id := b.submit(n, spec()).ID
		for i := range n {
			begun := b.begin(id, i)
			r := result(i, batch.Succeeded)
			r.Body = []byte(strings.Repeat("x", pageBytes/2))
			require.NoError(t, b.Finish(b.ctx, id, i, begun.Token, r))
		}
		page, err := b.Results(b.ctx, "me", id, batch.ResultQuery{Limit: 1000})
		require.NoError(t, err)
		require.Less(t, len(page.Results), n)
		require.Equal(t, len(page.Results), page.Next)
		require.Len(t, b.results(id, 1000), n)
	})
}

func TestBatchesAreListedNewestFirst(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		var want []string
		for range 7 {
			want = append([]string{b.submit(1, spec()).ID}, want...)
		}
		require.NoError(t, b.Delete(b.ctx, "me", want[3]))
		want = append(want[:3], want[4:]...)
		var got []string
		cursor := ""
		for {
			page, next, err := b.List(b.ctx, "me", cursor, 2)
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

func TestAnIdempotencyKeyMakesOneBatch(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		submit := func(key, content string) (*batch.Batch, bool, error) {
			u, err := b.Open(b.ctx, "me", key)
			if err != nil {
				return nil, false, err
			}
			defer u.Abort(b.ctx)
			if err := u.Add(b.ctx, action(0)); err != nil {
				return nil, false, err
			}
			s := spec()
			s.Fingerprint = []byte(content)
			return u.Commit(b.ctx, s)
		}
		first, replayed, err := submit("k", "body")
		require.NoError(t, err)
		require.False(t, replayed)
		again, replayed, err := submit("k", "body")
		require.NoError(t, err)
		require.True(t, replayed)
		require.Equal(t, first, again)
		_, _, err = submit("k", "other body")
		require.ErrorIs(t, err, batch.ErrKeyReused)

		require.NoError(t, b.Delete(b.ctx, "me", first.ID))
		fresh, replayed, err := submit("k", "other body")
		require.NoError(t, err, "the key of a deleted batch is free")
		require.False(t, replayed)
		require.NotEqual(t, first.ID, fresh.ID)

		open, err := b.Open(b.ctx, "me", "busy")
		require.NoError(t, err)
		_, err = b.Open(b.ctx, "me", "busy")
		require.ErrorIs(t, err, batch.ErrKeyBusy)
		_, err = b.Open(b.ctx, "you", "busy")
		require.NoError(t, err, "another owner's key is another key")
		// The process that accepts it dies: its marker runs out, and the key is
		// taken over. Should it wake up after all, it can't commit any more.
		require.NoError(t, open.Add(b.ctx, action(0)))
		require.NoError(t, b.db.Client.Del(b.ctx, open.(*upload).keys.upload).Err())
		_, _, err = submit("busy", "body")
		require.NoError(t, err)
		_, _, err = open.Commit(b.ctx, spec())
		require.ErrorIs(t, err, batch.ErrUploadLost)
	})
}

func TestAnUploadThatLostItsPlaceCannotCommit(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		u, err := b.Open(b.ctx, "me", "k")
		require.NoError(t, err)
		require.NoError(t, u.Add(b.ctx, action(0)))
		require.NoError(t, b.db.Client.Del(b.ctx, u.(*upload).keys.upload).Err()) // it was idle for too long
		_, _, err = u.Commit(b.ctx, spec())
		require.ErrorIs(t, err, batch.ErrUploadLost)

		u, err = b.Open(b.ctx, "me", "")
		require.NoError(t, err)
		for i := range chunkActions {
			require.NoError(t, u.Add(b.ctx, action(i)))
		}
		require.NoError(t, u.(*upload).settle(t.Context()))
		require.NoError(t, b.db.Client.Del(b.ctx, u.(*upload).keys.actions).Err())
		_, _, err = u.Commit(b.ctx, spec())
		require.ErrorIs(t, err, batch.ErrUploadLost)

		u, err = b.Open(b.ctx, "me", "other")
		require.NoError(t, err)
		require.NoError(t, u.Add(b.ctx, action(0)))
		require.NoError(t, b.db.Client.Set(b.ctx, idempotencyKey("me", "other"), "another", 0).Err())
		_, _, err = u.Commit(b.ctx, spec())
		require.ErrorIs(t, err, batch.ErrUploadLost)
		list, _, err := b.List(b.ctx, "me", "", 10)
		require.NoError(t, err)
		require.Empty(t, list)
	})
}

func TestAHundredSubmissionsOfOneKeyMakeOneBatch(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		ids := make(chan string, 100)
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				for {
					u, err := b.Open(b.ctx, "me", "k")
					if err != nil {
						if !strings.Contains(err.Error(), batch.ErrKeyBusy.Error()) {
							ids <- err.Error()
							return
						}
						continue
					}
					_ = u.Add(b.ctx, action(0))
					got, _, err := u.Commit(b.ctx, spec())
					if err != nil {
						ids <- err.Error()
						return
					}
					ids <- got.ID
					return
				}
			})
		}
		wg.Wait()
		close(ids)
		distinct := map[string]int{}
		for id := range ids {
			distinct[id]++
		}
		require.Len(t, distinct, 1)
		list, _, err := b.List(b.ctx, "me", "", 10)
		require.NoError(t, err)
		require.Len(t, list, 1)
	})
}

func TestEveryKeyExpiresAndDeletionLeavesNone(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		bare := b.submit(2, spec()).ID
		b.end(bare, 0, batch.Succeeded)
		requireTTLs(b, bare, 5, 10*time.Hour)
		b.end(bare, 1, batch.Succeeded)
		requireTTLs(b, bare, 5, time.Hour)
		require.NoError(t, b.Delete(b.ctx, "me", bare))

		s := spec()
		s.WebhookURL = "https://example.com/hook"
		id := b.submit(3, s).ID
		for i := range 3 {
			b.end(id, i, batch.Succeeded)
		}
		require.NoError(t, b.Delivered(b.ctx, id, 1, batch.Delivery{At: time.Now(), Status: 200}, batch.DeliveryDelivered, time.Time{}))
		requireTTLs(b, id, 6, s.Retention)
		require.NoError(t, b.Delete(b.ctx, "me", id))
		for key := range b.allKeys() {
			require.NotContains(t, key, "batchd:{"+id)
			require.NotContains(t, key, "batchd:owner")
		}
		require.ErrorIs(t, b.Finish(b.ctx, id, 0, "t", result(0, batch.Succeeded)), batch.ErrNotFound)
		begun, err := b.Begin(b.ctx, id, 0, "w1")
		require.NoError(t, err)
		require.Equal(t, batch.Gone, begun.Verdict)
		_, err = b.Release(b.ctx, id, 0, "t", new(batch.Result))
		require.ErrorIs(t, err, batch.ErrNotFound)
		require.ErrorIs(t, b.Delivered(b.ctx, id, 1, batch.Delivery{}, batch.DeliveryFailed, time.Time{}), batch.ErrNotFound)
		require.NoError(t, b.fanOut(b.ctx, fanOut{flow: flow{"me", id, "", crm(batch.Bulk)}, total: 3}))
		for key := range b.allKeys() {
			require.NotContains(t, key, "batchd:{"+id, "late steps bring nothing back")
		}
	})
}

func TestTheWebhookIsEnqueuedWithTheEnd(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		s := spec()
		s.WebhookURL, s.Metadata = "https://example.com/secret-path", map[string]string{"k": "v"}
		id := b.submit(2, s).ID
		require.ErrorIs(t, b.Redeliver(b.ctx, "me", id), batch.ErrNotTerminal)
		l, err := b.Deliveries(b.ctx, "me", id)
		require.NoError(t, err)
		require.Equal(t, batch.DeliveryWaiting, l.State)
		b.end(id, 0, batch.Succeeded)
		b.end(id, 1, batch.Failed)

		tasks, err := b.inspector().ListPendingTasks(WebhookQueue)
		require.NoError(t, err)
		require.Len(t, tasks, 1)
		got, _, err := DecodeTask(tasks[0].Payload)
		require.NoError(t, err)
		require.Equal(t, id, got)

		n, err := b.Webhook(b.ctx, id, 1)
		require.NoError(t, err)
		require.Equal(t, s.WebhookURL, n.Batch.WebhookURL)
		require.Equal(t, s.Metadata, n.Batch.Metadata)
		require.Len(t, n.Results, 2)
		require.Equal(t, "msg_"+id, n.MessageID)
		require.Equal(t, 1, n.Round)

		next := time.Now().Add(10 * time.Hour).Truncate(time.Millisecond).UTC()
		require.NoError(t, b.Delivered(b.ctx, id, 1, batch.Delivery{At: time.Now(), Status: 500, Error: "x"}, batch.DeliveryPending, next))
		l, err = b.Deliveries(b.ctx, "me", id)
		require.NoError(t, err)
		require.Equal(t, &next, l.NextAt)
		require.Len(t, l.Attempts, 1)
		for key, ttl := range b.allKeys() {
			if strings.HasPrefix(key, "batchd:{"+id) {
				require.Greater(t, ttl, 10*time.Hour, "kept until it is delivered: %s", key)
			}
		}
		require.NoError(t, b.Redeliver(b.ctx, "me", id), "while it is on its way")
		plain := b.submit(1, spec()).ID
		b.end(plain, 0, batch.Succeeded)
		require.ErrorIs(t, b.Redeliver(b.ctx, "me", plain), batch.ErrNoWebhook)
		_, err = b.Deliveries(b.ctx, "me", plain)
		require.ErrorIs(t, err, batch.ErrNoWebhook)
	})
}

// requireTTLs checks that a batch has so many keys, and that none lives too long.
func requireTTLs(b *bundle, id string, want int, most time.Duration) {
	b.t.Helper()
	count := 0
	for key, ttl := range b.allKeys() {
		if strings.HasPrefix(key, "batchd:{"+id) {
			count++
			require.Positive(b.t, ttl, key)
			require.LessOrEqual(b.t, ttl, most, key)
			require.Greater(b.t, ttl, most-5*time.Minute, key)
		}
	}
	require.Equal(b.t, want, count)
}
