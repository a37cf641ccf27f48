package worker

import (
	"context"
	"time"
)

// releaseEvery is how often the sweeping worker enqueues throttled actions, while there
// are any. Otherwise it looks for them at the interval of the sweeps.
const releaseEvery = 200 * time.Millisecond

// release enqueues the actions of throttled batches within their owners' limits.
type release struct {
	*Worker

	sweeping *sweeping
}

func (r *release) run(ctx context.Context) {
	repeat(ctx, func() time.Duration {
		if !r.sweeping.sweeper.Load() {
			return nextSweep()
		}
		waiting, err := r.cfg.Sweeper.ReleaseThrottled(ctx)
		if err != nil && ctx.Err() == nil {
			r.log.WarnContext(ctx, "throttled actions were not all handed out", "error", err)
		}
		if waiting > 0 || err != nil { // there may be some
			return releaseEvery
		}
		return nextSweep()
	})
}
