// Package index keeps the lists by which the sweeper finds batches, and notes the batches that a lost reply left in
// doubt.
package index

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
)

const (
	// AlertFor is how long the sweeper looks at every open batch in every round, after an event by
	// which Redis or a worker may have lost work.
	AlertFor = 40 * time.Second
	// ListHold is how long an entry that was entered again stays in its list, whatever an earlier look
	// at its batch found.
	ListHold = 30 * time.Second
)

// Index has the lists by which the sweeper finds batches: the open batches, by the time at which it
// looks at each next, and the throttled ones.
type Index struct{ db *rdb.DB }

// New returns the index of the batches in a Redis.
func New(db *rdb.DB) *Index { return &Index{db} }

// againKey returns the key of the entries of a list that were entered again, in the slot of the list.
func againKey(list string) string { return "{" + list + "}:again" }

// Reopen enters a batch into the open list, and into the throttled list if it is throttled. A caller
// does so before the step that gives an ended batch work again. In the other order, a crash between the
// two would leave a batch that no process finds. Looks at the batch that are older than the step
// do not remove the entry, for [ListHold].
func (x *Index) Reopen(ctx context.Context, id string, throttled bool) error {
	lists := []string{keys.OpenKey}
	if throttled {
		lists = append(lists, keys.ThrottledKey)
	}
	for _, list := range lists {
		if err := x.enter(ctx, list, id); err != nil {
			return fmt.Errorf("enter the batch into %s: %w", list, err)
		}
	}
	return nil
}

// ReopenMany enters batches into the open list in one exchange, as Reopen does.
func (x *Index) ReopenMany(ctx context.Context, ids []string) error {
	if err := x.enter(ctx, keys.OpenKey, ids...); err != nil {
		return fmt.Errorf("enter %d batches into %s: %w", len(ids), keys.OpenKey, err)
	}
	return nil
}

// enter enters batches into a list and protects the entries.
func (x *Index) enter(ctx context.Context, list string, ids ...string) error {
	args := []any{rdb.Millis(ListHold)}
	for _, id := range ids {
		args = append(args, id)
	}
	_, err := x.db.Run(ctx, Steps.Reopen, []string{list, againKey(list)}, args...)
	return err
}

// ReopenAll makes those of the batches that are in the open list due at once.
func (x *Index) ReopenAll(ctx context.Context, ids []string) error {
	ctx, cancel := x.db.WithTimeout(ctx)
	defer cancel()
	entries := make([]redis.Z, len(ids))
	for i, id := range ids { // with a negative score, an entry is due before all others
		entries[i] = redis.Z{Member: id, Score: -float64(time.Now().UnixMilli())}
	}
	return rdb.MapError(ctx, x.db.Client.ZAddXX(ctx, keys.OpenKey, entries...).Err())
}

// Unlist removes batches from a list, and returns how many it removed. The caller looked at them at
// that time or later, by the clock of the list's server. Entries that were made again since shortly
// before that time stay.
func (x *Index) Unlist(ctx context.Context, list string, at time.Time, ids ...string) (removed int, err error) {
	args := []any{strconv.FormatInt(at.UnixMilli(), 10), rdb.Millis(ListHold)}
	for _, id := range ids {
		args = append(args, id)
	}
	reply, err := x.db.Run(ctx, Steps.Unlist, []string{list, againKey(list)}, args...)
	if err != nil {
		return 0, fmt.Errorf("remove batches from %s: %w", list, err)
	}
	return int(rdb.Atoi(reply[0])), nil
}

// AlertSweeper makes all open batches due, and has the sweeper of whichever process look at them in
// every round for [AlertFor].
func (x *Index) AlertSweeper(ctx context.Context) error {
	if _, err := x.db.Run(ctx, Steps.Alert, []string{keys.OpenKey, keys.AlertKey}, rdb.Millis(AlertFor)); err != nil {
		return fmt.Errorf("alert the sweeper: %w", err)
	}
	return nil
}

// AnyOpen reports whether the open list has an entry.
func (x *Index) AnyOpen(ctx context.Context) (bool, error) {
	ctx, cancel := x.db.WithTimeout(ctx)
	defer cancel()
	n, err := x.db.Client.Exists(ctx, keys.OpenKey).Result()
	return n > 0, rdb.MapError(ctx, err)
}

// Staged returns for ids without a batch whether actions are staged for them: then an upload may be
// about to commit. No clock decides about that, since the clocks of processes differ, and an upload
// may take any time.
func (x *Index) Staged(ctx context.Context, ids []string) (map[string]bool, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	ctx, cancel := x.db.WithTimeout(ctx)
	defer cancel()
	cmds := make([]*redis.IntCmd, len(ids))
	if _, err := x.db.Client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, id := range ids {
			cmds[i] = p.Exists(ctx, keys.KeysOf(id).Actions)
		}
		return nil
	}); err != nil {
		return nil, rdb.MapError(ctx, err)
	}
	found := make(map[string]bool)
	for i, id := range ids {
		found[id] = cmds[i].Val() > 0
	}
	return found, nil
}
