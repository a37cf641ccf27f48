package main

import (
	"context"
	"fmt"
	"time"
)

const idleTargets = 10

func aboutIdle(s sizes) string {
	return fmt.Sprintf("commands that one idle worker process with %d targets sends to Redis, counted for %s", idleTargets, s.idle)
}

func idle(ctx context.Context, b *bench, out *section) error {
	r := out.row("worker")
	for round := range b.rounds {
		err := b.inWorld(ctx, 0, b.fsync, func(ctx context.Context, w *world) error {
			config, err := w.writeConfig(setup{targets: idleTargets, concurrency: inFlight})
			if err != nil {
				return err
			}
			worker, err := w.startWorker(ctx, config)
			if err != nil {
				return err
			}
			if err := pause(ctx, 3*time.Second); err != nil { // the work of the start is over
				return err
			}
			used, err := cpuOf(worker.pid)
			if err != nil {
				return err
			}
			stop, err := w.redis.monitor(ctx)
			if err != nil {
				return err
			}
			if err := pause(ctx, b.sizes.idle); err != nil {
				return err
			}
			counted, err := stop()
			if err != nil {
				return err
			}
			now, err := cpuOf(worker.pid)
			if err != nil {
				return err
			}
			seconds := b.sizes.idle.Seconds()
			r.add("sent", "commands/s", float64(total(counted.sent))/seconds)
			r.add("in_scripts", "commands/s", float64(total(counted.scripted))/seconds)
			r.add("cpu", "% of a CPU", 100*(now-used).Seconds()/seconds)
			if round == 0 {
				out.addCommands("worker, a second", counted, seconds)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	out.goal("commands sent", "1/s", out.of("worker", "sent"), "≤ 20", "≤ 5")
	return nil
}

// pause waits for a duration, or until the context ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
