package ledger_test

import (
	"context"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue/batcher"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/ledger"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/rdb"
)

// ofStep matches the runs of a step, by its digest, on one batch.
func (b *bundle) ofStep(digest, id string) func(words []string) bool {
	return func(words []string) bool {
		return words[0] == "EVALSHA" && words[1] == digest && slices.Contains(words, keys.KeysOf(id).Meta)
	}
}

// ofContent matches the reading of a batch's actions.
func ofContent(id string) func(words []string) bool {
	return func(words []string) bool { return words[0] == "HMGET" && words[1] == keys.KeysOf(id).Actions }
}

// endingWith makes a context that ends once a rule was used so many times.
func endingWith(t *testing.T, rule redistest.Rule, times int64) (context.Context, redistest.Rule) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	var n atomic.Int64
	match := rule.Match
	rule.Match = func(words []string) bool {
		if !match(words) {
			return false
		}
		if n.Add(1) == times {
			cancel()
		}
		return true
	}
	return ctx, rule
}

func TestABeginWhoseContentIsReadOnlyLaterGoesOn(t *testing.T) {
	t.Parallel()
	b, p := behindProxy(t)
	id := b.Submit(2, queuetest.Spec()).ID
	b.Begin(id, 1)
	stop := p.Answer(redistest.Rule{Reply: queuetest.NoRoom, Match: ofContent(id), Times: 3})
	begun := b.Begin(id, 0)
	require.Equal(t, 3, stop())
	require.Equal(t, 1, begun.Attempt)
	require.Equal(t, "a-0", begun.Action.ID)
	require.NoError(t, b.Ledger.Finish(b.Ctx, id, 0, begun.Token, queuetest.Result(0, batch.Succeeded)))
}

func TestAnActionWhoseContentCannotBeReadReturnsToWaiting(t *testing.T) {
	t.Parallel()
	b, p := behindProxy(t)
	id := b.Submit(2, queuetest.Spec()).ID
	b.Begin(id, 1)
	ctx, rule := endingWith(t, redistest.Rule{Reply: "NOPERM no permissions to run the 'hmget' command", Match: ofContent(id)}, 2)
	stop := p.Answer(rule)
	// Its giving back is not answered either, at first.
	stopRelease := p.Answer(redistest.Rule{Reply: queuetest.NoRoom, Match: b.ofStep(ledger.Steps.Release.Hash(), id), Times: 3})
	_, err := b.Ledger.Begin(ctx, id, 0, "w1")
	require.True(t, rdb.IsUnavailable(err), "%v", err)
	require.Equal(t, 2, stop())
	require.Equal(t, 3, stopRelease())
	begun := b.Begin(id, 0)
	require.Equal(t, 1, begun.Attempt, "what was not sent is no attempt")
	require.Equal(t, batch.Counts{Total: 2, Pending: 2}, b.Read(id).Counts)
}

func TestAnActionWhoseBeginWasAnsweredWithAnErrorReturnsToWaiting(t *testing.T) {
	t.Parallel()
	for name, way := range map[string]redistest.Way{"refused": redistest.Refused, "replaced": redistest.Replaced} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, p := behindProxy(t)
			id := b.Submit(2, queuetest.Spec()).ID
			b.Begin(id, 1)
			ctx, rule := endingWith(t, redistest.Rule{Reply: "ERR max daily request limit exceeded", Match: b.ofStep(ledger.Steps.Begin.Hash(), id), Way: way}, 2)
			stop := p.Answer(rule)
			_, err := b.Ledger.Begin(ctx, id, 0, "w1")
			require.True(t, rdb.IsUnavailable(err), "%v", err)
			stop()
			begun, err := b.Ledger.Begin(b.Ctx, id, 0, "w2")
			require.NoError(t, err)
			require.Equal(t, batch.Run, begun.Verdict)
			require.Equal(t, 1, begun.Attempt)
		})
	}
}

func TestABeginThatArrivesAfterItWasGivenBackBeginsNothing(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.Submit(2, queuetest.Spec()).ID
		for round, attempts := range []int{1, 2} {
			token := "late" + strconv.Itoa(round)
			_, err := b.Ledger.GiveBack(b.Ctx, id, 0, batch.Token(token))
			require.ErrorIs(t, err, batch.ErrStale)
			late := &batcher.Call{Step: ledger.Steps.Begin, ID: id, SharedArgs: []any{"gone", ""}, Index: 0, Args: []any{token}, ReadAction: true}
			require.NoError(t, b.Batcher.Do(late))
			require.Equal(t, "released", late.Verdict())
			begun := b.Begin(id, 0)
			require.Equal(t, attempts, begun.Attempt)
			released, err := b.Ledger.Release(b.Ctx, id, 0, begun.Token, new(batch.Result))
			require.NoError(t, err)
			require.True(t, released)
		}
		b.RequireTTLs(id, 5, 10*time.Hour) // meta, state, actions, ledger, last attempts
	})
}

