package quotas_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/quotas"
)

// Many small batches must be able to use nearly all of the quota.
func TestNoBodyIsDroppedWhileMuchOfTheQuotaIsFree(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		const quota, body = 1 << 20, 5000
		mine := of("me", batch.Quotas{StoredBytes: quota})
		var ids []string
		for range 40 {
			ids = append(ids, b.must(1, mine).ID)
		}
		sum := func() (n int64) {
			for _, id := range ids {
				n += b.stored(id)
			}
			return n
		}
		for _, id := range ids {
			require.Empty(t, b.answer(b.Ledger, id, 0, body).TruncatedBy)
		}
		require.Less(t, sum(), int64(quota/2))
		for {
			got, err := b.submit(1, mine)
			if err != nil {
				b.requireRefused(err, batch.QuotaStoredBytes)
				break
			}
			ids = append(ids, got.ID)
			if b.answer(b.Ledger, got.ID, 0, body).TruncatedBy != "" {
				break
			}
		}
		require.Greater(t, sum(), int64(quota*9/10))
		require.LessOrEqual(t, sum(), int64(quota+small))
	})
}

// The room of an open batch is not lost to others while the batch does not use it.
func TestAnOpenBatchGivesUpRoomThatOthersNeed(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		const quota = 2 << 20
		mine := of("me", batch.Quotas{StoredBytes: quota})
		idle := b.must(300, mine)
		before := b.number(idle.ID, "room")
		require.Greater(t, before, b.stored(idle.ID)+500<<10)
		other := b.must(1, mine)
		require.Empty(t, b.answer(b.Ledger, other.ID, 0, quota*3/4).TruncatedBy)
		require.Less(t, b.number(idle.ID, "room"), before)
		require.LessOrEqual(t, b.stored(other.ID)+b.number(idle.ID, "room"), int64(quota))
		require.Empty(t, b.answer(b.Ledger, idle.ID, 0, 20<<10).TruncatedBy, "it gets room again")
		require.Equal(t, batch.QuotaStoredBytes, b.answer(b.Ledger, idle.ID, 1, 500<<10).TruncatedBy)
		require.Less(t, b.number(idle.ID, "room")+b.stored(other.ID), int64(quota))

		require.NoError(t, b.Delete(b.Ctx, "me", other.ID))
		require.Empty(t, b.answer(b.Ledger, idle.ID, 2, 300<<10).TruncatedBy)
		require.Greater(t, b.number(idle.ID, "room"), b.stored(idle.ID))
		for { // submissions reclaim it, too
			if _, err := b.submit(100, mine); err != nil {
				b.requireRefused(err, batch.QuotaStoredBytes)
				break
			}
		}
		require.Equal(t, b.number(idle.ID, "room"), b.stored(idle.ID))
		require.Greater(t, b.use(mine).StoredBytes, int64(quota*9/10))
	})
}

// The last result of a batch reserves nothing ahead, and others no more than the batch can need.
func TestABatchReservesNoMoreThanItsActionsNeed(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		mine := of("me", batch.Quotas{StoredBytes: 64 << 20})
		got := b.must(3, mine)
		b.answer(b.Ledger, got.ID, 0, 20<<10)
		require.Less(t, b.number(got.ID, "room"), b.stored(got.ID)+42<<10)
		b.answer(b.Ledger, got.ID, 1, 10)
		b.answer(b.Ledger, got.ID, 2, 90<<10)
		require.Equal(t, b.number(got.ID, "room"), b.stored(got.ID))
		require.Equal(t, b.stored(got.ID), b.use(mine).StoredBytes)
	})
}

// A worker has reserved room for a batch, then another process lowered the room of the batch.
func TestABatchGetsNoRoomThatWasReclaimed(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		mine := of("me", batch.Quotas{StoredBytes: 8 << 20})
		got := b.must(1, mine)
		meta := []string{keys.KeysOf(got.ID).Meta}
		now, err := b.DB.Now(b.Ctx)
		require.NoError(t, err)
		run := func(lowered string) string {
			answer, err := b.DB.Run(b.Ctx, quotas.Steps.SetRoom, meta, "", lowered, 1<<20, now.UnixMilli()+60_000)
			require.NoError(t, err)
			return answer[0]
		}
		lower := func(coming int) string {
			answer, err := b.DB.Run(b.Ctx, quotas.Steps.Lower, meta, coming)
			require.NoError(t, err)
			return answer[0]
		}
		require.Equal(t, "busy", lower(1<<20))
		require.Equal(t, "lowered", lower(0))
		require.Equal(t, "over", run(""))
		require.Equal(t, b.stored(got.ID), b.number(got.ID, "room"))
		require.Equal(t, "ok", run("1"))
		require.EqualValues(t, 1<<20, b.number(got.ID, "room"))
		b.End(got.ID, 0, batch.Failed)
		require.Equal(t, "ended", lower(0))
		require.NoError(t, b.Delete(b.Ctx, "me", got.ID))
		require.Equal(t, "gone", lower(0))
		require.Zero(t, b.DB.Client.Exists(b.Ctx, meta[0]).Val())
	})
}

