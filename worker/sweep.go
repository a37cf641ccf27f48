package worker

import (
	"context"
	"math/rand/v2"
	"time"
)

// sweepEvery is how often a worker sweeps, or asks whether it may.
const sweepEvery = 2 * time.Second

// sweepUntil sweeps until the context ends.
func (w *Worker) sweepUntil(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			if err := w.cfg.Sweeper.Resign(context.WithoutCancel(ctx), w.cfg.Name); err != nil {
				w.log.WarnContext(ctx, "could not resign as sweeper", "error", err)
			}
			return
		case <-time.After(sweepEvery - sweepEvery/8 + rand.N(sweepEvery/4)): //nolint:gosec // jitter is no secret
		}
		swept, ok, err := w.cfg.Sweeper.Sweep(ctx, w.cfg.Name)
		if err != nil && ctx.Err() == nil {
			w.log.WarnContext(ctx, "sweep broke off", "error", err)
		}
		if !ok {
			continue
		}
		w.metrics.sweep(swept)
		if swept.Resumed+swept.Expired+swept.Notified > 0 {
			w.log.InfoContext(ctx, "swept", "open", swept.Open, "resumed", swept.Resumed, "expired", swept.Expired, "notified", swept.Notified)
		}
	}
}
