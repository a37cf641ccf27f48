package api

import (
	"context"
	"errors"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/batchd/batchd/internal/batch"
)

const (
	// pollInterval is how often a waiting request reads the batch without a wake-up,
	// because a wake-up can be lost with a connection.
	pollInterval = 2 * time.Second
	// newPause is the time before the first read of a batch that was just committed.
	// The batch has probably not ended before the request watches it.
	newPause = 20 * time.Millisecond
)

// watch describes how a request waits for a batch.
type watch struct {
	wait  time.Duration // at most; 0 reads once
	pause time.Duration // until the first read, unless a wake-up comes
	few   int           // see [batch.Store.Get]
}

// await returns the batch when it is terminal, when the time is over, or when the
// server drains, whichever comes first.
func (s *Server) await(ctx context.Context, owner, id string, w watch) (*batch.Batch, error) {
	if w.wait <= 0 {
		return s.cfg.Store.Get(ctx, owner, id, w.few)
	}
	// Watch before reading: otherwise an end in between would be missed.
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
				batch.BudgetOf(ctx).Refill()
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
		batch.BudgetOf(ctx).Refill()
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

// follow waits for the end of a batch. The batch exists in any case: if the wait fails,
// follow returns the last known state.
func (s *Server) follow(c *gin.Context, ep *Endpoint, b *batch.Batch, wait time.Duration) (*batch.Batch, error) {
	if wait <= 0 || b.Status.Terminal() {
		return b, nil
	}
	ctx := c.Request.Context()
	now, err := s.await(ctx, owner(c), b.ID, watch{wait: wait, pause: newPause, few: inlineResults})
	switch {
	case err == nil:
		return now, nil
	case ctx.Err() != nil:
		if ep != nil && ep.CancelOnDisconnect {
			s.cancelAbandoned(c, b.ID)
		}
		return nil, err
	}
	s.cfg.Logger.WarnContext(ctx, "wait for a batch failed", "request_id", requestID(c), "batch_id", b.ID, "error", err)
	return b, nil
}

// cancelAbandoned cancels the batch of a client that hung up.
func (s *Server) cancelAbandoned(c *gin.Context, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Request.Context()), settleTimeout)
	defer cancel()
	if _, err := s.cfg.Store.Cancel(ctx, owner(c), id); err != nil && !errors.Is(err, batch.ErrTerminal) {
		s.cfg.Logger.WarnContext(ctx, "cancelling the batch of a client that hung up failed", "request_id", requestID(c), "batch_id", id, "error", err)
	}
}