// A worker died after it reserved room that the batch did not get, and refusals go on all the time.
func TestRefusalsDoNotKeepRoomThatNoBatchGot(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		mine := of("me", batch.Quotas{StoredBytes: 1 << 20})
		got := b.must(1, mine)
		b.dieBeforeSetRoom(got.ID, b.Begin(got.ID, 0))
		look := quotas.Keys("owner:me")[1]
		before := b.DB.Client.ZScore(b.Ctx, look, got.ID).Val()
		_, _, err := b.Batches.Quotas.Reserve(b.Ctx, &mine, quotas.Charge{ID: "refused", Bytes: 1 << 20})
		b.requireRefused(err, batch.QuotaStoredBytes)
		require.Equal(t, int64(before), int64(b.DB.Client.ZScore(b.Ctx, look, got.ID).Val()), "it is looked at when the reservation is over")
	})
}

// Of two accounts, the second has no room.
func TestARefusedReservationCountsInNoAccount(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		address, mine := at("a", batch.Quotas{StoredBytes: 8 << 20}), of("me", batch.Quotas{StoredBytes: 64 << 10})
		got := b.must(2, address, mine)
		require.NotEmpty(t, b.answer(b.Ledger, got.ID, 0, 300<<10).TruncatedBy)
		require.Equal(t, b.use(mine), b.use(address))
		b.answer(b.Ledger, got.ID, 1, 10)
		b.passTime(address, mine)
		b.Sweep()
		ended := b.use(address)
		little := of("me", batch.Quotas{StoredBytes: 4 << 10})
		_, _, err := b.Retry(b.Ctx, "me", got.ID, &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Succeeded}, Accounts: []batch.Account{address, little}})
		b.requireRefused(err, batch.QuotaStoredBytes)
		require.Equal(t, ended, b.use(address))
	})
}

// An operator changed the quota, and restarted the processes, while batches waited.
func TestQueuedBatchesFollowTheConfiguredQuota(t *testing.T) {
	queuetest.OnStores(t, func(t *testing.T, b0 *queuetest.Bundle) {
		b := &bundle{b0}
		const low, high = 100 << 10, 8 << 20
		own := of("own", batch.Quotas{StoredBytes: low})
		own.Own = true
		raised, lowered, keyed := b.must(10, of("a", batch.Quotas{StoredBytes: low})), b.must(10, of("b", batch.Quotas{StoredBytes: high})), b.must(10, own)
		require.NoError(t, b.Batches.Quotas.Announce(b.Ctx, high, 0))
		require.Positive(t, b.DB.Client.PTTL(b.Ctx, quotas.ConfiguredKey).Val())
		for i := range 10 {
			require.Empty(t, b.answer(b.Ledger, raised.ID, i, 30<<10).TruncatedBy)
			b.answer(b.Ledger, keyed.ID, i, 30<<10)
		}
		require.LessOrEqual(t, b.stored(keyed.ID), int64(low+10*small), "the quota of the key")
		require.NoError(t, b.Batches.Quotas.Announce(b.Ctx, low, 0))
		for i := range 10 {
			b.answer(b.Ledger, lowered.ID, i, 30<<10)
		}
		require.LessOrEqual(t, b.stored(lowered.ID), int64(low+10*small))
		none := b.must(1, of("c", batch.Quotas{StoredBytes: low}))
		require.NoError(t, b.Batches.Quotas.Announce(b.Ctx, 0, 0))
		require.Empty(t, b.answer(b.Ledger, none.ID, 0, 300<<10).TruncatedBy, "no quota any more")
	}, "embedded", "server")
}

// A process died after it lowered the room of a batch, before the account counted less.
func TestRoomThatIsHalfReclaimedIsNotLost(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		const quota = 1 << 20
		mine := of("me", batch.Quotas{StoredBytes: quota})
		idle, other := b.must(100, mine), b.must(1, mine)
		begun := b.Begin(other.ID, 0)
		died := &queuetest.RefusedCommands{Step: quotas.Steps.Correct.Hash()}
		b.DB.Client.AddHook(died)
		require.Error(t, b.Ledger.Finish(b.Ctx, other.ID, 0, begun.Token, large(0, 800<<10)))
		died.Over.Store(true)
		require.Equal(t, b.stored(idle.ID), b.number(idle.ID, "room"))
		r := large(0, 800<<10)
		require.NoError(t, b.Ledger.Finish(b.Ctx, other.ID, 0, begun.Token, r))
		require.Empty(t, r.TruncatedBy)
		require.LessOrEqual(t, b.use(mine).StoredBytes, int64(quota))
	})
}
