package lists

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

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
			return nil, false, fmt.Errorf("read the list of batches at %s: %w", of.key, rdb.MapError(ctx, err))
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
// refuses writes, they stay until a later List. Entries of batches that belong to another owner count as those without
// a batch, but they stay.
func (l *Lists) read(ctx context.Context, entries []entry) ([]*batch.Batch, error) {
	metas, err := l.metas(ctx, entries)
	if err != nil {
		return nil, err
	}
	page := make([]*batch.Batch, len(entries))
	var bare []entry
	for i, e := range entries {
		m, err := metas[i].Result()
		switch {
		case err != nil:
			err = fmt.Errorf("list batch %s: %w: %w", e.id, seal.ErrChanged, err)
		case len(m) == 0:
			bare = append(bare, e)
			continue
		case m["owner"] != e.owner && l.batches.Codec.Verify(e.id, m) == nil:
			l.logForeign(ctx, e)
			continue
		case m["owner"] != e.owner:
			err = fmt.Errorf("list batch %s: its owner is another than its list's: %w", e.id, seal.ErrChanged)
		default:
			page[i], err = l.batches.Codec.DecodeBatch(e.id, m)
		}
		if err == nil {
			continue
		}
		damaged := (*batch.DamagedError)(nil)
		if !errors.As(err, &damaged) {
			damaged = &batch.DamagedError{ID: e.id, Err: err}
		}
		page[i] = e.damaged(damaged)
	}
	if _, err := l.drop(ctx, bare); err != nil {
		l.log.WarnContext(ctx, "entries without a batch not removed from a list", "error", err)
	}
	return page, nil
}

// metas reads the hashes of the batches of entries. Each may have an error of its own, if something else is in its
// place.
func (l *Lists) metas(ctx context.Context, entries []entry) ([]*redis.MapStringStringCmd, error) {
	ctx, cancel := l.db.WithTimeout(ctx)
	defer cancel()
	cmds := make([]*redis.MapStringStringCmd, len(entries))
	if len(entries) == 0 {
		return cmds, nil
	}
	pipe := l.db.Client.Pipeline()
	for i, e := range entries {
		cmds[i] = pipe.HGetAll(ctx, keys.KeysOf(e.id).Meta)
	}
	for i, cmd := range l.db.Send(ctx, pipe) {
		if err := cmd.Err(); err != nil && !rdb.IsWrongType(err) {
			return nil, fmt.Errorf("list batch %s: %w", entries[i].id, rdb.MapError(ctx, err))
		}
	}
	return cmds, nil
}

// mostForeign is the most foreign entries that a process remembers.
const mostForeign = 1000

// foreignEntries are the entries of batches of other owners that a process has logged.
type foreignEntries struct {
	mu     sync.Mutex
	logged map[entry]struct{}
}

// logForeign logs once that an entry of a list names the batch of another owner.
func (l *Lists) logForeign(ctx context.Context, e entry) {
	l.foreign.mu.Lock()
	defer l.foreign.mu.Unlock()
	e.created = 0
	if _, known := l.foreign.logged[e]; known || len(l.foreign.logged) >= mostForeign {
		return
	}
	l.foreign.logged[e] = struct{}{}
	l.log.ErrorContext(ctx, "a list has the batch of another owner: the list was changed in Redis, and the entry is left out", "batch", e.id, "owner_of_list", e.owner)
}
