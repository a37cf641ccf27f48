package worker

import (
	"context"
	"errors"

	"github.com/batchd/batchd/internal/batch"
)

// recovery takes over the actions of dead workers.
type recovery struct {
	*Worker

	dead <-chan []string
}

func (r *recovery) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case dead := <-r.dead:
			r.recover(ctx, dead)
		}
	}
}

func (r *recovery) recover(ctx context.Context, dead []string) {
	found, err := r.cfg.Registry.Recover(ctx, r.cfg.Name, dead)
	switch {
	case ctx.Err() != nil, errors.Is(err, batch.ErrRecovering):
	case err != nil:
		r.log.WarnContext(ctx, "recovery broke off, the next heartbeat starts it again", "dead", dead, "error", err)
	default:
		r.metrics.recovered.Add(float64(found))
		r.log.WarnContext(ctx, "workers died, their actions were taken over", "dead", dead, "actions", found)
	}
}
