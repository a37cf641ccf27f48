package queue

import (
	"bytes"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue/rdb"
)

// rewind makes an action that has ended one in flight, under an entry of the ledger, or
// one that waits, if there is none.
func (b *bundle) rewind(id string, index int, entry string) {
	b.t.Helper()
	k := keysOf(id)
	outcome := b.results(id, 100)[index].Outcome
	_, err := b.db.Client.TxPipelined(b.ctx, func(p redis.Pipeliner) error {
		if entry == "" {
			p.SetRange(b.ctx, k.state, int64(index), "p")
			p.HDel(b.ctx, k.ledger, strconv.Itoa(index))
		} else {
			p.SetRange(b.ctx, k.state, int64(index), "r")
			p.HSet(b.ctx, k.ledger, strconv.Itoa(index), entry)
		}
		p.HDel(b.ctx, k.results, strconv.Itoa(index))
		p.HSet(b.ctx, k.meta, "status", "running")
		p.HIncrBy(b.ctx, k.meta, "pending", 1)
		p.HIncrBy(b.ctx, k.meta, outcome.String(), -1)
		p.HDel(b.ctx, k.meta, "ended")
		return nil
	})
	require.NoError(b.t, err)
}

func (b *bundle) entryOf(id string, index int) string {
	b.t.Helper()
	entry, err := b.db.Client.HGet(b.ctx, keysOf(id).ledger, strconv.Itoa(index)).Result()
	require.NoError(b.t, err)
	return entry
}

func TestWhatRedisForgotIsRestored(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		spec := spec()
		spec.WebhookURL = "https://example.com/hook"
		id := b.submit(4, spec).ID
		for i, o := range []batch.Outcome{batch.Succeeded, batch.Failed, batch.Unknown} {
			b.end(id, i, o)
		}
		released := b.begin(id, 3)
		_, err := b.Release(b.ctx, id, 3, released.Token, result(3, batch.Failed))
		require.NoError(t, err)
		restored, err := b.restore(b.ctx, b.attempts.all())
		require.NoError(t, err)
		require.Zero(t, restored, "nothing was forgotten")

		waiting := b.entryOf(id, 3)
		b.rewind(id, 0, b.entryOf(id, 0)) // its end is forgotten
		b.rewind(id, 1, "")               // its begin, too
		k := keysOf(id)
		require.NoError(t, b.db.Client.SetRange(b.ctx, k.state, 3, "r").Err())
		require.NoError(t, b.db.Client.HDel(b.ctx, k.groups, "o3").Err())
		b.dropTask(id, 3)
		require.NoError(t, b.db.Client.ZRem(b.ctx, openKey, id).Err())
		restored, err = b.restore(b.ctx, b.attempts.all())
		require.NoError(t, err)
		require.Equal(t, 3, restored)
		require.Equal(t, batch.Counts{Total: 4, Pending: 1, Succeeded: 1, Failed: 1, Unknown: 1}, b.get(id).Counts)
		require.Equal(t, waiting, b.entryOf(id, 3))
		require.NoError(t, b.db.Client.ZScore(b.ctx, openKey, id).Err(), "the sweeper looks after it again")
		var brought bool
		for _, task := range b.pending(batch.Interactive) {
			brought = brought || task.ID == taskID(id, 3, string(released.Token))
		}
		require.True(t, brought, "what waits for its next attempt has a task")
		restored, err = b.restore(b.ctx, b.attempts.all())
		require.NoError(t, err)
		require.Zero(t, restored, "once")

		again := b.begin(id, 3)
		require.Equal(t, 2, again.Attempt)
		require.NoError(t, b.Finish(b.ctx, id, 3, again.Token, result(3, batch.Succeeded)))
		require.Equal(t, batch.StatusCompleted, b.get(id).Status)
		b.rewind(id, 3, b.entryOf(id, 3))
		restored, err = b.restore(b.ctx, b.attempts.all())
		require.NoError(t, err)
		require.Equal(t, 1, restored)
		got := b.get(id)
		require.Equal(t, batch.StatusCompleted, got.Status, "what was forgotten was the end of the batch")
		for i, r := range b.results(id, 10) {
			if r.Outcome != batch.Unknown {
				require.Equal(t, "answer "+strconv.Itoa(i), string(r.Body))
			}
		}
		tasks, err := b.inspector().ListPendingTasks(WebhookQueue)
		require.NoError(t, err)
		require.NotEmpty(t, tasks)
	})
}

