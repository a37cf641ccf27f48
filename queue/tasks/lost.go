package tasks

import (
	"context"

	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
)

// ReportLost notes that a queue may have lost tasks. Each note is told from others, so that
// the sweeper takes back only those it has seen. It goes on until Redis takes it, or the
// store is closed, and tries once even then.
func (s *Queues) ReportLost(ctx context.Context, queue string) (err error) {
	note := queue + " " + s.db.Token()
	for {
		err = rdb.RetryUnavailable(ctx, func() error {
			ctx, cancel := s.db.WithTimeout(context.WithoutCancel(ctx))
			defer cancel()
			return rdb.MapError(ctx, s.db.Client.SAdd(ctx, keys.LostKey, note).Err())
		})
		if ctx.Err() != nil || !rdb.IsUnavailable(err) {
			return err
		}
	}
}

// ForgetLost takes such notes back.
func (s *Queues) ForgetLost(ctx context.Context, notes []string) error {
	if len(notes) == 0 {
		return nil
	}
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	return rdb.MapError(ctx, s.db.Client.SRem(ctx, keys.LostKey, notes).Err())
}
