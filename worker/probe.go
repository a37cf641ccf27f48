package worker

import (
	"context"
	"sync"
	"time"
)

// probing checks the targets with an open circuit, and closes the circuits of targets
// that it can reach. It checks all at the same time, so that eight unreachable targets
// take no longer than one.
type probing struct {
	*Worker

	sweeping *sweeping
}

func (p *probing) run(ctx context.Context) {
	repeat(ctx, func() time.Duration {
		if p.sweeping.sweeper.Load() {
			p.probeAll(ctx)
		}
		return nextSweep()
	})
}

func (p *probing) probeAll(ctx context.Context) {
	tripped, err := p.cfg.Gate.Tripped(ctx)
	if err != nil {
		if ctx.Err() == nil {
			p.log.WarnContext(ctx, "open circuits could not be read", "error", err)
		}
		return
	}
	p.metrics.tripped.Set(float64(len(tripped)))
	var probes sync.WaitGroup
	for _, target := range tripped {
		if _, known := p.targets[target]; known {
			probes.Go(func() { p.probe(ctx, target) })
		}
	}
	probes.Wait()
}

// probe checks one target. If it cannot be reached, probe holds the target beyond the
// next probe.
func (p *probing) probe(ctx context.Context, target string) {
	probeCtx, cancel := context.WithTimeout(ctx, sweepEvery)
	err := p.cfg.Prober.Probe(probeCtx, target)
	cancel()
	switch {
	case ctx.Err() != nil:
	case err != nil:
		p.hold(target, tripHold)
		if err := p.cfg.Gate.Hold(ctx, target, tripHold); err != nil {
			p.log.WarnContext(ctx, "other workers do not know that a target is held", "target", target, "error", err)
		}
	default:
		if err := p.cfg.Gate.Reset(ctx, target); err != nil {
			p.log.WarnContext(ctx, "circuit could not be closed", "target", target, "error", err)
			return
		}
		p.log.InfoContext(ctx, "target resumed: it can be reached again", "target", target)
	}
}