// A restore may break off after its step. The batch has its entry by then, and a repetition
// completes the rest.
func TestARestoreThatBreaksOffIsCompleted(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		spec := spec()
		spec.WebhookURL = "https://example.com/hook"
		ends, waits := b.submit(1, spec).ID, b.submit(1, spec).ID
		b.end(ends, 0, batch.Succeeded)
		begun := b.begin(waits, 0)
		_, err := b.Release(b.ctx, waits, 0, begun.Token, result(0, batch.Failed))
		require.NoError(t, err)
		_, err = b.restore(b.ctx, b.attempts.all()) // the script is loaded
		require.NoError(t, err)

		b.rewind(ends, 0, b.entryOf(ends, 0))
		require.NoError(t, b.db.Client.HDel(b.ctx, keysOf(ends).meta, "outbox", "sending", "delivery").Err())
		require.NoError(t, b.db.Client.SetRange(b.ctx, keysOf(waits).state, 0, "r").Err())
		b.dropTask(waits, 0)
		b.dropTask(ends, 0)
		_ = b.inspector().DeleteTask(WebhookQueue, webhookTaskID(ends, 1))
		for _, id := range []string{ends, waits} {
			require.NoError(t, b.db.Client.ZRem(b.ctx, openKey, id).Err())
			lost := &lostReplies{left: 1, only: b.steps.restore.Hash() + " 6 " + keysOf(id).meta}
			b.db.Client.AddHook(lost)
			_, err = b.restoreBatch(b.ctx, id, b.attemptsOf(id))
			require.Error(t, err)
			require.Zero(t, lost.left)
			require.NoError(t, b.db.Client.ZScore(b.ctx, openKey, id).Err(), "the sweeper looks after it")
		}
		require.Empty(t, b.webhooks())
		require.Empty(t, b.pending(batch.Interactive))
		restored, err := b.restore(b.ctx, b.attempts.all())
		require.NoError(t, err)
		require.Zero(t, restored)
		require.Equal(t, []string{webhookTaskID(ends, 1)}, b.webhooks())
		require.Len(t, b.pending(batch.Interactive), 1)
		require.Equal(t, 2, b.begin(waits, 0).Attempt)
	})
}

// attemptsOf returns what the store remembers of a batch.
func (b *bundle) attemptsOf(id string) []*attempt {
	return slices.DeleteFunc(b.attempts.all(), func(a *attempt) bool { return a.id != id })
}

// The clock of the server that is restored may be ahead of the one before.
func TestAnAttemptIsRestoredInItsRoundWhateverTheClocksSay(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.submit(1, spec()).ID
		b.end(id, 0, batch.Failed)
		_, _, err := b.Retry(b.ctx, "me", id, &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Failed}})
		require.NoError(t, err)
		ledger := b.entryOf(id, 0)
		b.end(id, 0, batch.Succeeded)
		k := keysOf(id)
		b.rewind(id, 0, "")
		later := time.Now().Add(time.Minute)
		require.NoError(t, b.db.Client.HSet(b.ctx, k.ledger, "0", ledger).Err())
		require.NoError(t, b.db.Client.HSet(b.ctx, k.meta, "retried", rdb.MillisOf(later)).Err())
		restored, err := b.restore(b.ctx, b.attempts.all())
		require.NoError(t, err)
		require.Equal(t, 1, restored)
		require.Equal(t, 1, b.get(id).Counts.Succeeded)

		b.rewind(id, 0, "") // in another round it stays as it is, also with a clock that is behind
		require.NoError(t, b.db.Client.HSet(b.ctx, k.ledger, "0", ledger).Err())
		require.NoError(t, b.db.Client.HSet(b.ctx, k.meta, "retried", 1, "round", 3).Err())
		restored, err = b.restore(b.ctx, b.attempts.all())
		require.NoError(t, err)
		require.Zero(t, restored)
	})
}

