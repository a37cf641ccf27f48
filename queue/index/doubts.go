package index

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/batchd/batchd/queue/rdb"
)

// doubtsChunk is the number of batches that one exchange reopens.
const doubtsChunk = 1000

// Doubts are the batches that a step of this process has left in doubt: its reply was lost, so Redis
// may have run it, and it may have ended the batch or marked its webhook as due. As soon as Redis
// replies again, the batches are due in the open list, and the sweeper looks at them.
type Doubts struct {
	db         *rdb.DB
	log        *slog.Logger
	background *rdb.Background
	index      *Index

	mu     sync.Mutex
	counts map[string]int // by batch, how often it was added
}

// Doubts returns the batches in doubt, of which there are none yet.
func (x *Index) Doubts(log *slog.Logger, background *rdb.Background) *Doubts {
	return &Doubts{db: x.db, log: log, background: background, index: x, counts: make(map[string]int)}
}

// AddIf adds a batch if a step on it failed because Redis did not reply.
func (d *Doubts) AddIf(id string, err error) {
	if rdb.IsUnavailable(err) {
		d.Add(id)
	}
}

// Add adds a batch. The first one starts a goroutine, which runs until no batch is left.
func (d *Doubts) Add(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.counts[id]++
	if len(d.counts) > 1 || d.counts[id] > 1 {
		return
	}
	d.background.Go(func(ctx context.Context) {
		for ctx.Err() == nil {
			none, err := d.reopen(ctx, rdb.RetryFor)
			if none {
				return
			}
			if err != nil && ctx.Err() == nil {
				d.log.WarnContext(ctx, "the sweeper looks late at batches with unanswered steps", "error", err)
				select {
				case <-ctx.Done():
				case <-time.After(rdb.RetryPause):
				}
			}
		}
	})
}

// reopen makes the batches due in the open list, and removes those that are. It reports whether no
// batch is left.
func (d *Doubts) reopen(ctx context.Context, retryFor time.Duration) (none bool, err error) {
	seen := d.snapshot()
	for chunk := range slices.Chunk(slices.Collect(maps.Keys(seen)), doubtsChunk) {
		if err := rdb.RetryUnavailableFor(ctx, retryFor, func() error { return d.index.ReopenAll(ctx, chunk) }); err != nil {
			return false, fmt.Errorf("reopen batches with unanswered steps: %w", err)
		}
		none = d.remove(seen, chunk)
	}
	return none || len(seen) == 0, nil
}

// Close reopens the batches that are left, once. The caller has ended everything else that adds batches.
func (d *Doubts) Close() {
	ctx, cancel := d.db.WithTimeout(context.Background())
	defer cancel()
	if _, err := d.reopen(ctx, 0); err != nil {
		d.log.WarnContext(ctx, "the sweeper looks late at batches with unanswered steps", "error", err)
	}
}

// snapshot returns a copy of the counts.
func (d *Doubts) snapshot() map[string]int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.counts)
}

// remove removes those of the batches that were not added again since the snapshot, and reports
// whether no batch is left.
func (d *Doubts) remove(seen map[string]int, ids []string) (none bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, id := range ids {
		if d.counts[id] == seen[id] {
			delete(d.counts, id)
		}
	}
	return len(d.counts) == 0
}
