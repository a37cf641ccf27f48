package lists_test

import (
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/lists"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/rdb"
)

// submit commits a batch of one action for an owner.
func submit(b *queuetest.Bundle, owner string) string {
	b.T.Helper()
	up, err := b.Open(b.Ctx, owner, "")
	require.NoError(b.T, err)
	require.NoError(b.T, up.Add(b.Ctx, queuetest.Action(0)))
	made, _, err := up.Commit(b.Ctx, queuetest.Spec())
	require.NoError(b.T, err)
	b.Background.Wait()
	return made.ID
}

// pages reads a list page by page.
func pages(b *queuetest.Bundle, owners batch.Owners, limit int) (ids []string) {
	b.T.Helper()
	for cursor := ""; ; {
		page, next, err := b.List(b.Ctx, owners, cursor, limit)
		require.NoError(b.T, err)
		require.LessOrEqual(b.T, len(page), limit)
		for _, one := range page {
			require.True(b.T, owners.Has(one.Owner))
			ids = append(ids, one.ID)
		}
		if cursor = next; cursor == "" {
			return ids
		}
	}
}

// expire removes the keys of a batch, as Redis does at the end of its retention.
func expire(b *queuetest.Bundle, id string) {
	b.T.Helper()
	k := keys.KeysOf(id)
	require.NoError(b.T, b.DB.Client.Unlink(b.Ctx, append(k.Step(), k.Deliveries)...).Err())
}

// entries returns the members of a list.
func entries(b *queuetest.Bundle, key string) []string {
	b.T.Helper()
	members, err := b.DB.Client.ZRange(b.Ctx, key, 0, -1).Result()
	require.NoError(b.T, err)
	return members
}

func TestTheBatchesOfAllOwnersAreListedNewestFirst(t *testing.T) {
	queuetest.OnEveryStore(t, func(t *testing.T, b *queuetest.Bundle) {
		var want []string
		for i := range 9 {
			want = slices.Insert(want, 0, submit(b, fmt.Sprint("owner ", i%4))) // an owner may have any name
		}
		for limit := 1; limit < 11; limit++ {
			require.Equal(t, want, pages(b, batch.OfAll(), limit), "in pages of %d", limit)
		}
		require.Equal(t, []string{want[0], want[4], want[8]}, pages(b, batch.OwnedBy("owner 0"), 2))
		require.Empty(t, pages(b, batch.Owners{}, 2), "the zero value selects none")

		require.NoError(t, b.Delete(b.Ctx, "owner 0", want[4]))
		require.NotContains(t, entries(b, keys.AllBatchesKey), keys.AllBatchesMember(want[4], "owner 0"))
		expire(b, want[1])
		want = slices.Delete(slices.Delete(want, 4, 5), 1, 2)
		require.Equal(t, want, pages(b, batch.OfAll(), 3))
		require.Len(t, entries(b, keys.AllBatchesKey), len(want), "reading removes entries without a batch")
		require.Len(t, entries(b, keys.OwnerKey("owner 3")), 1, "from the list of the owner, too")
		ttl, err := b.DB.Client.PTTL(b.Ctx, keys.AllBatchesKey).Result()
		require.NoError(t, err)
		require.Greater(t, ttl, 700*24*time.Hour)
		_, _, err = b.List(b.Ctx, batch.OfAll(), "x", 1)
		require.ErrorIs(t, err, batch.ErrCursor)
	})
}