// shiftBegin has an action's attempt be begun by a master whose clock differed by so much.
func (b *bundle) shiftBegin(id string, index int, by time.Duration) {
	b.t.Helper()
	e := parseEntry(b.entryOf(id, index))
	e.first, e.started = e.first.Add(by), e.started.Add(by)
	require.NoError(b.t, b.db.Client.HSet(b.ctx, keysOf(id).ledger, strconv.Itoa(index), e.String()).Err())
}

// shiftRetry has a batch be retried on a master whose clock differed by so much.
func (b *bundle) shiftRetry(id string, by time.Duration) {
	b.t.Helper()
	k := keysOf(id)
	for _, field := range []string{"retried", "expires"} {
		require.NoError(b.t, b.db.Client.HIncrBy(b.ctx, k.meta, field, by.Milliseconds()).Err())
	}
}

// After a failover another server's clock counts.
func TestAttemptsAreCountedByRoundWhateverTheClocksSay(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		for _, by := range []time.Duration{-10 * time.Minute, 10 * time.Minute} { // the next master is behind, or ahead
			failed := &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Failed}}
			id := b.submit(2, spec()).ID
			b.putBack(id, 0, 503)
			b.end(id, 0, batch.Failed)
			b.end(id, 1, batch.Failed)
			for i := range 2 {
				b.shiftBegin(id, i, -by) // the master was another one
			}
			_, _, err := b.Retry(b.ctx, "me", id, failed)
			require.NoError(t, err)

			again := b.begin(id, 0)
			require.Equal(t, 3, again.Attempt)
			require.Equal(t, 2, again.Earlier, "the round before had its own attempts")
			require.Equal(t, again.StartedAt, again.FirstAt)
			_, err = b.Release(b.ctx, id, 0, again.Token, attempted(again, 503, nil))
			require.NoError(t, err)
			unsent := b.begin(id, 1)
			_, err = b.GiveBack(b.ctx, id, 1, unsent.Token)
			require.NoError(t, err)

			b.shiftRetry(id, -by) // the master changes in the round
			again = b.begin(id, 0)
			require.Equal(t, 4, again.Attempt)
			require.Equal(t, 2, again.Earlier, "an attempt of this round counts in it")
			now, err := b.db.Now(b.ctx)
			require.NoError(t, err)
			require.WithinDuration(t, now, again.StartedAt, time.Minute, "a start is by the clock of the master that is")
			require.NoError(t, b.Finish(b.ctx, id, 0, again.Token, result(0, batch.Failed)))
			first := b.begin(id, 1)
			require.Equal(t, 2, first.Attempt)
			require.Equal(t, 1, first.Earlier)
			require.Equal(t, first.StartedAt, first.FirstAt, "what was given back was not the first attempt")
			require.NoError(t, b.Finish(b.ctx, id, 1, first.Token, result(1, batch.Failed)))

			_, _, err = b.Retry(b.ctx, "me", id, failed)
			require.NoError(t, err)
			last := b.begin(id, 0)
			require.Equal(t, 5, last.Attempt)
			require.Equal(t, 4, last.Earlier)
		}
	})
}

