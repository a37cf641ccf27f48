package api

import (
	"context"
	"errors"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/api/dialect"
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
	by    *auth.Principal
	wait  time.Duration // at most; 0 reads once
	pause time.Duration // until the first read, unless a wake-up comes
	few   int           // see [batch.Store.Get]
}

// takeWait takes a slot for a request that waits. The caller gives it back by leave. A
// submission takes it before anything is stored, because the client of a batch that exists must get its results.
func (s *Server) takeWait(c *gin.Context, wait time.Duration) (leave func(), err error) {
	if wait <= 0 {
		return func() {}, nil
	}
	return s.waits.take(payer(c))
}

// await returns the batch when it is terminal, when the time is over, or when the
// server drains, whichever comes first.
func (s *Server) await(ctx context.Context, owner, id string, w watch) (*batch.Batch, error) {
	if w.wait <= 0 {
		return s.cfg.Store.Get(ctx, owner, id, w.few)
	}
	f := s.polls.follow(owner, id, pollInterval, w.pause, w.few) //nolint:contextcheck // the poll outlives the request, because other requests share it
	defer f.leave()
	over := time.NewTimer(w.wait)
	defer over.Stop()
	draining := s.draining
	for last := false; ; {
		select {
		case now := <-f.news:
			if now.err != nil && !last && errors.As(now.err, new(*batch.UnavailableError)) {
				continue // the store may be back before the time is over
			}
			if err := w.by.StillValid(ctx); err != nil {
				if !last && errors.As(err, new(*batch.UnavailableError)) {
					continue
				}
				return nil, err
			}
			if now.err != nil || now.batch.Status.Terminal() || last {
				batch.BudgetOf(ctx).Refill()
				return now.batch, now.err
			}
		case <-over.C:
			last = true
			f.now()
		case <-draining:
			last, draining = true, nil
			f.now()
		case <-ctx.Done():
			return nil, ctx.Err()
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
	now, err := s.await(ctx, owner(c), b.ID, watch{by: principal(c), wait: wait, pause: newPause, few: inlineResults})
	switch {
	case err == nil:
		return now, nil
	case errors.As(err, new(*dialect.UnauthorizedError)):
		return nil, err
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
	ctx, cancel := settled(c.Request.Context())
	defer cancel()
	if _, err := s.cfg.Store.Cancel(ctx, owner(c), id); err != nil && !errors.Is(err, batch.ErrTerminal) {
		s.cfg.Logger.WarnContext(ctx, "cancelling the batch of a client that hung up failed", "request_id", requestID(c), "batch_id", id, "error", err)
	}
}
