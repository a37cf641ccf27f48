package upload_test

import (
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue/fanout"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/upload"
)

// skewed returns ids as a process makes them whose clock differs by so much.
func skewed(by time.Duration) func() (uuid.UUID, error) {
	return func() (uuid.UUID, error) {
		id, err := uuid.NewV7()
		var ms [8]byte
		binary.BigEndian.PutUint64(ms[:], uint64(time.Now().Add(by).UnixMilli()))
		copy(id[:6], ms[2:])
		return id, err
	}
}

func TestListsFollowTheTimeOfRedisWhateverTheClocksOfProcesses(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		var made []*batch.Batch
		for i := range 12 {
			b.Uploads.NewID = skewed([]time.Duration{-20 * time.Minute, 0, 20 * time.Minute}[i%3])
			made = append(made, b.Submit(1, queuetest.Spec()))
		}
		list := func(limit int) []string {
			var ids []string
			for cursor := ""; ; {
				page, next, err := b.List(b.Ctx, batch.OwnedBy("me"), cursor, limit)
				require.NoError(t, err)
				require.LessOrEqual(t, len(page), limit)
				for _, one := range page {
					ids = append(ids, one.ID)
				}
				if cursor = next; cursor == "" {
					return ids
				}
			}
		}
		var want []string
		for _, one := range slices.Backward(made) {
			want = append(want, one.ID)
		}
		for limit := range 5 {
			require.Equal(t, want, list(limit+1))
		}
		_, cursor, err := b.List(b.Ctx, batch.OwnedBy("me"), "", 6)
		require.NoError(t, err)
		require.NoError(t, b.Delete(b.Ctx, "me", made[6].ID)) // the last of that page
		page, _, err := b.List(b.Ctx, batch.OwnedBy("me"), cursor, 1)
		require.NoError(t, err)
		require.Equal(t, made[5].ID, page[0].ID)
		want = slices.Delete(want, 5, 6)
		require.Equal(t, want, list(3))
		for _, cursor := range []string{"x", made[1].ID, "1-x", "-1-" + made[1].ID} {
			_, _, err := b.List(b.Ctx, batch.OwnedBy("me"), cursor, 1)
			require.ErrorIs(t, err, batch.ErrCursor, cursor)
		}
	})
}

func TestBatchesOfTheSameTimeAreEachListedOnce(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		var want []string
		at := time.Now().UnixMicro()
		for range 9 {
			id := b.Submit(1, queuetest.Spec()).ID
			_, err := b.DB.Run(b.Ctx, upload.Steps.List, []string{keys.OwnerKey("me")}, id, at, rdb.Millis(upload.ListTTL), false)
			require.NoError(t, err)
			want = append(want, id)
		}
		slices.Reverse(want)
		for limit := 1; limit < 11; limit++ {
			var ids []string
			for cursor := ""; ; {
				page, next, err := b.List(b.Ctx, batch.OwnedBy("me"), cursor, limit)
				require.NoError(t, err)
				for _, one := range page {
					ids = append(ids, one.ID)
				}
				if cursor = next; cursor == "" {
					break
				}
			}
			require.Equal(t, want, ids)
		}
	})
}

// Reading must not need a write: an entry of an expired batch stays until a later read
// can remove it.
func TestTheListIsReadWhereItsOldEntriesCannotBeRemoved(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	b := open(t, server.URL())
	gone := b.Submit(1, &batch.Spec{Target: "crm"}).ID
	kept := b.Submit(1, &batch.Spec{Target: "crm"}).ID
	require.NoError(t, b.DB.Client.Unlink(b.Ctx, keys.KeysOf(gone).Meta, keys.KeysOf(gone).Actions).Err())
	require.NoError(t, b.DB.Client.ConfigSet(b.Ctx, "min-replicas-to-write", "1").Err())
	page, _, err := b.List(b.Ctx, batch.OwnedBy("me"), "", 10)
	require.NoError(t, err)
	require.Len(t, page, 1)
	require.Equal(t, kept, page[0].ID)
	require.NoError(t, b.DB.Client.ConfigSet(b.Ctx, "min-replicas-to-write", "0").Err())
	_, _, err = b.List(b.Ctx, batch.OwnedBy("me"), "", 10)
	require.NoError(t, err)
	require.ErrorIs(t, b.DB.Client.ZScore(b.Ctx, keys.OwnerKey("me"), gone).Err(), redis.Nil)
}

// An entry whose batch is not there yet is that of an upload which may take its time, in
// a process whose clock may be late.
func TestEntriesOfAnUploadAreKeptWhateverItsClock(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		for _, by := range []time.Duration{-time.Hour, time.Hour} {
			b.Uploads.NewID = skewed(by)
			u := b.Upload(3)
			require.NoError(t, u.Flush(b.Ctx))
			require.NoError(t, u.Settle(t.Context()))
			require.NoError(t, u.Index(b.Ctx, true))
			require.NoError(t, u.List(b.Ctx, "", true))
			look := func() {
				b.Sweep()
				fan := fanout.New(b.DB, b.Log, b.Background, b.Tasks, b.Limits, b.Batches) // for which all batches are due
				_, err := fan.ReleaseThrottled(b.Ctx)
				require.NoError(t, err)
				page, _, err := b.List(b.Ctx, batch.OwnedBy("me"), "", 10)
				require.NoError(t, err)
				require.Empty(t, page)
			}
			indexes := []string{keys.OpenKey, keys.ThrottledKey, keys.OwnerKey("me")}
			look()
			require.NoError(t, b.DB.Client.ZScore(b.Ctx, keys.AllBatchesKey, keys.AllBatchesMember(u.ID(), "me")).Err())
			for _, index := range indexes {
				require.NoError(t, b.DB.Client.ZScore(b.Ctx, index, u.ID()).Err(), index)
			}
			u.Abort(b.Ctx)
			b.Background.Wait()
			look()
			for _, index := range indexes {
				require.Error(t, b.DB.Client.ZScore(b.Ctx, index, u.ID()).Err(), index)
			}
			require.Error(t, b.DB.Client.ZScore(b.Ctx, keys.AllBatchesKey, keys.AllBatchesMember(u.ID(), "me")).Err())
		}
	})
}
