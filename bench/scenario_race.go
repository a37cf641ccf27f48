package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

func aboutThroughput(s sizes) string {
	return fmt.Sprintf("%d POSTs of %d bytes, %d in flight, from the submission until all results are in hand, in order", s.throughput, smallBody, inFlight)
}

func throughput(ctx context.Context, b *bench, out *section) error {
	l := load{actions: b.sizes.throughput, size: smallBody, inFlight: inFlight}
	entrants := b.field(setup{split: b.split, batch: b.batch})
	if err := b.race(ctx, out, l, entrants); err != nil {
		return err
	}
	for _, name := range []string{"in_hand", "readable"} {
		ours := out.of("batchd", name)
		out.goal(name+": batchd / asynq-4", "", ratios(ours, out.of("asynq-4", name)), "≥ 2.0", "")
		out.goal(name+": batchd / plain", "", ratios(ours, out.of("plain", name)), "≥ 0.30", "≥ 0.40")
	}
	out.goal("CPU of server and Redis: batchd / asynq-4", "", ratios(out.of("batchd", "cpu_server_redis"), out.of("asynq-4", "cpu_server_redis")), "≤ 0.6", "≤ 0.4")
	out.goal("CPU of client, server and Redis: batchd / asynq-4", "", ratios(out.of("batchd", "cpu_all_three"), out.of("asynq-4", "cpu_all_three")), "", "")
	out.goal("in_hand: asynq-4 / asynq-1", "", ratios(out.of("asynq-4", "in_hand"), out.of("asynq-1", "in_hand")), "", "")
	for _, e := range entrants {
		if e.name == "plain" {
			continue
		}
		if err := b.countCommands(ctx, out, l, e); err != nil {
			return fmt.Errorf("%s, counting Redis's commands: %w", e.name, err)
		}
	}
	return nil
}

// countCommands runs some actions with an entrant while Redis reports each command.
func (b *bench) countCommands(ctx context.Context, out *section, l load, e entrant) error {
	return b.inWorld(ctx, l.delay, b.fsync, func(ctx context.Context, w *world) error {
		c, err := e.start(ctx, w, l)
		if err != nil {
			return err
		}
		if err := w.run(ctx, c, "warm", l.inFlight, l.size); err != nil {
			return err
		}
		stop, err := w.redis.monitor(ctx)
		if err != nil {
			return err
		}
		n := b.sizes.monitored
		err = w.run(ctx, c, "run", n, l.size)
		counted, merr := stop()
		if err != nil || merr != nil {
			return errors.Join(err, merr)
		}
		out.addCommands(e.name, counted, float64(n))
		return nil
	})
}

const slowDelay = 100 * time.Millisecond

// ideal returns the time of a slow target if all slots are always in use.
func (s sizes) ideal() time.Duration {
	return slowDelay * time.Duration((s.slow+s.slowInFlight-1)/s.slowInFlight)
}

func aboutSlow(s sizes) string {
	return fmt.Sprintf("%d POSTs to a target that takes %s, %d in flight; ideal is %s", s.slow, slowDelay, s.slowInFlight, s.ideal())
}

func slow(ctx context.Context, b *bench, out *section) error {
	l := load{actions: b.sizes.slow, size: smallBody, inFlight: b.sizes.slowInFlight, delay: slowDelay}
	entrants := b.field(setup{split: b.split, batch: b.batch})
	if err := b.race(ctx, out, l, entrants); err != nil {
		return err
	}
	for _, e := range entrants {
		reach, further := "", ""
		if e.name == "batchd" {
			reach, further = "≤ 1.4", "≤ 1.2"
		}
		for _, name := range []string{"read", "ended"} {
			took := out.of(e.name, name)
			ideal := slices.Repeat([]float64{b.sizes.ideal().Seconds()}, len(took))
			out.goal(name+": "+e.name+" / ideal", "", ratios(took, ideal), reach, further)
		}
	}
	return nil
}
