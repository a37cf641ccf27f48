package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// scenario is one measurement.
type scenario struct {
	name  string
	about func(sizes) string
	run   func(context.Context, *bench, *section) error
}

// scenarios has all scenarios, in the order in which they run.
var scenarios = []scenario{
	{"throughput", aboutThroughput, throughput},
	{"latency", aboutLatency, latency},
	{"slow", aboutSlow, slow},
	{"large", aboutLarge, large},
	{"fair", aboutFair, fair},
	{"owners", aboutOwners, owners},
	{"scale", aboutScale, scale},
	{"idle", aboutIdle, idle},
	{"poll", aboutPoll, poll},
	{"sealed", aboutSealed, sealed},
	{"fsync", aboutFsync, fsync},
	{"model", aboutModel, compareModel},
}

func scenarioNames() []string {
	names := make([]string, len(scenarios))
	for i, s := range scenarios {
		names[i] = s.name
	}
	return names
}

// sizes has the amounts of work.
type sizes struct {
	throughput, slow, slowInFlight int // actions, and the number of those in flight
	large, scale, owners           int // actions
	times                          int // how often a small batch runs, and how often a batch is polled
	monitored                      int // actions for which Redis's commands are counted
	idle                           time.Duration
}

var (
	fullSizes = sizes{
		throughput: 20_000, slow: 10_000, slowInFlight: 1_000, large: 100_000, scale: 4_000, owners: 20_000,
		times: 200, monitored: 2_000, idle: 20 * time.Second,
	}
	shortSizes = sizes{
		throughput: 3_000, slow: 1_500, slowInFlight: 500, large: 5_000, scale: 640, owners: 5_000,
		times: 40, monitored: 200, idle: 5 * time.Second,
	}
)

const (
	inFlight  = 64
	smallBody = 200 // bytes
	small     = 10  // actions
)

// starter starts a contender in a world.
type starter func(context.Context, *world, load) (contender, error)

// entrant is a participant in a scenario.
type entrant struct {
	name  string
	start starter
	fsync string // Redis's appendfsync, if it differs from the flag
}

// field returns the contenders that scenarios compare.
func (b *bench) field(s setup) []entrant {
	return slices.DeleteFunc([]entrant{
		{name: "plain", start: startPlain},
		{name: "asynq-1", start: startAsynq(1)},
		{name: "asynq-4", start: startAsynq(4)},
		{name: "batchd", start: startSetup(s)},
	}, func(e entrant) bool { return !slices.Contains(b.contenders, e.name) })
}

func contenderNames() []string { return []string{"plain", "asynq-1", "asynq-4", "batchd"} }

// startSetup returns a starter of batchd with that setup.
func startSetup(s setup) starter {
	return func(ctx context.Context, w *world, l load) (contender, error) {
		s := s
		if s.concurrency == 0 {
			s.concurrency = l.inFlight
		}
		return w.startBatchd(ctx, s)
	}
}

// worldTimeout bounds the time in one world, so that a scenario that hangs ends.
const worldTimeout = 10 * time.Minute

// inWorld calls a function in a new world.
func (b *bench) inWorld(ctx context.Context, delay time.Duration, fsync string, do func(ctx context.Context, w *world) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, worldTimeout, fmt.Errorf("it takes longer than %s", worldTimeout))
	defer cancel()
	w, err := b.newWorld(ctx, delay, fsync)
	if err != nil {
		return err
	}
	return errors.Join(do(ctx, w), w.close())
}

// eachRound runs the entrants in turn, for all rounds. The first entrant changes, so
// that none always comes first after a pause.
func (b *bench) eachRound(entrants []entrant, do func(round int, e entrant) error) error {
	for round := range b.rounds {
		for i := range entrants {
			e := entrants[(round+i)%len(entrants)]
			if err := do(round, e); err != nil {
				return fmt.Errorf("%s, round %d: %w", e.name, round+1, err)
			}
		}
	}
	return nil
}

// race runs the same load with every entrant in each round.
func (b *bench) race(ctx context.Context, out *section, l load, entrants []entrant) error {
	for _, e := range entrants {
		out.row(e.name)
	}
	return b.eachRound(entrants, func(_ int, e entrant) error {
		return b.inWorld(ctx, l.delay, cmp.Or(e.fsync, b.fsync), func(ctx context.Context, w *world) error {
			c, err := e.start(ctx, w, l)
			if err != nil {
				return err
			}
			// Before the clock starts, make connections and load scripts.
			if err := w.run(ctx, c, "warm", min(2*l.inFlight, l.actions), l.size); err != nil {
				return err
			}
			before, err := w.snapshot(ctx)
			if err != nil {
				return err
			}
			bodies := makeBodies("run", l.actions, l.size)
			took, results, err := c.run(ctx, "run", bodies)
			if err != nil {
				return err
			}
			after, err := w.snapshot(ctx)
			if err != nil {
				return err
			}
			if err := w.verify(bodies, results); err != nil {
				return err
			}
			if err := w.checkRequests(ctx); err != nil {
				return err
			}
			r := out.row(e.name)
			r.add("in_hand", "actions/s", float64(l.actions)/took.read.Seconds())
			r.add("readable", "actions/s", float64(l.actions)/took.ended.Seconds())
			r.add("submitted", "s", took.submitted.Seconds())
			r.add("ended", "s", took.ended.Seconds())
			r.add("read", "s", took.read.Seconds())
			return w.usage(r, before, after, l.actions)
		})
	})
}
