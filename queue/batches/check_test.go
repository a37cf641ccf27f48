package batches_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/batches"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/queuetest"
)

// A batch may expire, be deleted or be retried between the exchanges that read it. That is no damage.
func TestABatchThatChangesWhileItIsReadIsNotDamaged(t *testing.T) {
	queuetest.OnStores(t, func(t *testing.T, b *queuetest.Bundle) {
		gone := func(id string) func() {
			k := keys.KeysOf(id)
			return func() { require.NoError(t, b.DB.Client.Unlink(b.Ctx, append(k.Step(), k.Deliveries)...).Err()) }
		}
		again := func(id string, o batch.Outcome) {
			_, _, err := b.Retry(b.Ctx, "me", id, &batch.RetrySpec{Outcomes: []batch.Outcome{o}})
			require.NoError(t, err)
		}
		read := func(id string) string { return batches.Steps.Read.Hash() + " 2 " + keys.KeysOf(id).State }
		waiting := b.Submit(3, queuetest.Spec()).ID
		b.Interrupt("hmget "+keys.KeysOf(waiting).Actions, false, gone(waiting))
		_, err := b.Results(b.Ctx, "me", waiting, batch.ResultQuery{Limit: 10})
		require.ErrorIs(t, err, batch.ErrNotFound, "it expired before its actions were read")

		ended := b.Submit(3, queuetest.Spec()).ID
		b.EndAll(ended, 3)
		b.Interrupt(read(ended), false, gone(ended))
		_, err = b.Results(b.Ctx, "me", ended, batch.ResultQuery{Limit: 10, Outcomes: []batch.Outcome{batch.Succeeded}})
		require.ErrorIs(t, err, batch.ErrNotFound, "it expired before its results were read")

		large := b.Submit(250, queuetest.Spec()).ID
		b.EndAll(large, 250)
		b.Interrupt(read(large), false, gone(large))
		_, err = b.Results(b.Ctx, "me", large, batch.ResultQuery{Limit: 1000})
		require.ErrorIs(t, err, batch.ErrNotFound, "it expired before the rest of its states was read")

		failed := b.Submit(1, queuetest.Spec()).ID
		b.End(failed, 0, batch.Failed)
		b.Interrupt(read(failed), false, func() {
			again(failed, batch.Failed)
			b.End(failed, 0, batch.Succeeded)
		})
		page, err := b.Results(b.Ctx, "me", failed, batch.ResultQuery{Limit: 10, Outcomes: []batch.Outcome{batch.Failed}})
		require.NoError(t, err)
		require.Equal(t, &batch.ResultPage{Results: [][]byte{}, Next: -1}, page, "it was retried before its results were read")

		running := b.Submit(3, queuetest.Spec()).ID
		b.Interrupt(read(running), false, func() { b.End(running, 1, batch.Succeeded) })
		page, err = b.Results(b.Ctx, "me", running, batch.ResultQuery{Limit: 10, Outcomes: []batch.Outcome{batch.Pending}})
		require.NoError(t, err)
		require.Len(t, page.Results, 2, "an action ended before the results were read")

		retried := b.Submit(250, queuetest.Spec()).ID
		b.EndAll(retried, 250)
		b.Interrupt(read(retried), false, func() { again(retried, batch.Succeeded) })
		page, err = b.Results(b.Ctx, "me", retried, batch.ResultQuery{Limit: 1000})
		require.NoError(t, err)
		require.Len(t, page.Results, 250)
		require.Contains(t, string(page.Results[249]), `"outcome":"pending"`)
	}, "embedded", "server", "cluster")
}

// Before its group ends, the result of an action may be stored already. If the group is overdue then, that is no damage.
func TestAResultThatAGroupNotedIsNoDamage(t *testing.T) {
	queuetest.OnStores(t, func(t *testing.T, b *queuetest.Bundle) {
		up, err := b.Open(b.Ctx, "me", "")
		require.NoError(t, err)
		for i := range 2 {
			action := queuetest.Action(i)
			action.Group = "g"
			require.NoError(t, up.Add(b.Ctx, action))
		}
		made, _, err := up.Commit(b.Ctx, queuetest.Spec())
		require.NoError(t, err)
		b.Background.Wait()
		begun := b.Begin(made.ID, 0)
		begun.Group.Seq++
		_, err = b.Ledger.SaveGroup(b.Ctx, made.ID, begun.Token, begun.Group, queuetest.Result(0, batch.Succeeded))
		require.NoError(t, err)
		require.Equal(t, batch.Pending, b.AllResults(made.ID, 10)[0].Outcome)
		require.NoError(t, b.Batches.EndOverdue(b.Ctx, made.ID))
		for _, r := range b.AllResults(made.ID, 10) {
			require.Equal(t, batch.Unknown, r.Outcome)
		}
	}, "embedded", "server")
}
