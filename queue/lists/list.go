package lists

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

const (
	// mostReads bounds the exchanges of a page, of which each reads entries or batches. After that, a page ends
	// early: old entries have no batch.
	mostReads = 10
	// furtherRead is how many entries a page reads at least, after the first ones had too few batches.
	furtherRead = 200
)

// List implements [batch.Store].
func (l *Lists) List(ctx context.Context, owners batch.Owners, cursor string, limit int) ([]*batch.Batch, string, error) {
	var after *entry
	if cursor != "" {
		e, err := parseCursor(cursor)
		if err != nil {
			return nil, "", err
		}
		after = &e
	}
	var found []*batch.Batch
	for read := range mostReads {
		want := limit - len(found)
		if read > 0 {
			want = max(want, furtherRead)
		}
		entries, more, err := l.entries(ctx, listsOf(owners), after, want)
		if err != nil {
			return nil, "", err
		}
		page, err := l.read(ctx, entries)
		if err != nil {
			return nil, "", err
		}
		for i, one := range page {
			after = &entries[i]
			if one == nil {
				continue
			}
			if found = append(found, one); len(found) == limit && (more || i < len(page)-1) {
				return found, after.cursor(), nil
			}
		}
		if !more {
			return found, "", nil
		}
	}
	return found, after.cursor(), nil
}

// entries merges up to limit entries of lists that come after an entry, and reports whether there are more. The
// newest come first, and those of the same time in the descending order of their ids.
func (l *Lists) entries(ctx context.Context, from []list, after *entry, limit int) ([]entry, bool, error) {
	var all []entry
	more := false
	for _, one := range from {
		entries, further, err := l.entriesOf(ctx, one, after, limit)
		if err != nil {
			return nil, false, err
		}
		all, more = append(all, entries...), more || further
	}
	slices.SortFunc(all, func(x, y entry) int {
		return cmp.Or(cmp.Compare(y.created, x.created), strings.Compare(y.id, x.id))
	})
	if len(all) > limit {
		all, more = all[:limit], true
	}
	return all, more, nil
}

// entriesOf returns up to limit entries of one list, as entries does.
func (l *Lists) entriesOf(ctx context.Context, of list, after *entry, limit int) ([]entry, bool, error) {
	ctx, cancel := l.db.WithTimeout(ctx)
	defer cancel()
	var entries []entry
	by := redis.ZRangeBy{Max: "+inf", Min: "-inf", Count: int64(limit) + 1}
	if after != nil {
		by.Max = strconv.FormatInt(after.created, 10)
	}
	for {
		page, err := l.db.Client.ZRevRangeByScoreWithScores(ctx, of.key, &by).Result()
		if err != nil {
			return nil, false, rdb.MapError(ctx, err)
		}
		for _, z := range page {
			e := of.entry(rdb.Text(z.Member), z.Score)
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

// read reads the batches of entries, nil for those that have none, and removes these entries. On a Redis that
// refuses writes, they stay until a later List.
func (l *Lists) read(ctx context.Context, entries []entry) ([]*batch.Batch, error) {
	metas, err := l.metas(ctx, entries)
	if err != nil {
		return nil, err
	}
	page := make([]*batch.Batch, len(entries))
	var bare []entry
	for i, e := range entries {
		if len(metas[i]) == 0 {
			bare = append(bare, e)
			continue
		}
		if metas[i]["owner"] != e.owner { // the list or the batch was changed
			return nil, &batch.DamagedError{ID: e.id, Err: fmt.Errorf("list batch %s: it belongs to another owner: %w", e.id, seal.ErrSealed)}
		}
		if page[i], err = l.batches.Codec.DecodeBatch(e.id, metas[i]); err != nil {
			return nil, err
		}
	}
	if _, err := l.drop(ctx, bare); err != nil {
		l.log.WarnContext(ctx, "entries without a batch not removed from a list", "error", err)
	}
	return page, nil
}

// metas reads the hashes of the batches of entries.
func (l *Lists) metas(ctx context.Context, entries []entry) ([]map[string]string, error) {
	ctx, cancel := l.db.WithTimeout(ctx)
	defer cancel()
	cmds := make([]*redis.MapStringStringCmd, len(entries))
	if _, err := l.db.Client.Pipelined(ctx, func(p redis.Pipeliner) error {
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
