package batches

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
)

// doubtedChunk is the number of doubted batches that one exchange names.
const doubtedChunk = 1000

// doubted are batches of which a step was not answered: it may have been done, and may
// have ended the batch or left its webhook to be sent. The sweeper is asked to look at
// them as soon as Redis answers again.
type doubted struct {
	mu  sync.Mutex
	IDs map[string]int // how often
}

// AddIf notes that a step of a batch was not answered, if that is why it failed.
func (s *Doubts) AddIf(id string, err error) {
	if rdb.IsUnavailable(err) {
		s.Doubt(id)
	}
}

// Doubt notes that a step of a batch was not answered.
func (s *Doubts) Doubt(id string) {
	d := &s.Doubted
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.IDs == nil {
		d.IDs = make(map[string]int)
	}
	d.IDs[id]++
	if len(d.IDs) > 1 || d.IDs[id] > 1 {
		return // the task below goes on until there is none left
	}
	s.background.Go(func(ctx context.Context) {
		for ctx.Err() == nil {
			none, err := s.ReopenDoubted(ctx, rdb.RetryFor)
			if none {
				return
			}
			if err != nil && ctx.Err() == nil {
				s.log.Warn("batches with unanswered steps are looked at late", "error", err)
				select {
				case <-ctx.Done():
				case <-time.After(rdb.RetryPause):
				}
			}
		}
	})
}

// ReopenDoubted has the sweeper look at the batches that are doubted, and forgets those of
// which it could ask that. It reports whether none is left.
func (s *Doubts) ReopenDoubted(ctx context.Context, retryFor time.Duration) (none bool, err error) {
	seen, ids := s.Doubted.seen()
	for chunk := range slices.Chunk(ids, doubtedChunk) {
		if err := rdb.RetryUnavailableFor(ctx, retryFor, func() error { return s.Open.reopenAll(ctx, chunk) }); err != nil {
			return false, fmt.Errorf("reopen batches with unanswered steps: %w", err)
		}
		none = s.Doubted.forget(seen, chunk)
	}
	return none || len(ids) == 0, nil
}

// Close reopens once, when nothing else runs any more, what is still doubted.
func (s *Doubts) Close() {
	ctx, cancel := s.db.WithTimeout(context.Background())
	defer cancel()
	if _, err := s.ReopenDoubted(ctx, 0); err != nil {
		s.log.Warn("batches with unanswered steps are looked at late", "error", err)
	}
}

// seen returns the batches as they are doubted now.
func (d *doubted) seen() (map[string]int, []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	seen, ids := make(map[string]int, len(d.IDs)), make([]string, 0, len(d.IDs))
	for id, n := range d.IDs {
		seen[id] = n
		ids = append(ids, id)
	}
	return seen, ids
}

// forget forgets those batches that were not doubted again, and reports whether none is left.
func (d *doubted) forget(seen map[string]int, ids []string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, id := range ids {
		if d.IDs[id] == seen[id] {
			delete(d.IDs, id)
		}
	}
	return len(d.IDs) == 0
}

// reopenAll has the sweeper look at open batches in its next round.
func (s *Index) reopenAll(ctx context.Context, ids []string) error {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	entries := make([]redis.Z, len(ids))
	for i, id := range ids {
		entries[i] = AtOnce(id)
	}
	return rdb.MapError(ctx, s.db.Client.ZAddXX(ctx, keys.OpenKey, entries...).Err())
}
