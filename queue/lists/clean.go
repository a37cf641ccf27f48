package lists

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
)

const (
	// cleanChunk is the most entries that one exchange of Clean reads.
	cleanChunk = 200
	// cleanParts is the number of calls after which Clean has seen the whole of a long list: a day, at one a minute.
	cleanParts = 24 * 60
)

// Clean looks at a part of the list of all batches, the oldest first, and removes the entries of batches that have
// expired, from the lists of their owners, too. It goes on where the last call ended. The sweeper calls it once a
// minute, so entries stay at most about a day longer than their batches.
func (l *Lists) Clean(ctx context.Context) (removed int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := list{key: keys.AllBatchesKey}
	length, err := l.length(ctx, all)
	if err != nil {
		return 0, err
	}
	if l.next >= length {
		l.next = 0
	}
	for left := max(length/cleanParts, cleanChunk); left > 0 && l.next < length; {
		entries, err := l.oldest(ctx, all, min(left, cleanChunk))
		if err != nil {
			return removed, err
		}
		if len(entries) == 0 {
			l.next = 0
			return removed, nil
		}
		gone, err := l.gone(ctx, entries)
		if err != nil {
			return removed, err
		}
		n, err := l.drop(ctx, gone)
		if removed += n; err != nil {
			return removed, err
		}
		left -= int64(len(entries))
		l.next += int64(len(entries) - n) // the entries that follow have moved up
		length -= int64(n)
	}
	return removed, nil
}

func (l *Lists) length(ctx context.Context, of list) (int64, error) {
	ctx, cancel := l.db.WithTimeout(ctx)
	defer cancel()
	n, err := l.db.Client.ZCard(ctx, of.key).Result()
	return n, rdb.MapError(ctx, err)
}

// oldest reads up to n entries of a list from the rank l.next on.
func (l *Lists) oldest(ctx context.Context, of list, n int64) ([]entry, error) {
	ctx, cancel := l.db.WithTimeout(ctx)
	defer cancel()
	members, err := l.db.Client.ZRange(ctx, of.key, l.next, l.next+n-1).Result()
	if err != nil {
		return nil, rdb.MapError(ctx, err)
	}
	entries := make([]entry, len(members))
	for i, member := range members {
		entries[i] = of.entry(member, 0)
	}
	return entries, nil
}

// gone returns the entries without a batch.
func (l *Lists) gone(ctx context.Context, entries []entry) (gone []entry, err error) {
	ctx, cancel := l.db.WithTimeout(ctx)
	defer cancel()
	cmds := make([]*redis.IntCmd, len(entries))
	if _, err := l.db.Client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, e := range entries {
			cmds[i] = p.Exists(ctx, keys.KeysOf(e.id).Meta)
		}
		return nil
	}); err != nil {
		return nil, rdb.MapError(ctx, err)
	}
	for i, e := range entries {
		if cmds[i].Val() == 0 {
			gone = append(gone, e)
		}
	}
	return gone, nil
}

// drop removes entries without a batch from both lists, except those whose upload may be about to commit. It
// returns how many it removed from the list of all batches.
func (l *Lists) drop(ctx context.Context, entries []entry) (removed int, err error) {
	if len(entries) == 0 {
		return 0, nil
	}
	ids := make([]string, len(entries))
	for i, e := range entries {
		ids[i] = e.id
	}
	staged, err := l.batches.Index.Staged(ctx, ids)
	if err != nil {
		return 0, err
	}
	ctx, cancel := l.db.WithTimeout(ctx)
	defer cancel()
	var all []*redis.IntCmd
	if _, err := l.db.Client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, e := range entries {
			if !staged[e.id] {
				all = append(all, p.ZRem(ctx, keys.AllBatchesKey, keys.AllBatchesMember(e.id, e.owner)))
				p.ZRem(ctx, keys.OwnerKey(e.owner), e.id)
			}
		}
		return nil
	}); err != nil {
		return 0, fmt.Errorf("remove entries from the lists: %w", rdb.MapError(ctx, err))
	}
	for _, cmd := range all {
		removed += int(cmd.Val())
	}
	return removed, nil
}
