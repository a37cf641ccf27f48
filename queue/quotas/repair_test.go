package quotas_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/quotas"
)

// A process died after it reserved, before it committed or released anything.
func TestTheSweeperReleasesTheReservationOfADeadUpload(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		mine := of("me", batch.Quotas{OpenBatches: 1})
		_, _, err := b.Batches.Quotas.Reserve(b.Ctx, &mine, quotas.Charge{ID: uuid.Must(uuid.NewV7()).String(), Bytes: 100})
		require.NoError(t, err)
		_, err = b.submit(1, mine)
		b.requireRefused(err, batch.QuotaOpenBatches)
		b.Sweep()
		require.EqualValues(t, 1, b.use(mine).OpenBatches, "the upload may be about to commit")
		b.passTime(mine)
		b.Sweep()
		require.Zero(t, b.use(mine))
		b.must(1, mine)
	})
}

// A refused submission does not wait for the sweeper.
func TestARefusalLooksAtBatchesFirst(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		mine := of("me", batch.Quotas{StoredBytes: 10 << 10})
		got := b.must(1, mine)
		k := keys.KeysOf(got.ID)
		require.NoError(t, b.DB.Client.Del(b.Ctx, k.Meta, k.Actions).Err(), "its retention is over")
		b.passTime(mine)
		b.must(10, mine)
		require.EqualValues(t, 1, b.use(mine).OpenBatches)
	})
}

// A process died after it erased a batch, before it released it.
func TestTheSweeperReleasesBatchesThatAreGone(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		address, mine := at("a", batch.Quotas{OpenBatches: 9}), of("me", batch.Quotas{OpenBatches: 9})
		for i := range 3 {
			got := b.must(1, address, mine)
			if i == 2 {
				b.End(got.ID, 0, batch.Succeeded)
				b.passTime(address, mine)
				b.Sweep()
				require.EqualValues(t, 0, b.use(mine).OpenBatches)
				require.Positive(t, b.use(mine).StoredBytes)
			}
			k := keys.KeysOf(got.ID)
			require.NoError(t, b.DB.Client.Del(b.Ctx, append(k.Step(), k.Deliveries)...).Err())
			b.passTime(address, mine)
			b.Sweep()
			require.Zero(t, b.use(address))
			require.Zero(t, b.use(mine))
		}
		b.passTime()
		b.Sweep()
		b.noKeys()
	})
}

func TestASlowUploadKeepsItsReservation(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		mine := of("me", batch.Quotas{OpenBatches: 1})
		u, err := b.Open(b.Ctx, "me", "")
		require.NoError(t, err)
		u.Charge(mine)
		for i := range 600 { // more than one chunk
			require.NoError(t, u.Add(b.Ctx, queuetest.Action(i)))
		}
		require.EqualValues(t, 1, b.use(mine).OpenBatches)
		b.passTime(mine)
		b.Sweep()
		require.EqualValues(t, 1, b.use(mine).OpenBatches)
		got, _, err := u.Commit(b.Ctx, queuetest.Spec())
		require.NoError(t, err)
		require.EqualValues(t, 1, b.use(mine).OpenBatches)
		exact := b.use(mine).StoredBytes
		b.passTime(mine)
		b.Sweep()
		require.Equal(t, exact, b.use(mine).StoredBytes, "what a batch stores is what it was charged")
		require.NoError(t, b.Delete(b.Ctx, "me", got.ID))
		require.Zero(t, b.use(mine))
	})
}

// No batch exists that is not counted: after the end of its reservation an upload does not commit.
func TestACommitNeedsAReservationThatIsValid(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		mine := of("me", batch.Quotas{OpenBatches: 1})
		b.Batches.Quotas.Lease = -time.Second
		_, err := b.submit(1, mine)
		require.ErrorIs(t, err, batch.ErrUploadLost)
		b.Background.Wait()
		require.Zero(t, b.use(mine))
		page, _, err := b.List(b.Ctx, batch.OwnedBy("me"), "", 10)
		require.NoError(t, err)
		require.Empty(t, page)
	})
}

// What a look finds does not count if the batch was charged since the look began.
func TestALookThatIsOutdatedChangesNothing(t *testing.T) {
	queuetest.OnStores(t, func(t *testing.T, b0 *queuetest.Bundle) {
		b := &bundle{b0}
		mine := of("me", batch.Quotas{OpenBatches: 1})
		got := b.must(1, mine)
		b.End(got.ID, 0, batch.Failed)
		account := quotas.Keys("owner:me")[:4]
		b.passTime(mine)
		seen := b.DB.Client.ZScore(b.Ctx, account[1], got.ID).Val()
		_, err := b.Batches.Quotas.Reopen(b.Ctx, []batch.Account{mine}, got.ID, 100, 1)
		require.NoError(t, err)
		_, err = b.DB.Run(b.Ctx, quotas.Steps.Correct, account, got.ID, seen, "ended", 100, 100, time.Now().UnixMilli(), 1000)
		require.NoError(t, err)
		require.EqualValues(t, 1, b.use(mine).OpenBatches)

		now := b.DB.Client.ZScore(b.Ctx, account[1], got.ID).Val()
		_, err = b.DB.Run(b.Ctx, quotas.Steps.Correct, account, got.ID, int64(now), "ended", 100, 100, time.Now().UnixMilli(), 1000)
		require.NoError(t, err)
		require.EqualValues(t, 1, b.use(mine).OpenBatches, "the retry may be about to make the batch open")
		require.NoError(t, b.DB.Client.ZAdd(b.Ctx, account[1], redis.Z{Member: got.ID}).Err())
		_, err = b.DB.Run(b.Ctx, quotas.Steps.Correct, account, got.ID, 0, "ended", 100, 100, time.Now().UnixMilli(), 1000)
		require.NoError(t, err)
		require.Zero(t, b.use(mine).OpenBatches)
	}, "embedded", "server")
}
