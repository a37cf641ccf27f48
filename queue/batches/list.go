package batches

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
)

// listEntry is an entry of an owner's list: a batch, and the time of its creation in microseconds, by
// Redis's clock. Its cursor is "<time>-<id>".
type listEntry struct {
	created int64
	id      string
}

func (e listEntry) cursor() string { return fmt.Sprintf("%d-%s", e.created, e.id) }

func parseListCursor(cursor string) (listEntry, error) {
	created, id, _ := strings.Cut(cursor, "-")
	us, err := strconv.ParseInt(created, 10, 64)
	if err != nil || us < 0 || !keys.IsBatchID(id) {
		return listEntry{}, batch.ErrCursor
	}
	return listEntry{us, id}, nil
}

// List implements [batch.Store].
func (b *Batches) List(ctx context.Context, owners []string, cursor string, limit int) ([]*batch.Batch, string, error) {
	var after *listEntry
	if cursor != "" {
		e, err := parseListCursor(cursor)
		if err != nil {
			return nil, "", err
		}
		after = &e
	}
	var found []*batch.Batch
	for {
		entries, more, err := b.listedBy(ctx, owners, after, limit-len(found))
		if err != nil {
			return nil, "", err
		}
		batches, err := b.listed(ctx, owners, entries)
		if err != nil {
			return nil, "", err
		}
		found = append(found, batches...)
		if !more {
			return found, "", nil
		}
		after = &entries[len(entries)-1]
		if len(found) == limit {
			return found, after.cursor(), nil
		}
	}
}

// listedBy merges the entries of several owners; see listEntries.
func (b *Batches) listedBy(ctx context.Context, owners []string, after *listEntry, limit int) ([]listEntry, bool, error) {
	var all []listEntry
	more := false
	for _, owner := range owners {
		entries, further, err := b.listEntries(ctx, owner, after, limit)
		if err != nil {
			return nil, false, err
		}
		all, more = append(all, entries...), more || further
	}
	slices.SortFunc(all, func(x, y listEntry) int {
		return cmp.Or(cmp.Compare(y.created, x.created), strings.Compare(y.id, x.id))
	})
	if len(all) > limit {
		all, more = all[:limit], true
	}
	return all, more, nil
}

// listEntries returns up to limit entries of the owner's list that come after an entry, and whether
// there are more. The newest come first, and those of the same time in the descending order of their
// ids.
func (b *Batches) listEntries(ctx context.Context, owner string, after *listEntry, limit int) ([]listEntry, bool, error) {
	ctx, cancel := b.db.WithTimeout(ctx)
	defer cancel()
	var entries []listEntry
	by := redis.ZRangeBy{Max: "+inf", Min: "-inf", Count: int64(limit) + 1}
	if after != nil {
		by.Max = strconv.FormatInt(after.created, 10)
	}
	for {
		page, err := b.db.Client.ZRevRangeByScoreWithScores(ctx, keys.OwnerKey(owner), &by).Result()
		if err != nil {
			return nil, false, rdb.MapError(ctx, err)
		}
		for _, z := range page {
			e := listEntry{int64(z.Score), rdb.Text(z.Member)}
			if after != nil && e.created == after.created && e.id >= after.id {
				continue
			}
			if len(entries) == limit {
				return entries, true, nil
			}
			entries = append(entries, e)
		}
		if int64(len(page)) < by.Count {
			return entries, false, nil
		}
		by.Offset += int64(len(page))
	}
}

// listed reads the batches of entries, and removes the entries that have none. On a Redis that refuses
// writes, these stay until a later List.
func (b *Batches) listed(ctx context.Context, owners []string, entries []listEntry) ([]*batch.Batch, error) {
	metas, err := b.metas(ctx, entries)
	if err != nil {
		return nil, err
	}
	var batches []*batch.Batch
	var bare []string
	for i, e := range entries {
		if len(metas[i]) == 0 {
			bare = append(bare, e.id)
			continue
		}
		if !slices.Contains(owners, metas[i]["owner"]) { // the list or the batch was changed
			return nil, &batch.DamagedError{ID: e.id, Err: fmt.Errorf("list batch %s: it belongs to another owner: %w", e.id, seal.ErrSealed)}
		}
		one, err := b.Codec.DecodeBatch(e.id, metas[i])
		if err != nil {
			return nil, err
		}
		batches = append(batches, one)
	}
	if err := b.dropEntries(ctx, owners, bare); err != nil {
		b.log.WarnContext(ctx, "entries without a batch not removed from a list", "error", err)
	}
	return batches, nil
}

// metas reads the hashes of the batches of entries.
func (b *Batches) metas(ctx context.Context, entries []listEntry) ([]map[string]string, error) {
	ctx, cancel := b.db.WithTimeout(ctx)
	defer cancel()
	cmds := make([]*redis.MapStringStringCmd, len(entries))
	if _, err := b.db.Client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, e := range entries {
			cmds[i] = p.HGetAll(ctx, keys.KeysOf(e.id).Meta)
		}
		return nil
	}); err != nil {
		return nil, rdb.MapError(ctx, err)
	}
	metas := make([]map[string]string, len(entries))
	for i, cmd := range cmds {
		metas[i] = cmd.Val()
	}
	return metas, nil
}

// dropEntries removes entries without a batch, except those whose upload may be about to commit.
func (b *Batches) dropEntries(ctx context.Context, owners, ids []string) error {
	staged, err := b.Index.Staged(ctx, ids)
	if err != nil {
		return err
	}
	var gone []any
	for _, id := range ids {
		if !staged[id] {
			gone = append(gone, id)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	ctx, cancel := b.db.WithTimeout(ctx)
	defer cancel()
	_, err = b.db.Client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, owner := range owners {
			p.ZRem(ctx, keys.OwnerKey(owner), gone...)
		}
		return nil
	})
	return rdb.MapError(ctx, err)
}