func TestEntriesOfExpiredBatchesLeaveBothLists(t *testing.T) {
	queuetest.OnStores(t, func(t *testing.T, b *queuetest.Bundle) {
		var kept []string
		for i := range 6 {
			id := submit(b, fmt.Sprint("owner", i%2))
			if i%3 == 0 {
				kept = append(kept, id)
				continue
			}
			expire(b, id)
		}
		up := b.Upload(1) // an entry of an upload that is about to commit stays
		removed, err := b.Lists.Clean(b.Ctx)
		require.NoError(t, err)
		require.Equal(t, 4, removed)
		require.Equal(t, []string{keys.AllBatchesMember(kept[0], "owner0"), keys.AllBatchesMember(kept[1], "owner1")}, entries(b, keys.AllBatchesKey))
		for i := range 2 {
			require.Equal(t, []string{kept[i]}, entries(b, keys.OwnerKey(fmt.Sprint("owner", i))))
		}
		removed, err = b.Lists.Clean(b.Ctx)
		require.NoError(t, err)
		require.Zero(t, removed)
		up.Abort(b.Ctx)
		for i, id := range kept {
			require.NoError(t, b.Delete(b.Ctx, fmt.Sprint("owner", i), id))
		}
		require.NotContains(t, b.AllKeys(), keys.AllBatchesKey)
	}, "embedded", "server", "cluster")
}

// Many entries without a batch cost a page a bounded number of exchanges, and cleaning a few thousand at a time.
func TestAPageOfManyOldEntriesEndsEarly(t *testing.T) {
	queuetest.OnStores(t, func(t *testing.T, b *queuetest.Bundle) {
		oldest := submit(b, "me")
		const old = 5000
		at := time.Now().UnixMicro()
		var members, ids []redis.Z
		for i := range old {
			id := uuid.NewString()
			members = append(members, redis.Z{Score: float64(at + int64(i)), Member: keys.AllBatchesMember(id, "me")})
			ids = append(ids, redis.Z{Score: float64(at + int64(i)), Member: id})
		}
		require.NoError(t, b.DB.Client.ZAdd(b.Ctx, keys.AllBatchesKey, members...).Err())
		require.NoError(t, b.DB.Client.ZAdd(b.Ctx, keys.OwnerKey("me"), ids...).Err())
		meter := queuetest.NewMeter(b)
		page, next, err := b.List(b.Ctx, batch.OfAll(), "", 1)
		require.NoError(t, err)
		exchanges, _ := meter.Reset()
		require.Empty(t, page)
		require.NotEmpty(t, next, "the page ends early")
		require.Less(t, exchanges, 60)

		removed := 0
		for calls := 1; removed < old/2; calls++ {
			require.Less(t, calls, 20)
			n, err := b.Lists.Clean(b.Ctx)
			require.NoError(t, err)
			require.LessOrEqual(t, n, 200)
			removed += n
		}
		require.Equal(t, []string{oldest}, pages(b, batch.OfAll(), 1))
		require.Equal(t, []string{oldest}, pages(b, batch.OwnedBy("me"), 1))
	}, "server")
}

// plant enters a member into a list, with a score.
func plant(b *queuetest.Bundle, list, member string, score float64) {
	b.T.Helper()
	require.NoError(b.T, b.DB.Client.ZAdd(b.Ctx, list, redis.Z{Score: score, Member: member}).Err())
}

// A list has no batch whose owner is another than its entry says, and goes on with the others.
func TestTheListOfAllShowsNoBatchUnderAnotherOwner(t *testing.T) {
	queuetest.OnStores(t, func(t *testing.T, b *queuetest.Bundle) {
		id, other := submit(b, "me"), submit(b, "you")
		plant(b, keys.AllBatchesKey, keys.AllBatchesMember(id, "you"), float64(time.Now().UnixMicro()))
		plant(b, keys.OwnerKey("you"), id, float64(time.Now().UnixMicro()))
		for limit := 1; limit < 5; limit++ {
			require.Equal(t, []string{other, id}, pages(b, batch.OfAll(), limit))
			require.Equal(t, []string{other}, pages(b, batch.OwnedBy("you"), limit))
			require.Equal(t, []string{other, id}, pages(b, batch.OwnedBy("you", "me"), limit))
		}
	}, "embedded", "server")
}

