package batches

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
)

// Staged returns those of the ids, of which none has a batch, whose actions are staged:
// their uploads may be about to commit. No clock decides, since processes differ in the
// time, and an upload takes as long as it takes.
func (s *Index) Staged(ctx context.Context, ids []string) (map[string]bool, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	cmds := make([]*redis.IntCmd, len(ids))
	if _, err := s.db.Client.Pipelined(ctx, func(p redis.Pipeliner) error {
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

const (
	// AlertFor is how long the sweeper looks at every open batch in every round, after
	// something by which work may have been lost.
	AlertFor = 40 * time.Second
)

// AlertSweeper has the sweeper, in whichever process, look at all open batches now and in
// every round of the next while.
func (s *Index) AlertSweeper(ctx context.Context) error {
	if _, err := s.db.Run(ctx, Steps.Alert, []string{keys.OpenKey, keys.AlertKey}, rdb.Millis(AlertFor)); err != nil {
		return fmt.Errorf("alert the sweeper: %w", err)
	}
	return nil
}

// AtOnce is an entry of a batch that is due before all others.
func AtOnce(id string) redis.Z {
	return redis.Z{Member: id, Score: -float64(time.Now().UnixMilli())}
}

// ListHold is how long an entry that was made again stays in its list.
const ListHold = 30 * time.Second

// MadeAgain returns the key of the entries of a list that were made again, in the same slot.
func MadeAgain(list string) string { return "{" + list + "}:again" }

// Reopen has the sweeper look at a batch again, which has ended and is about not to have:
// the entry is made before the step, or a crash in between would leave a batch that no
// process knows of. A look at the batch that is older than the step removes nothing.
func (s *Index) Reopen(ctx context.Context, id string, throttled bool) error {
	lists := []string{keys.OpenKey}
	if throttled {
		lists = append(lists, keys.ThrottledKey)
	}
	for _, list := range lists {
		if _, err := s.db.Run(ctx, Steps.Reopen, []string{list, MadeAgain(list)}, id, rdb.Millis(ListHold)); err != nil {
			return fmt.Errorf("enter the batch into %s: %w", list, err)
		}
	}
	return nil
}

// Unlist removes from a list batches that were looked at after that time, unless their
// entries were made again.
func (s *Index) Unlist(ctx context.Context, list string, at time.Time, ids ...string) (removed int, err error) {
	args := []any{strconv.FormatInt(at.UnixMilli(), 10), rdb.Millis(ListHold)}
	for _, id := range ids {
		args = append(args, id)
	}
	answer, err := s.db.Run(ctx, Steps.Unlist, []string{list, MadeAgain(list)}, args...)
	if err != nil {
		return 0, fmt.Errorf("remove batches from %s: %w", list, err)
	}
	return int(rdb.Atoi(answer[0])), nil
}

// AnyOpen reports whether there is any batch that has not ended.
func (s *Index) AnyOpen(ctx context.Context) (bool, error) {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	n, err := s.db.Client.Exists(ctx, keys.OpenKey).Result()
	return n > 0, rdb.MapError(ctx, err)
}
