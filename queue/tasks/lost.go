package tasks

import (
	"context"
	"math"

	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
)

// ReportLost adds a note to [keys.LostKey] that a queue may have lost tasks: tasks that a poll took and that no
// worker holds. Each note is unique, so that the sweeper removes only those that it has read. ReportLost
// repeats the write until Redis accepts it or ctx ends, and tries at least once.
func (q *Queues) ReportLost(ctx context.Context, queue string) error {
	note := queue + " " + q.db.Token()
	return rdb.RetryUnavailableFor(ctx, math.MaxInt64, func() error {
		ctx, cancel := q.db.WithTimeout(context.WithoutCancel(ctx))
		defer cancel()
		return rdb.MapError(ctx, q.db.Client.SAdd(ctx, keys.LostKey, note).Err())
	})
}

// ForgetLost removes notes that [Queues.ReportLost] wrote.
func (q *Queues) ForgetLost(ctx context.Context, notes []string) error {
	if len(notes) == 0 {
		return nil
	}
	ctx, cancel := q.db.WithTimeout(ctx)
	defer cancel()
	return rdb.MapError(ctx, q.db.Client.SRem(ctx, keys.LostKey, notes).Err())
}
