package api

import (
	"context"
	"time"

	"github.com/batchd/batchd/internal/batch"
)

// pollInterval is how often a waiting request looks by itself, because a
// wake-up can be lost with a connection.
const pollInterval = 2 * time.Second

// await returns the batch as it is when it is terminal, when the time is over,
// or when the server drains, whichever comes first. Its first results come with it
// where they belong into its document.
func (s *Server) await(ctx context.Context, owner, id string, wait time.Duration) (*batch.Batch, error) {
	if wait <= 0 {
		return s.cfg.Store.Get(ctx, owner, id, inlineResults)
	}
	// Watching begins before looking, or an end in between would be missed.
	wake, stop := s.cfg.Store.Watch(id)
	defer stop()
	over := time.NewTimer(wait)
	defer over.Stop()
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	for last := false; ; {
		b, err := s.cfg.Store.Get(ctx, owner, id, inlineResults)
		if err != nil || b.Status.Terminal() || last {
			return b, err
		}
		select {
		case <-wake:
		case <-poll.C:
		case <-over.C:
			last = true
		case <-s.draining:
			last = true
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		refresh(ctx)
	}
}
