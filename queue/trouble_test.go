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

func TestASlowUploadKeepsItsKey(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		u, err := b.Open(b.Ctx, "me", "k")
		require.NoError(t, err)
		raw := u.(*upload.Upload)
		for i := range 3 {
			require.NoError(t, b.DB.Client.PExpire(b.Ctx, raw.Keys.Upload, upload.MarkerTTL/3).Err())
			raw.Marker.At = time.Now().Add(-upload.MarkerTTL / 3)
			require.NoError(t, u.Add(b.Ctx, queuetest.Action(i)))
			ttl, err := b.DB.Client.PTTL(b.Ctx, raw.Keys.Upload).Result()
			require.NoError(t, err)
			require.Greater(t, ttl, upload.MarkerTTL/2)
		}
		_, _, err = u.Commit(b.Ctx, queuetest.Spec())
		require.NoError(t, err)
	})
}
