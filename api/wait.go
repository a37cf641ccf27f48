package api

import (
	"context"
	"errors"
	"time"

	"github.com/batchd/batchd/internal/batch"
)

const (
	// pollInterval is how often a waiting request looks by itself, because a
	// wake-up can be lost with a connection.
	pollInterval = 2 * time.Second
	// newPause is when it looks for the first time at a batch that was just committed.
	// That is not likely to have ended before it is watched.
	newPause = 20 * time.Millisecond
)

// watch says how a batch is waited for.
type watch struct {
	wait  time.Duration // at most; 0 is a look
	pause time.Duration // until the first look, unless it is woken
	few   int           // see [batch.Store.Get]
}

// await returns the batch as it is when it is terminal, when the time is over,
// or when the server drains, whichever comes first.
func (s *Server) await(ctx context.Context, owner, id string, w watch) (*batch.Batch, error) {
	if w.wait <= 0 {
		return s.cfg.Store.Get(ctx, owner, id, w.few)
	}
	// Watching begins before looking, or an end in between would be missed.
	wake, stop := s.cfg.Store.Watch(id)
	defer stop()
	over := time.NewTimer(w.wait)
	defer over.Stop()
	look := time.NewTimer(w.pause)
	defer look.Stop()
	for last := false; ; {
		select {
		case b := <-wake:
			if b != nil && b.Owner == owner {
				refresh(ctx)
				return b, nil
			}
		case <-look.C:
		case <-over.C:
			last = true
		case <-s.draining:
			last = true
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		refresh(ctx)
		b, err := s.cfg.Store.Get(ctx, owner, id, w.few)
		switch {
		case err != nil && !last && errors.As(err, new(*batch.UnavailableError)):
			look.Reset(pollInterval / 8) // the store may be back before the time is over
		case err != nil || b.Status.Terminal() || last:
			return b, err
		default:
			look.Reset(pollInterval)
		}
	}
}
