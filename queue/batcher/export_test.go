package batcher

import "time"

const (
	GatherMost = gatherMost
	MaxBytes   = maxBytes
)

// Reopen lets a batcher that was closed run calls again.
func (b *Batcher) Reopen() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed, b.flushers, b.moreTimerSet, b.gatherFor = false, 0, false, gatherFor
}

// ReopenBusy reopens a batcher whose flush loops are busy until StartFlushers. It makes no
// additional exchanges meanwhile.
func (b *Batcher) ReopenBusy() {
	b.Reopen()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.flushers, b.moreTimerSet = maxFlushers, true
}

// StartFlushers starts all flush loops.
func (b *Batcher) StartFlushers() {
	b.mu.Lock()
	b.moreTimerSet = false
	b.mu.Unlock()
	for range maxFlushers {
		b.wg.Go(b.flushLoop)
	}
}

// GatherFor changes how long calls wait for others.
func (b *Batcher) GatherFor(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.gatherFor = d
}

// EndGathering ends the time for which calls wait for others.
func (b *Batcher) EndGathering() { b.gatherTimer.Reset(0) }

// Waiting returns the number of calls that wait for an exchange.
func (b *Batcher) Waiting() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.waiting)
}

// MoreFlushers returns the number of exchanges beyond those of the flush loops.
func (b *Batcher) MoreFlushers() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.moreFlushers
}

// Closed reports whether the batcher answers only the calls that it has.
func (b *Batcher) Closed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}
