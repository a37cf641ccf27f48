package queue_test

import (
	"testing"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
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
