package queue

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/queue/rdb"
)

// doubtedChunk is the number of doubted batches that one exchange names.
const doubtedChunk = 1000

// doubted are batches of which a step was not answered: it may have been done, and may
// have ended the batch or left its webhook to be sent. The sweeper is asked to look at
// them as soon as Redis answers again.
type doubted struct {
	mu  sync.Mutex
	ids map[string]int // how often
}

// doubtIf notes that a step of a batch was not answered, if that is why it failed.
func (s *Store) doubtIf(id string, err error) {
	if rdb.IsUnavailable(err) {
		s.doubt(id)
	}
}

// doubt notes that a step of a batch was not answered.
func (s *Store) doubt(id string) {
	d := &s.doubted
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ids == nil {
		d.ids = make(map[string]int)
	}
	d.ids[id]++
	if len(d.ids) > 1 || d.ids[id] > 1 {
		return // the task below goes on until there is none left
	}
	s.background.Go(func(ctx context.Context) {
		for ctx.Err() == nil {
			none, err := s.reopenDoubted(ctx, rdb.RetryFor)
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

// reopenDoubted has the sweeper look at the batches that are doubted, and forgets those of
// which it could ask that. It reports whether none is left.
func (s *Store) reopenDoubted(ctx context.Context, retryFor time.Duration) (none bool, err error) {
	seen, ids := s.doubted.seen()
	for chunk := range slices.Chunk(ids, doubtedChunk) {
		if err := rdb.RetryUnavailableFor(ctx, retryFor, func() error { return s.reopenAll(ctx, chunk) }); err != nil {
			return false, fmt.Errorf("reopen batches with unanswered steps: %w", err)
		}
		none = s.doubted.forget(seen, chunk)
	}
	return none || len(ids) == 0, nil
}

// closeDoubted reopens once, when nothing else runs any more, what is still doubted.
func (s *Store) closeDoubted() {
	ctx, cancel := s.db.WithTimeout(context.Background())
	defer cancel()
	if _, err := s.reopenDoubted(ctx, 0); err != nil {
		s.log.Warn("batches with unanswered steps are looked at late", "error", err)
	}
}

// seen returns the batches as they are doubted now.
func (d *doubted) seen() (map[string]int, []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	seen, ids := make(map[string]int, len(d.ids)), make([]string, 0, len(d.ids))
	for id, n := range d.ids {
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
		if d.ids[id] == seen[id] {
			delete(d.ids, id)
		}
	}
	return len(d.ids) == 0
}

// reopenAll has the sweeper look at open batches in its next round.
func (s *Store) reopenAll(ctx context.Context, ids []string) error {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	entries := make([]redis.Z, len(ids))
	for i, id := range ids {
		entries[i] = atOnce(id)
	}
	return rdb.MapError(ctx, s.db.Client.ZAddXX(ctx, openKey, entries...).Err())
}
