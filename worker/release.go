package worker

import (
	"context"
	"time"
)

// releaseEvery is how often the sweeping worker hands out throttled actions, while there
// are any. Otherwise it looks for them as often as it sweeps.
const releaseEvery = 200 * time.Millisecond

// release hands out the actions of throttled batches as their owners' limits allow.
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