func TestNothingIsRestoredOverWhatCameLater(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		restored := func() int {
			t.Helper()
			n, err := b.restore(b.ctx, b.attempts.all())
			require.NoError(t, err)
			return n
		}
		// A worker was thought to be dead, and another decided about its action.
		id := b.submit(3, spec()).ID
		lost := b.begin(id, 0)
		_, err := b.db.Client.HSet(b.ctx, keysOf(id).ledger, "0", "other|2|1|2|0|w2").Result()
		require.NoError(t, err)
		require.Zero(t, restored())
		require.ErrorIs(t, b.Finish(b.ctx, id, 0, lost.Token, result(0, batch.Succeeded)), batch.ErrStale)
		require.NoError(t, b.db.Client.SetRange(b.ctx, keysOf(id).state, 0, "p").Err())
		require.Zero(t, restored(), "it waits for an attempt after that of another")

		// The batch was retried.
		id = b.submit(1, spec()).ID
		b.end(id, 0, batch.Failed)
		_, _, err = b.Retry(b.ctx, "me", id, &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Failed}})
		require.NoError(t, err)
		require.Zero(t, restored())
		_, err = b.db.Client.HSet(b.ctx, keysOf(id).ledger, "0", "other|1|1|2|0|").Result() // as an attempt of which nothing was sent
		require.NoError(t, err)
		require.Zero(t, restored())
		require.Equal(t, 1, b.get(id).Counts.Pending)
		require.Equal(t, batch.Run, must(b.Begin(b.ctx, id, 0, "w1")).Verdict)

		// It was deleted.
		id = b.submit(1, spec()).ID
		b.end(id, 0, batch.Failed)
		require.NoError(t, b.Delete(b.ctx, "me", id))
		require.Zero(t, restored())
		for key := range b.allKeys() {
			require.NotContains(t, key, "batchd:{"+id)
		}
	})
}

func TestAnActionThatWasReleasedEndsWithItsBatchAlsoIfThatWasForgotten(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.submit(2, spec()).ID
		begun := b.begin(id, 0)
		_, err := b.Release(b.ctx, id, 0, begun.Token, result(0, batch.Failed))
		require.NoError(t, err)
		require.NoError(t, b.db.Client.SetRange(b.ctx, keysOf(id).state, 0, "r").Err())
		_, err = b.Cancel(b.ctx, "me", id)
		require.NoError(t, err)
		restored, err := b.restore(b.ctx, b.attempts.all())
		require.NoError(t, err)
		require.Equal(t, 1, restored)
		require.Equal(t, batch.Counts{Total: 2, Cancelled: 2}, b.get(id).Counts)
	})
}

func TestAnActionThatItsWorkerGaveUpIsDecidedAboutByAny(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.submit(2, spec()).ID
		_, err := b.Beat(b.ctx, "w1")
		require.NoError(t, err)
		begun := b.begin(id, 0)
		for i := range 2 {
			b.dropTask(id, i)
		}
		for _, wrong := range [][]any{{0, "another"}, {1, string(begun.Token)}} {
			n, err := b.disown(b.ctx, id, "w1", wrong)
			require.NoError(t, err)
			require.Zero(t, n)
		}
		n, err := b.disown(b.ctx, id, "w2", []any{0, string(begun.Token)})
		require.NoError(t, err)
		require.Zero(t, n)
		require.Equal(t, batch.Held, must(b.Begin(b.ctx, id, 0, "w2")).Verdict)
		for range 2 { // repeating it brings it once
			n, err = b.disown(b.ctx, id, "w1", []any{0, string(begun.Token)})
			require.NoError(t, err)
			require.Equal(t, 1, n)
		}
		require.Len(t, b.pending(batch.Interactive), 1)
		got := must(b.Begin(b.ctx, id, 0, "w2"))
		require.Equal(t, batch.Interrupted, got.Verdict)
		require.Equal(t, begun.Token, got.Token)
	})
}

