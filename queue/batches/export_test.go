package batches

import "context"

// PageBytes is pageBytes.
const PageBytes = pageBytes

// Counts returns the batches in doubt, for a test to change while nothing runs in the background.
func (d *Doubts) Counts() map[string]int { return d.counts }

// Add adds a batch.
func (d *Doubts) Add(id string) { d.add(id) }

// ReopenOnce reopens the batches, and reports whether none is left.
func (d *Doubts) ReopenOnce(ctx context.Context) (none bool, err error) { return d.reopen(ctx, 0) }
