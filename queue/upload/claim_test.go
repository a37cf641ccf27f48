package upload_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/upload"
)

func TestAnIdempotencyKeyMakesOneBatch(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		submit := func(key, content string) (*batch.Batch, bool, error) {
			u, err := b.Open(b.Ctx, "me", key)
			if err != nil {
				return nil, false, err
			}
			defer u.Abort(b.Ctx)
			if err := u.Add(b.Ctx, queuetest.Action(0)); err != nil {
				return nil, false, err
			}
			s := queuetest.Spec()
			s.Fingerprint = []byte(content)
			return u.Commit(b.Ctx, s)
		}
		first, replayed, err := submit("k", "body")
		require.NoError(t, err)
		require.False(t, replayed)
		again, replayed, err := submit("k", "body")
		require.NoError(t, err)
		require.True(t, replayed)
		require.Equal(t, first, again)
		_, _, err = submit("k", "other body")
		require.ErrorIs(t, err, batch.ErrKeyReused)

		require.NoError(t, b.Delete(b.Ctx, "me", first.ID))
		fresh, replayed, err := submit("k", "other body")
		require.NoError(t, err, "the key of a deleted batch is free")
		require.False(t, replayed)
		require.NotEqual(t, first.ID, fresh.ID)

		open, err := b.Open(b.Ctx, "me", "busy")
		require.NoError(t, err)
		_, err = b.Open(b.Ctx, "me", "busy")
		require.ErrorIs(t, err, batch.ErrKeyBusy)
		_, err = b.Open(b.Ctx, "you", "busy")
		require.NoError(t, err, "another owner's key is another key")
		// The process that accepts it dies: its marker runs out, and the key is
		// taken over. Should it wake up after all, it can't commit any more.
		require.NoError(t, open.Add(b.Ctx, queuetest.Action(0)))
		require.NoError(t, b.DB.Client.Del(b.Ctx, open.(*upload.Upload).Keys().Upload).Err())
		_, _, err = submit("busy", "body")
		require.NoError(t, err)
		_, _, err = open.Commit(b.Ctx, queuetest.Spec())
		require.ErrorIs(t, err, batch.ErrUploadLost)
	})
}

func TestAnUploadThatLostItsPlaceCannotCommit(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		u, err := b.Open(b.Ctx, "me", "k")
		require.NoError(t, err)
		require.NoError(t, u.Add(b.Ctx, queuetest.Action(0)))
		require.NoError(t, b.DB.Client.Del(b.Ctx, u.(*upload.Upload).Keys().Upload).Err()) // it was idle for too long
		_, _, err = u.Commit(b.Ctx, queuetest.Spec())
		require.ErrorIs(t, err, batch.ErrUploadLost)

		u, err = b.Open(b.Ctx, "me", "")
		require.NoError(t, err)
		for i := range upload.ChunkActions {
			require.NoError(t, u.Add(b.Ctx, queuetest.Action(i)))
		}
		require.NoError(t, u.(*upload.Upload).Settle(t.Context()))
		require.NoError(t, b.DB.Client.Del(b.Ctx, u.(*upload.Upload).Keys().Actions).Err())
		_, _, err = u.Commit(b.Ctx, queuetest.Spec())
		require.ErrorIs(t, err, batch.ErrUploadLost)

		u, err = b.Open(b.Ctx, "me", "other")
		require.NoError(t, err)
		require.NoError(t, u.Add(b.Ctx, queuetest.Action(0)))
		require.NoError(t, b.DB.Client.Set(b.Ctx, u.(*upload.Upload).Claim(), "another", 0).Err())
		_, _, err = u.Commit(b.Ctx, queuetest.Spec())
		require.ErrorIs(t, err, batch.ErrUploadLost)
		list, _, err := b.List(b.Ctx, batch.OwnedBy("me"), "", 10)
		require.NoError(t, err)
		require.Empty(t, list)
	})
}

func TestAHundredSubmissionsOfOneKeyMakeOneBatch(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		ids := make(chan string, 100)
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				for {
					u, err := b.Open(b.Ctx, "me", "k")
					if err != nil {
						if !strings.Contains(err.Error(), batch.ErrKeyBusy.Error()) {
							ids <- err.Error()
							return
						}
						continue
					}
					_ = u.Add(b.Ctx, queuetest.Action(0))
					got, _, err := u.Commit(b.Ctx, queuetest.Spec())
					if err != nil {
						ids <- err.Error()
						return
					}
					ids <- got.ID
					return
				}
			})
		}
		wg.Wait()
		close(ids)
		distinct := map[string]int{}
		for id := range ids {
			distinct[id]++
		}
		require.Len(t, distinct, 1)
		list, _, err := b.List(b.Ctx, batch.OwnedBy("me"), "", 10)
		require.NoError(t, err)
		require.Len(t, list, 1)
	})
}

func TestASlowUploadKeepsItsKey(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		u, err := b.Open(b.Ctx, "me", "k")
		require.NoError(t, err)
		raw := u.(*upload.Upload)
		for i := range 3 {
			require.NoError(t, b.DB.Client.PExpire(b.Ctx, raw.Keys().Upload, upload.MarkerTTL/3).Err())
			raw.MarkedAt(time.Now().Add(-upload.MarkerTTL / 3))
			require.NoError(t, u.Add(b.Ctx, queuetest.Action(i)))
			ttl, err := b.DB.Client.PTTL(b.Ctx, raw.Keys().Upload).Result()
			require.NoError(t, err)
			require.Greater(t, ttl, upload.MarkerTTL/2)
		}
		_, _, err = u.Commit(b.Ctx, queuetest.Spec())
		require.NoError(t, err)
	})
}

// If it is not known whether a batch was committed, its idempotency key tells.
func TestTheKeyOfACommitInDoubtIsFreeOrTheBatchs(t *testing.T) {
	t.Parallel()
	b := open(t, redistest.Start(t).URL())
	b.Submit(1, queuetest.Spec()) // the steps are known there
	open := func() *upload.Upload {
		t.Helper()
		var u batch.Upload
		b.Eventually("the key", func() (ok bool) {
			var err error
			u, err = b.Open(b.Ctx, "me", "k")
			if err != nil {
				require.ErrorIs(t, err, batch.ErrKeyBusy)
			}
			return err == nil
		})
		require.NoError(t, u.Add(b.Ctx, queuetest.Action(0)))
		return u.(*upload.Upload)
	}
	replicas := func(n string) {
		t.Helper()
		require.NoError(t, b.DB.Client.ConfigSet(b.Ctx, "min-replicas-to-write", n).Err())
	}
	u := open()
	replicas("1") // nothing is written
	_, _, err := u.Commit(b.Ctx, queuetest.Spec())
	require.Error(t, err)
	replicas("0")
	u.Abort(b.Ctx)
	b.Background.Wait()

	v := open()
	require.False(t, v.Replay())
	b.DB.Client.AddHook(&queuetest.LostReplies{Left: 1, Only: upload.Steps.Commit.Hash()})
	_, _, err = v.Commit(b.Ctx, queuetest.Spec())
	require.Error(t, err)
	v.Abort(b.Ctx)
	w := open()
	require.True(t, w.Replay())
	require.Equal(t, v.ID(), w.ID())
	b.End(v.ID(), 0, batch.Succeeded)
}
