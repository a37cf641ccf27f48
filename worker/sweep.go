package worker

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	// sweepEvery is how often a worker sweeps, or asks whether it may.
	sweepEvery = 2 * time.Second
	// feedEvery is how often the worker that sweeps hands out throttled actions,
	// while there are any. Otherwise it looks for them as it sweeps.
	feedEvery = 200 * time.Millisecond
)

// sweepUntil sweeps until the context ends.
func (w *Worker) sweepUntil(ctx context.Context) {
	feed := time.NewTicker(feedEvery)
	defer feed.Stop()
	sweep := time.NewTimer(w.nextSweep())
	defer sweep.Stop()
	sweeper, waiting := false, 0
	handOut := func() {
		var err error
		if waiting, err = w.cfg.Sweeper.Feed(ctx); err != nil && ctx.Err() == nil {
			w.log.WarnContext(ctx, "feeding broke off", "error", err)
			waiting = 1 // there may be
		}
	}
	for {
		select {
		case <-ctx.Done():
			if err := w.cfg.Sweeper.Resign(context.WithoutCancel(ctx), w.cfg.Name); err != nil {
				w.log.WarnContext(ctx, "could not resign as sweeper", "error", err)
			}
			return
		case <-sweep.C:
			if sweeper = w.sweep(ctx); sweeper {
				w.probe(ctx)
				handOut()
			}
			sweep.Reset(w.nextSweep())
		case <-feed.C:
			if sweeper && waiting > 0 {
				handOut()
			}
		}
	}
}

func (w *Worker) nextSweep() time.Duration {
	return sweepEvery - sweepEvery/8 + rand.N(sweepEvery/4) //nolint:gosec // jitter is no secret
}

// sweep makes one round, and reports whether this worker is the sweeper.
func (w *Worker) sweep(ctx context.Context) bool {
	swept, ok, err := w.cfg.Sweeper.Sweep(ctx, w.cfg.Name)
	if err != nil && ctx.Err() == nil {
		w.log.WarnContext(ctx, "sweep broke off", "error", err)
	}
	if !ok {
		return false
	}
	w.metrics.sweep(swept)
	if swept.Resumed+swept.Lost+swept.Expired+swept.Notified > 0 {
		w.log.InfoContext(ctx, "swept", "open", swept.Open, "resumed", swept.Resumed, "lost", swept.Lost, "expired", swept.Expired, "notified", swept.Notified)
	}
	return true
}
