package fanout

import (
	"context"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
)

const ReleaseReads = releaseReads

// Remembered returns the number of throttled batches, and of their limits, that rounds remember.
func (f *Fanout) Remembered() (batches, limits int) {
	f.throttled.mu.Lock()
	defer f.throttled.mu.Unlock()
	return len(f.throttled.batches), len(f.throttled.limits)
}

func (f *Fanout) RecordOffered(ctx context.Context, all []Batch) error {
	return f.recordOffered(ctx, all)
}

// PrepareRetry prepares an attempt at retrying n actions of a batch that is not throttled.
func (f *Fanout) PrepareRetry(ctx context.Context, owner, id, token string, n int, limit *batch.Limit) error {
	a := &retryAttempt{fanout: f, owner: owner, id: id, token: token, marker: keys.MarkerKey(id, token), n: n}
	_, err := a.prepare(ctx, limit, false)
	return err
}