func TestAForeignEntryIsLoggedOnce(t *testing.T) {
	t.Parallel()
	log := &queuetest.LogBuffer{}
	b := queuetest.Open(t, rdb.Embedded)
	id := submit(b, "me")
	plant(b, keys.OwnerKey("you"), id, 1)
	found := lists.New(b.DB, slog.New(slog.NewTextHandler(log, nil)), b.Batches)
	for range 3 {
		page, next, err := found.List(b.Ctx, batch.OwnedBy("you"), "", 10)
		require.NoError(t, err)
		require.Empty(t, page)
		require.Empty(t, next)
	}
	require.Equal(t, 1, log.Count(id))
}

// A batch that cannot be read is listed as such, at its place, and the others are listed as before.
func TestADamagedBatchDoesNotEndTheList(t *testing.T) {
	queuetest.OnStores(t, func(t *testing.T, b *queuetest.Bundle) {
		var want []string
		for range 5 {
			want = slices.Insert(want, 0, submit(b, "me"))
		}
		require.NoError(t, b.DB.Client.HSet(b.Ctx, keys.KeysOf(want[1]).Meta, "target", "erp").Err())
		require.NoError(t, b.DB.Client.HSet(b.Ctx, keys.KeysOf(want[2]).Meta, "status", "bogus").Err())
		require.NoError(t, b.DB.Client.Del(b.Ctx, keys.KeysOf(want[4]).Meta).Err())
		require.NoError(t, b.DB.Client.Set(b.Ctx, keys.KeysOf(want[4]).Meta, "x", 0).Err())
		damaged := map[string]bool{want[1]: true, want[2]: true, want[4]: true}
		for limit := 1; limit < 7; limit++ {
			require.Equal(t, want, pages(b, batch.OfAll(), limit))
			require.Equal(t, want, pages(b, batch.OwnedBy("me"), limit))
		}
		page, _, err := b.List(b.Ctx, batch.OfAll(), "", 10)
		require.NoError(t, err)
		for i, one := range page {
			require.Equal(t, "me", one.Owner)
			require.WithinDuration(t, time.Now(), one.CreatedAt, time.Hour)
			require.Equal(t, damaged[one.ID], one.Damaged != nil, i)
			if one.Damaged != nil {
				require.Equal(t, one.ID, one.Damaged.ID)
				require.ErrorContains(t, one.Damaged, one.ID)
			}
		}
	}, "embedded", "server", "cluster")
}

// Entries that no commit makes are left out, and every cursor leads to the next page.
func TestAListOfAnotherTypeIsNamed(t *testing.T) {
	queuetest.OnStores(t, func(t *testing.T, b *queuetest.Bundle) {
		require.NoError(t, b.DB.Client.Set(b.Ctx, keys.OwnerKey("me"), "x", 0).Err())
		_, _, err := b.List(b.Ctx, batch.OwnedBy("me"), "", 10)
		require.ErrorContains(t, err, keys.OwnerKey("me"))
	}, "server")
}

func TestEntriesThatNameNoBatchAreLeftOut(t *testing.T) {
	queuetest.OnStores(t, func(t *testing.T, b *queuetest.Bundle) {
		var want []string
		for range 3 {
			want = slices.Insert(want, 0, submit(b, "me"))
		}
		for limit := 1; limit < 5; limit++ {
			for i, score := range []float64{math.Inf(1), math.Inf(-1), -5, 0, 1.5, 1e300, float64(time.Now().UnixMicro())} {
				for _, member := range []string{"x", "", "a b", "\n", uuid.NewString()} {
					plant(b, keys.OwnerKey("me"), member+strings.Repeat(" ", i), score)
					plant(b, keys.AllBatchesKey, member+strings.Repeat(" ", i), score)
				}
			}
			require.Equal(t, want, pages(b, batch.OfAll(), limit))
			require.Equal(t, want, pages(b, batch.OwnedBy("me"), limit))
		}
		last, _, err := b.List(b.Ctx, batch.OfAll(), "9007199254740993-"+want[0], 1)
		require.ErrorIs(t, err, batch.ErrCursor)
		require.Empty(t, last)
	}, "embedded", "server")
}
