package worker

import (
	"context"
	"time"

	"github.com/batchd/batchd/internal/batch"
)

// missedBeat is the pause after a heartbeat that the store did not take: the others
// consider a worker dead whose heartbeats do not arrive for a while.
const missedBeat = batch.BeatEvery / 8

// beatUntil says that this worker is alive until the context ends, and takes
// over what workers began that are not.
func (w *Worker) beatUntil(ctx context.Context) {
	next := time.NewTimer(batch.BeatEvery)
	defer next.Stop()
	var pulse pulse
	missed := false
	for {
		next.Reset(batch.BeatEvery)
		dead, err := w.cfg.Registry.Beat(ctx, w.cfg.Name)
		steady := pulse.beat(time.Now(), err == nil)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			if next.Reset(missedBeat); !missed {
				w.log.WarnContext(ctx, "heartbeat missed", "worker", w.cfg.Name, "error", err)
			}
		case len(dead) > 0 && steady:
			w.takeOver(ctx, dead)
		}
		missed = err != nil
		select {
		case <-ctx.Done():
			if err := w.cfg.Registry.Leave(context.WithoutCancel(ctx), w.cfg.Name); err != nil {
				w.log.WarnContext(ctx, "could not leave the list of workers", "error", err)
			}
			return
		case <-next.C:
		}
	}
}

func (w *Worker) takeOver(ctx context.Context, dead []string) {
	found, err := w.cfg.Registry.Recover(ctx, dead)
	if err != nil {
		w.log.WarnContext(ctx, "recovery broke off, it is tried again", "dead", dead, "error", err)
		return
	}
	w.metrics.recovered.Add(float64(found))
	w.log.WarnContext(ctx, "workers died, what they began was taken over", "dead", dead, "actions", found)
}

// pulse tells whether this worker's own beats have been steady for so long that
// the silence of another means something. When the store was away, everybody
// was silent.
type pulse struct {
	since, last time.Time
}

// beat notes a beat, and reports whether the pulse is steady.
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
