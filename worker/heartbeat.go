package worker

import (
	"context"
	"time"

	"github.com/batchd/batchd/internal/batch"
)

// missedBeat is the pause after a heartbeat that the store did not accept. Other
// workers consider a worker dead if its heartbeats do not arrive for a while.
const missedBeat = batch.BeatEvery / 8

// heartbeat reports to the store that this worker is alive. While its own heartbeats are
// steady, it also passes dead workers to the recovery. When the context ends, the worker
// leaves the registry.
type heartbeat struct {
	*Worker

	dead chan<- []string // received only while no recovery is running
}

func (h *heartbeat) run(ctx context.Context) {
	next := time.NewTimer(batch.BeatEvery)
	defer next.Stop()
	var pulse pulse
	missed := false
	for {
		next.Reset(batch.BeatEvery)
		dead, err := h.cfg.Registry.Beat(ctx, h.cfg.Name)
		steady := pulse.beat(time.Now(), err == nil)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			if next.Reset(missedBeat); !missed {
				h.log.WarnContext(ctx, "heartbeat missed", "worker", h.cfg.Name, "error", err)
			}
		case len(dead) > 0 && steady:
			select {
			case h.dead <- dead:
			default: // a recovery is running; the next heartbeat names them again
			}
		}
		missed = err != nil
		select {
		case <-ctx.Done():
			if err := h.cfg.Registry.Leave(context.WithoutCancel(ctx), h.cfg.Name); err != nil {
				h.log.WarnContext(ctx, "could not leave the list of workers", "error", err)
			}
			return
		case <-next.C:
		}
	}
}

// pulse records whether this worker's heartbeats have been steady for long enough to
// trust the silence of another worker. While the store is unavailable, all workers are
// silent.
type pulse struct {
	since, last time.Time
}

// beat records a heartbeat, and reports whether the pulse is steady.
func (p *pulse) beat(now time.Time, ok bool) bool {
	if !ok || now.Sub(p.last) > 2*batch.BeatEvery {
		p.since = time.Time{}
	}
	if !ok {
		return false
	}
	if p.since.IsZero() {
		p.since = now
	}
	p.last = now
	return now.Sub(p.since) >= batch.DeadAfter
}