func TestWhatIsGivenBackWasNoAttempt(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.Submit(1, queuetest.Spec()).ID
		for range 2 {
			begun := b.Begin(id, 0)
			require.Equal(t, 1, begun.Attempt)
			for range 2 { // it is repeated because its answer was lost
				released, err := b.Ledger.GiveBack(b.Ctx, id, 0, begun.Token)
				require.NoError(t, err)
				require.True(t, released)
			}
		}
		begun := b.Begin(id, 0)
		_, err := b.Ledger.Release(b.Ctx, id, 0, begun.Token, new(batch.Result))
		require.NoError(t, err)
		begun = b.Begin(id, 0)
		require.Equal(t, 2, begun.Attempt)
		_, err = b.Cancel(b.Ctx, "me", id)
		require.NoError(t, err)
		released, err := b.Ledger.GiveBack(b.Ctx, id, 0, begun.Token)
		require.NoError(t, err)
		require.False(t, released)
		r := b.AllResults(id, 10)[0]
		require.Equal(t, batch.Cancelled, r.Outcome)
		require.Equal(t, 1, r.Attempts)
	})
}

func TestAGroupOfWhichNothingWasSentReturnsToWaiting(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.Grouped(queuetest.Spec())
		for range 2 {
			begun := b.Begin(id, 1)
			for range 2 {
				released, err := b.Ledger.GiveBack(b.Ctx, id, 1, begun.Token)
				require.NoError(t, err)
				require.True(t, released)
			}
		}
		got, err := b.Ledger.Begin(b.Ctx, id, 3, "w1")
		require.NoError(t, err)
		require.Equal(t, batch.Waiting, got.Verdict)
		_, err = b.Cancel(b.Ctx, "me", id)
		require.NoError(t, err)
		require.Equal(t, batch.Counts{Total: 6, Cancelled: 6}, b.Read(id).Counts, "nothing of it is left behind")

		id = b.Grouped(queuetest.Spec())
		begun := b.Begin(id, 1)
		_, err = b.Cancel(b.Ctx, "me", id)
		require.NoError(t, err)
		require.Equal(t, batch.Counts{Total: 6, Pending: 3, Cancelled: 3}, b.Read(id).Counts)
		released, err := b.Ledger.GiveBack(b.Ctx, id, 1, begun.Token)
		require.NoError(t, err)
		require.False(t, released)
		require.Equal(t, batch.Counts{Total: 6, Cancelled: 6}, b.Read(id).Counts)
		require.Equal(t, batch.StatusCancelled, b.Read(id).Status)
	})
}

func TestAGroupOfWhichSomeWasSentIsLeftToWhoeverBeginsItNext(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.Grouped(queuetest.Spec())
		_, err := b.Ledger.Workers.Beat(b.Ctx, "w1")
		require.NoError(t, err)
		begun := b.Begin(id, 1)
		begun.Group.Step, begun.Group.At = batch.GroupMember, 1
		require.NoError(t, b.note(id, begun, queuetest.Result(1, batch.Succeeded)))
		for range 2 {
			released, err := b.Ledger.GiveBack(b.Ctx, id, 1, begun.Token)
			require.NoError(t, err)
			require.True(t, released)
		}
		next, err := b.Ledger.Begin(b.Ctx, id, 1, "w2")
		require.NoError(t, err)
		require.Equal(t, batch.Run, next.Verdict, "although its holder is alive")
		require.Equal(t, begun.Group, next.Group)
	})
}

// A group that is taken over may be another's by then, for all that its new holder knows.
func TestAGroupWhoseTakingOverWasAnsweredWithAnErrorIsNobodys(t *testing.T) {
	t.Parallel()
	b, p := behindProxy(t)
	id := b.Grouped(queuetest.Spec())
	first := b.Begin(id, 1)
	first.Group.Step, first.Group.At = batch.GroupMember, 1
	require.NoError(t, b.note(id, first, queuetest.Result(1, batch.Succeeded)))
	for _, worker := range []string{"w2", "w3"} {
		_, err := b.Ledger.Workers.Beat(b.Ctx, worker)
		require.NoError(t, err)
	}
	takeOver := b.ofStep(ledger.Steps.Begin.Hash(), id)
	ctx, rule := endingWith(t, redistest.Rule{Reply: queuetest.NoRoom, Way: redistest.Replaced, Match: func(words []string) bool {
		return takeOver(words) && slices.Contains(words, string(first.Token))
	}}, 2)
	stop := p.Answer(rule)
	_, err := b.Ledger.Begin(ctx, id, 1, "w2")
	require.True(t, rdb.IsUnavailable(err), "%v", err)
	stop()
	next, err := b.Ledger.Begin(b.Ctx, id, 1, "w3")
	require.NoError(t, err)
	require.Equal(t, batch.Run, next.Verdict)
	require.Equal(t, first.Group, next.Group)
}