// The sweeper asks every worker that is alive for what it holds by the ledger.
func TestAWorkerIsAskedForWhatItHolds(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		_, err := b.Beat(b.ctx, "w1")
		require.NoError(t, err)
		id := b.submit(5, spec()).ID
		flying := b.begin(id, 0)
		b.end(id, 1, batch.Succeeded)
		ended := b.entryOf(id, 1)
		old := func(entry string) string { // so old that its holder is sure to know
			e := parseEntry(entry)
			e.started = e.started.Add(-time.Minute)
			return e.String()
		}
		b.rewind(id, 1, old(ended))
		ahead := entry{token: "unheard-of", attempts: 1, worker: "w1", first: time.UnixMilli(1000), started: time.Now().Add(time.Hour)} // by the clock of an earlier master
		for _, set := range [][]any{{"0", old(b.entryOf(id, 0))}, {"2", "unheard-of|1|1000|1000|0|w1"}, {"3", "its|1|1000|1000|0|w2"}, {"4", ahead.String()}} {
			require.NoError(t, b.db.Client.HSet(b.ctx, keysOf(id).ledger, set...).Err())
		}
		require.NoError(t, b.db.Client.SetRange(b.ctx, keysOf(id).state, 2, "rrr").Err())
		defer b.pubsub.Listen(holdersChannel, b.asked)()
		b.eventually("the subscription", func() bool {
			n, err := b.db.Client.PubSubNumSub(b.ctx, holdersChannel).Result()
			require.NoError(t, err)
			return n[holdersChannel] > 0 || b.shards > 1
		})
		b.eventually("the answer", func() bool {
			b.holders.asked = time.Time{}
			b.sweep()
			return b.get(id).Counts.Succeeded == 1 && parseEntry(b.entryOf(id, 2)).worker == "" && parseEntry(b.entryOf(id, 4)).worker == ""
		})
		require.Equal(t, "w1", parseEntry(b.entryOf(id, 0)).worker, "what it has in flight stays its own")
		require.NoError(t, b.Finish(b.ctx, id, 0, flying.Token, result(0, batch.Succeeded)))
		require.Equal(t, "w2", parseEntry(b.entryOf(id, 3)).worker, "a worker that is not alive is given time")
	})
}

func TestABeatThatWasForgottenIsNoticed(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		until := func() time.Time {
			b.history.mu.Lock()
			defer b.history.mu.Unlock()
			return b.history.until
		}
		for range 2 {
			_, err := b.Beat(b.ctx, "w1")
			require.NoError(t, err)
			require.Zero(t, until())
		}
		b.silence("w1", time.Minute)
		id := b.submit(1, spec()).ID
		forgotten := time.Now()
		_, err := b.Beat(b.ctx, "w1")
		require.NoError(t, err)
		require.False(t, until().Before(forgotten.Add(settleFor)))
		b.history.mu.Lock()
		b.history.until = time.Now().Add(settleFor / 20) // most of the time passes
		b.history.mu.Unlock()
		b.begin(id, 0)
		require.False(t, time.Now().Before(until()), "others get time to repeat what they did")
	})
}

func TestHistoriesThatChangeAreNoticed(t *testing.T) {
	t.Parallel()
	changes := 0
	h := newHistory()
	h.onChange(func() { changes++ })
	info := func(id string) string {
		return "# Replication\r\nrole:master\r\nmaster_replid:" + id + "\r\nmaster_replid2:x\r\n"
	}
	for _, step := range []struct {
		info string
		want int
	}{
		{"", 0},
		{info("0000000000000000000000000000000000000000"), 0},
		{info("a"), 0},
		{info("a"), 0},
		{info("b"), 1},
		{info("b"), 1},
		{info("a"), 1},
		{info("c"), 2},
	} {
		h.observe(step.info)
		require.Equal(t, step.want, changes, step.info)
	}
	h.learning = true
	h.observe(info("d"))
	require.Equal(t, 2, changes, "another server of a cluster")
}

func TestAttemptsAreRememberedForAWhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newAttempts()
		run := func(index int, token string, size int) {
			a := m.begin("b", index, token)
			m.begun(a, &batch.Begun{Token: batch.Token(token), Attempt: 1}, "")
			if size > 0 {
				m.end("b", index, token, "S", make([]byte, size), nil)
			}
		}
		run(0, "flying", 0)
		run(1, "ended", 1)
		time.Sleep(attemptLasts)
		require.Len(t, m.all(), 2)
		time.Sleep(time.Millisecond)
		require.Len(t, m.all(), 1, "what is in flight is never forgotten")
		for i := range 40 {
			run(10+i, "t"+strconv.Itoa(i), 1<<20)
		}
		require.Len(t, m.all(), attemptBytes>>20, "one is in flight, and each takes a little more than its result")
		found, _ := m.known("b", 10, "t0")
		require.Nil(t, found, "the oldest go")
		m.abandon("b", 0, "flying")
		_, inHand := m.known("b", 0, "flying")
		require.False(t, inHand)
		time.Sleep(time.Hour)
		require.False(t, m.busy())
		require.LessOrEqual(t, m.ended.bytes, recentChunk)
	})
}

