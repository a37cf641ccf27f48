package main

import (
	"context"
	"fmt"
	"time"
)

// The scenarios here compare batchd with itself.

func aboutSealed(s sizes) string {
	return fmt.Sprintf("%d POSTs of %d bytes, %d in flight, with seal.keys set and without", s.throughput, smallBody, inFlight)
}

func sealed(ctx context.Context, b *bench, out *section) error {
	l := load{actions: b.sizes.throughput, size: smallBody, inFlight: inFlight}
	err := b.race(ctx, out, l, []entrant{
		{name: "in clear", start: startSetup(setup{split: b.split, batch: b.batch})},
		{name: "sealed", start: startSetup(setup{split: b.split, batch: b.batch, sealed: true})},
	})
	out.goal("in_hand: sealed / in clear", "", ratios(out.of("sealed", "in_hand"), out.of("in clear", "in_hand")), "≥ 0.9", "")
	return err
}

func aboutFsync(s sizes) string {
	return fmt.Sprintf("%d POSTs of %d bytes, %d in flight, with appendfsync always and everysec", s.throughput, smallBody, inFlight)
}

func fsync(ctx context.Context, b *bench, out *section) error {
	l := load{actions: b.sizes.throughput, size: smallBody, inFlight: inFlight}
	start := startSetup(setup{split: b.split, batch: b.batch})
	err := b.race(ctx, out, l, []entrant{
		{name: "everysec", start: start, fsync: "everysec"},
		{name: "always", start: start, fsync: "always"},
	})
	out.goal("in_hand: always / everysec", "", ratios(out.of("always", "in_hand"), out.of("everysec", "in_hand")), "≥ 0.6", "≥ 0.8")
	return err
}

const (
	scaleDelay       = 20 * time.Millisecond
	scaleConcurrency = 8
)

func aboutScale(s sizes) string {
	return fmt.Sprintf("%d POSTs to a target that takes %s; an API, and workers with %d in flight each, ideally %d actions/s a worker",
		s.scale, scaleDelay, scaleConcurrency, scaleConcurrency*time.Second/scaleDelay)
}

func scale(ctx context.Context, b *bench, out *section) error {
	l := load{actions: b.sizes.scale, size: smallBody, inFlight: 4 * scaleConcurrency, delay: scaleDelay}
	var entrants []entrant
	for _, workers := range []int{1, 2, 4} {
		entrants = append(entrants, entrant{name: fmt.Sprintf("workers-%d", workers), start: startSetup(setup{split: true, workers: workers, concurrency: scaleConcurrency})})
	}
	err := b.race(ctx, out, l, entrants)
	one := out.of("workers-1", "readable")
	out.goal("readable: 2 workers / 1", "", ratios(out.of("workers-2", "readable"), one), "", "")
	out.goal("readable: 4 workers / 1", "", ratios(out.of("workers-4", "readable"), one), "≥ 3.6", "")
	return err
}
