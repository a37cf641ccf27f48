package tasks

import (
	"context"

	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
)

// ReportLost adds a note to [keys.LostKey] that a queue may have lost tasks: tasks that a poll took and that no
// worker holds. Each note is unique, so that the sweeper removes only those that it has read. ReportLost
// repeats the write until Redis accepts it or ctx ends, and tries at least once.
func (q *Queues) ReportLost(ctx context.Context, queue string) (err error) {
	note := queue + " " + q.db.Token()
	for {
		err = rdb.RetryUnavailable(ctx, func() error {
			ctx, cancel := q.db.WithTimeout(context.WithoutCancel(ctx))
			defer cancel()
			return rdb.MapError(ctx, q.db.Client.SAdd(ctx, keys.LostKey, note).Err())
		})
		if ctx.Err() != nil || !rdb.IsUnavailable(err) {
			return err
		}
	}
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
