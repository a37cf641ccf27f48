package ledger_test

import (
	"crypto/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
)

func TestABeginWhoseAnswerIsLostIsStillThisWorkers(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.Submit(1, queuetest.Spec()).ID
		b.Begin(b.Submit(1, queuetest.Spec()).ID, 0) // the script is loaded
		lost := &queuetest.LostReplies{Left: 3, Only: id}
		b.DB.Client.AddHook(lost)
		begun := b.Begin(id, 0)
		require.Equal(t, 1, begun.Attempt)
		require.Zero(t, lost.Left)
		require.NoError(t, b.Ledger.Finish(b.Ctx, id, 0, begun.Token, queuetest.Result(0, batch.Succeeded)))
	})
}

func secretOf(id string) seal.Key {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret)
	return seal.NewKey(id, secret)
}

func TestAWorkerThatCannotOpenAnActionLeavesItToOthers(t *testing.T) {
	t.Parallel()
	url := redistest.Start(t).URL()
	with := func(keys ...seal.Key) *bundle {
		s, err := queue.Open(queue.Config{Redis: rdb.Config{URL: rdb.URL(url)}, Seal: seal.Config{Keys: keys}})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, s.Close()) })
		return local(&queuetest.Bundle{Store: s, T: t, Ctx: t.Context()})
	}
	first, second := secretOf("1"), secretOf("2")
	fresh, old := with(second, first), with(first)
	id := fresh.Submit(1, queuetest.Spec()).ID
	_, err := old.Ledger.Begin(t.Context(), id, 0, "old")
	require.ErrorIs(t, err, seal.ErrSealed)
	require.ErrorContains(t, err, `"2"`)
	begun, err := fresh.Ledger.Begin(t.Context(), id, 0, "fresh")
	require.NoError(t, err)
	require.Equal(t, batch.Run, begun.Verdict, "nothing was sent, so there is no doubt")

	owner, err := old.Owner(t.Context(), "credential")
	require.NoError(t, err)
	same, err := fresh.Owner(t.Context(), "credential")
	require.NoError(t, err)
	require.Equal(t, owner, same)
	_, err = with(second).Owner(t.Context(), "credential")
	require.ErrorIs(t, err, seal.ErrSealed, "the first key cannot be dropped before batchd seal rotate")
}

// A token is another action's, or another attempt's, unless every byte is the same.
func TestATokenThatOnlyResemblesTheHoldersChangesNothing(t *testing.T) {
	t.Parallel()
	b := open(t, redistest.Start(t).URL())
	id := b.Submit(1, queuetest.Spec()).ID
	begun := b.Begin(id, 0)
	require.Equal(t, "me", begun.Owner)
	held := string(begun.Token)
	for _, token := range []string{"", held[:1], held[:len(held)-1], held + "1", held + "|1", held + "|", held[1:], "|" + held} {
		require.ErrorIs(t, b.Ledger.Finish(b.Ctx, id, 0, batch.Token(token), queuetest.Result(0, batch.Failed)), batch.ErrStale, "token %q", token)
		_, err := b.Ledger.Release(b.Ctx, id, 0, batch.Token(token), new(batch.Result))
		require.ErrorIs(t, err, batch.ErrStale, "token %q", token)
	}
	require.Equal(t, batch.Counts{Total: 1, Pending: 1}, b.Read(id).Counts)
	require.NoError(t, b.Ledger.Finish(b.Ctx, id, 0, begun.Token, queuetest.Result(0, batch.Succeeded)))
	require.Equal(t, batch.Counts{Total: 1, Succeeded: 1}, b.Read(id).Counts)
}