func TestAnAttemptThatHasEndedIsRememberedAsItWas(t *testing.T) {
	t.Parallel()
	m := newAttempts()
	want := make(map[actionKey]attempt)
	began := rdb.FromMillis("1795958661272")
	for i := range 3 * recentChunk / 400 { // in several chunks
		id, token := "b"+strconv.Itoa(i%7), "token"+strconv.Itoa(i)
		a := m.begin(id, i, token)
		m.begun(a, &batch.Begun{
			Token: batch.Token(token), Worker: "w1", Attempt: 1 + i%3, Earlier: i % 2, FirstAt: began.Add(-time.Duration(i) * time.Millisecond), StartedAt: began,
		}, strconv.Itoa(i%4))
		var group []any
		if i%50 == 0 {
			group = []any{"arg", []byte("sealed")}
		}
		m.end(id, i, token, "F", bytes.Repeat([]byte{byte(i)}, i%500), group)
		want[a.actionKey] = *a
	}
	require.Greater(t, len(m.ended.chunks), 2)
	all := m.all()
	require.Len(t, all, len(want))
	for _, got := range all {
		as := want[got.actionKey]
		require.Equal(t, as.entry.String(), got.entry.String())
		require.True(t, as.at.Equal(got.at))
		require.True(t, bytes.Equal(as.result, got.result))
		require.Equal(t, []any{as.state, as.group}, []any{got.state, got.group})
		found, inHand := m.known(got.id, got.index, got.entry.token)
		require.False(t, inHand)
		require.Equal(t, as.entry.String(), found.entry.String())
	}
	m.begun(m.begin("b0", 0, "again"), &batch.Begun{Token: "again", Attempt: 2}, "")
	require.Len(t, m.all(), len(want), "the newer one in place of the other")
}

// An attempt that does not begin leaves what is known of the one before.
func TestAnAttemptThatDoesNotBeginHidesNoOther(t *testing.T) {
	t.Parallel()
	m := newAttempts()
	first := m.begin("b", 0, "one")
	m.begun(first, &batch.Begun{Token: "one", Attempt: 1}, "")
	m.end("b", 0, "one", "S", []byte("result"), nil)
	second, third := m.begin("b", 0, "two"), m.begin("b", 0, "three")
	require.True(t, m.before(second).finished())
	m.notBegun(second)
	require.True(t, m.before(third).finished())
	_, inHand := m.known("b", 0, "one")
	require.True(t, inHand, "it is being begun again")
	m.notBegun(third)
	found, inHand := m.known("b", 0, "one")
	require.False(t, inHand)
	require.Equal(t, "result", string(found.result))
}

// A new connection is asked for the server's history before it is used.
func TestEveryNewConnectionTellsItsHistory(t *testing.T) {
	t.Parallel()
	b := open(t, redistest.Start(t).URL())
	require.NoError(t, b.Ping(b.ctx))
	b.history.mu.Lock()
	known := len(b.history.known)
	b.history.known = map[string]struct{}{"another": {}} // as if it had been another server until now
	b.history.mu.Unlock()
	require.Equal(t, 1, known)
	_ = b.db.Client.Do(b.ctx, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no").Err() // its own connection is closed, too
	require.NoError(t, b.Ping(b.ctx))
	b.history.mu.Lock()
	defer b.history.mu.Unlock()
	require.Len(t, b.history.known, 2)
	require.True(t, time.Now().Before(b.history.until))
}
