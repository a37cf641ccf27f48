package worker

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// sweepEvery is how often a worker sweeps, or tries to become the sweeper.
const sweepEvery = 2 * time.Second

// nextSweep returns sweepEvery with a jitter of an eighth.
func nextSweep() time.Duration {
	return sweepEvery - sweepEvery/8 + rand.N(sweepEvery/4) //nolint:gosec // jitter is no secret
}

// sweeping makes rounds over the open batches. One worker among all is the sweeper.
type sweeping struct {
	*Worker

	// sweeper: this worker was the sweeper in its last round. Other services that only
	// one worker needs to run check this; a second worker does no harm.
	sweeper atomic.Bool
}

func (s *sweeping) run(ctx context.Context) {
	repeat(ctx, func() time.Duration {
		s.sweeper.Store(s.round(ctx))
		return nextSweep()
	})
	s.sweeper.Store(false)
	if err := s.cfg.Sweeper.Resign(context.WithoutCancel(ctx), s.cfg.Name); err != nil {
		s.log.WarnContext(ctx, "could not resign as sweeper", "error", err)
	}
}

// round makes one round, and reports whether this worker is the sweeper.
func (s *sweeping) round(ctx context.Context) bool {
	swept, ok, err := s.cfg.Sweeper.Sweep(ctx, s.cfg.Name)
	if err != nil && ctx.Err() == nil {
		s.log.WarnContext(ctx, "sweep broke off", "error", err)
	}
	if !ok {
		return false
	}
	s.metrics.sweep(swept)
	if swept.Resumed+swept.Lost+swept.Expired+swept.Notified > 0 {
		s.log.InfoContext(ctx, "swept", "open", swept.Open, "resumed", swept.Resumed, "lost", swept.Lost, "expired", swept.Expired, "notified", swept.Notified)
	}
	return true
}
