package queue_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/repair"
	"github.com/batchd/batchd/queue/tasks"
	"github.com/batchd/batchd/queue/upload"
)

func TestRedeliveringWhatIsNotThereLeavesNothing(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		for _, id := range []string{uuid.NewString(), "ffffffff-ffff-7fff-bfff-ffffffffffff", uuid.Must(uuid.NewV7()).String()} {
			require.ErrorIs(t, b.Redeliver(b.Ctx, "me", id), batch.ErrNotFound)
		}
		require.Equal(t, batch.Swept{}, b.Sweep())
		require.NoError(t, b.DB.Client.ZAdd(b.Ctx, keys.OpenKey, redis.Z{Member: "ffffffff-ffff-7fff-bfff-ffffffffffff"}).Err())
		require.Equal(t, batch.Swept{Open: 1, Closed: 1}, b.Sweep(), "an id from the future is none of ours")
	})
}

func TestWhatIsInFlightForEverIsUnknownInTheEnd(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		s := queuetest.Spec()
		s.WebhookURL = "https://example.com/hook"
		id := b.Submit(2, s).ID
		b.Begin(id, 0)
		expired := func(ago time.Duration) {
			require.NoError(t, b.DB.Client.HSet(b.Ctx, keys.KeysOf(id).Meta, "expires", time.Now().Add(-ago).UnixMilli()).Err())
		}
		expired(time.Minute)
		require.Equal(t, batch.Swept{Open: 1, Expired: 1}, b.Sweep())
		require.Equal(t, batch.Counts{Total: 2, Pending: 1, Expired: 1}, b.Read(id).Counts)
		b.Sweep()
		require.Equal(t, 1, b.Read(id).Counts.Pending, "it is given its time")
		expired(repair.OverdueAfter + time.Minute)
		require.Equal(t, 1, b.Sweep().Expired)
		got := b.Read(id)
		require.Equal(t, batch.StatusExpired, got.Status)
		require.Equal(t, batch.Counts{Total: 2, Unknown: 1, Expired: 1}, got.Counts)
		require.Equal(t, batch.CodeInterrupted, b.AllResults(id, 10)[0].Error.Code)
		tasks, err := b.Inspector().ListPendingTasks(tasks.WebhookQueue)
		require.NoError(t, err)
		require.Len(t, tasks, 1)
	})
}

func TestASlowUploadKeepsItsKey(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		u, err := b.Open(b.Ctx, "me", "k")
		require.NoError(t, err)
		raw := u.(*upload.Upload)
		for i := range 3 {
			require.NoError(t, b.DB.Client.PExpire(b.Ctx, raw.Keys.Upload, upload.MarkerTTL/3).Err())
			raw.MarkedAt = time.Now().Add(-upload.MarkerTTL / 3)
			require.NoError(t, u.Add(b.Ctx, queuetest.Action(i)))
			ttl, err := b.DB.Client.PTTL(b.Ctx, raw.Keys.Upload).Result()
			require.NoError(t, err)
			require.Greater(t, ttl, upload.MarkerTTL/2)
		}
		_, _, err = u.Commit(b.Ctx, queuetest.Spec())
		require.NoError(t, err)
	})
}
