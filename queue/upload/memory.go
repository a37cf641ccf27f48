package upload

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/rdb"
)

const (
	// memoryShare is the part of Redis's maxmemory beyond which no new batch is accepted. At the whole
	// of it workers could not even take a task: the rest is for the work that was accepted.
	memoryShare = 0.8
	// resultRoom is about how many bytes the result of a waiting action takes, if its answer is small.
	resultRoom = 600
	// memoryEvery is how long a reading of Redis's memory is used, and memoryFailed how long the error
	// of one that failed.
	memoryEvery  = time.Second
	memoryFailed = 250 * time.Millisecond
	// memoryRetryAfter is when a client that was refused may try again.
	memoryRetryAfter = 10 * time.Second
)

// memoryGuard refuses new batches while Redis has too little memory left. It remembers the last reading.
type memoryGuard struct {
	db      *rdb.DB
	waiting func(ctx context.Context) (int, error) // the number of actions that wait for their tasks

	mu       sync.Mutex
	at       time.Time
	share    float64
	failedAt time.Time
	failed   error
}

// check returns an error if Redis has too little memory left for a new batch.
func (g *memoryGuard) check(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if time.Since(g.failedAt) < memoryFailed {
		return g.failed
	}
	if time.Since(g.at) >= memoryEvery {
		// Other submissions wait for this reading and use it, its error too: one reading after
		// the other would take too long.
		ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), g.db.Timeout/2, rdb.ErrSlow)
		defer cancel()
		share, err := g.used(ctx)
		if err != nil {
			g.failedAt, g.failed = time.Now(), err
			return err
		}
		g.at, g.share = time.Now(), share
	}
	if g.share < memoryShare {
		return nil
	}
	return &batch.UnavailableError{
		RetryAfter: memoryRetryAfter, Err: fmt.Errorf("redis uses %.0f%% of its maxmemory, with room for the results of the actions that wait: new batches are accepted again below %.0f%%", 100*g.share, 100*memoryShare),
	}
}

// used returns the used part of maxmemory, that of the fullest shard. The results of actions that wait for
// their tasks will need room, so it counts as used.
func (g *memoryGuard) used(ctx context.Context) (float64, error) {
	servers, err := g.db.Memory(ctx)
	if err != nil || !slices.ContainsFunc(servers, func(m rdb.Memory) bool { return m.Most > 0 }) {
		return 0, err
	}
	waiting, err := g.waiting(ctx)
	if err != nil {
		return 0, err
	}
	fullest := 0.0
	for _, m := range servers {
		if m.Most > 0 {
			fullest = max(fullest, (m.Used+float64(waiting*resultRoom/len(servers)))/m.Most)
		}
	}
	return fullest, nil
}
