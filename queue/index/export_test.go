package index

import "context"

// Counts returns the batches in doubt, for a test to change while nothing runs in the background.
func (d *Doubts) Counts() map[string]int { return d.counts }

// ReopenOnce reopens the batches, and reports whether none is left.
func (d *Doubts) ReopenOnce(ctx context.Context) (none bool, err error) { return d.reopen(ctx, 0) }
