package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"runtime"
	"slices"
	"time"

	"github.com/batchd/batchd/client"
)

// The sizes for the comparison of the model with batchd.
const (
	modelWorkers = 2
	modelPlaces  = 16
	modelDelay   = 20 * time.Millisecond
	modelRate    = 200
	// alonePlace is the number of actions that run one after another to measure an
	// exchange with Redis.
	alonePlace = 300
)

func aboutModel(s sizes) string {
	return fmt.Sprintf("the forecast of the simulation beside the measurement: bound by latency (%d actions, %d workers with %d slots, a target of %s), by a rate (%d actions, the same, %d/s) and by CPU (%d actions, %d slots)",
		s.scale, modelWorkers, modelPlaces, modelDelay, s.scale/4, modelRate, s.throughput, inFlight)
}

// compareModel measures the costs of an action, predicts three runs from them, and runs
// them.
func compareModel(ctx context.Context, b *bench, out *section) error {
	apart := setup{split: true, workers: modelWorkers, concurrency: modelPlaces}
	limited := apart
	limited.rate = modelRate
	points := []struct {
		name    string
		setup   setup
		delay   time.Duration
		actions int
	}{
		{"latency", apart, modelDelay, b.sizes.scale},
		{"rate", limited, modelDelay, b.sizes.scale / 4},
		{"cpu", setup{concurrency: inFlight}, 0, b.sizes.throughput},
	}
	predicted, measured, off := out.row("predicted"), out.row("measured"), out.row("off by %")
	for round := range b.rounds {
		costs, err := b.measureCosts(ctx)
		if err != nil {
			return fmt.Errorf("round %d, costs: %w", round+1, err)
		}
		micros := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
		measured.add("redis_queued", "B/action", costs.queued)
		measured.add("submit", "µs/action", micros(costs.submit))
		measured.add("fan_out", "µs/action", micros(costs.fanOut))
		measured.add("run", "µs CPU/action", micros(costs.run))
		measured.add("redis", "µs CPU/action", micros(costs.redis))
		measured.add("exchange", "µs", micros(costs.exchange))
		for _, p := range points {
			is, used, err := b.modelRun(ctx, p.setup, p.delay, p.actions)
			if err != nil {
				return fmt.Errorf("%s, round %d: %w", p.name, round+1, err)
			}
			m := model{
				actions: p.actions, workers: max(p.setup.workers, 1), slots: p.setup.concurrency, rate: float64(p.setup.rate),
				target: fixed(p.delay), cores: runtime.NumCPU(), costs: costs.beside(used.others), seed: 1,
			}
			would := m.forecast()
			for _, f := range []struct {
				name, unit string
				would, is  float64
			}{
				{"rate", "actions/s", would.rate, is.rate},
				{"mean", "ms", would.mean, is.mean},
				{"p50", "ms", would.p50, is.p50},
				{"p99", "ms", would.p99, is.p99},
			} {
				name := p.name + ": " + f.name
				predicted.add(name, f.unit, f.would)
				measured.add(name, f.unit, f.is)
				off.add(name, f.unit, 100*(f.would/f.is-1))
			}
			measured.add(p.name+": others", "% of the machine", 100*used.others)
		}
	}
	return nil
}

// measureCosts measures the costs of an action, in runs that are not among the
// predicted ones.
func (b *bench) measureCosts(ctx context.Context) (costs, error) {
	n := b.sizes.throughput / 2
	var c costs
	err := b.inWorld(ctx, 0, b.fsync, func(ctx context.Context, w *world) (err error) {
		c, err = w.submissionCosts(ctx, n)
		return err
	})
	if err != nil {
		return c, err
	}
	_, used, err := b.modelRun(ctx, setup{concurrency: inFlight}, 0, n)
	if err != nil {
		return c, err
	}
	c.run = max(used.all/time.Duration(n)-c.fanOut, 0)
	c.redis = min(used.redis/time.Duration(n), c.run)
	one, _, err := b.modelRun(ctx, setup{split: true, concurrency: 1}, 0, alonePlace)
	if err != nil {
		return c, err
	}
	c.exchange = c.exchangeFor(one.rate)
	return c, nil
}

// exchangeFor returns the duration of an exchange with Redis, chosen so that the model
// reproduces the single-slot measurement.
func (c costs) exchangeFor(rate float64) time.Duration {
	m := model{actions: alonePlace, workers: 1, slots: 1, target: fixed(0), cores: runtime.NumCPU(), costs: c, seed: 1}
	low, high := time.Duration(0), time.Second
	for high-low > time.Microsecond {
		m.costs.exchange = (low + high) / 2
		if m.forecast().rate > rate {
			low = m.costs.exchange
		} else {
			high = m.costs.exchange
		}
	}
	return low
}

// submissionCosts returns the time until an action is accepted, the time until its task
// is in the queue, and its memory in Redis there, without a worker.
func (w *world) submissionCosts(ctx context.Context, n int) (costs, error) {
	c, err := w.startBatchd(ctx, setup{split: true, alone: true, concurrency: 1})
	if err != nil {
		return costs{}, err
	}
	bodies := makeBodies("costs", n, smallBody)
	if _, err := c.upload(ctx, makeBodies("warm", 1, smallBody)); err != nil { // its own queue, because the batch is small
		return costs{}, err
	}
	empty, err := w.redis.info(ctx, "memory")
	if err != nil {
		return costs{}, err
	}
	began := time.Now()
	if _, err := c.upload(ctx, bodies); err != nil {
		return costs{}, err
	}
	took := time.Since(began)
	before, err := w.snapshot(ctx)
	if err != nil {
		return costs{}, err
	}
	inQueue := func() (int, error) {
		queued, err := w.redis.client.LLen(ctx, "asynq:{target-0.bulk}:pending").Result()
		if err != nil {
			return 0, fmt.Errorf("look into the queue: %w", err)
		}
		return int(queued), nil
	}
	already, err := inQueue()
	if err != nil {
		return costs{}, err
	}
	for {
		queued, err := inQueue()
		if err != nil {
			return costs{}, err
		}
		if queued >= n {
			full, err := w.snapshot(ctx)
			return costs{
				submit: took / time.Duration(n),
				// The fan-out pauses while no worker takes tasks, so its elapsed time
				// is meaningless; use the processor time.
				fanOut: (full.server + full.redis - before.server - before.redis) / time.Duration(max(n-already, 1)),
				queued: (full.info["used_memory"] - empty["used_memory"]) / float64(n),
			}, err
		}
		if err := pause(ctx, 2*time.Millisecond); err != nil {
			return costs{}, err
		}
	}
}

// modelRun runs a batch in a new world, and returns the predicted figures as measured,
// and the resources used.
func (b *bench) modelRun(ctx context.Context, s setup, delay time.Duration, n int) (is forecast, used modelUsage, err error) {
	err = b.inWorld(ctx, delay, b.fsync, func(ctx context.Context, w *world) error {
		c, err := w.startBatchd(ctx, s)
		if err != nil {
			return err
		}
		if err := w.run(ctx, c, "warm", min(2*max(s.workers, 1)*s.concurrency, n), smallBody); err != nil {
			return err
		}
		bodies := makeBodies("run", n, smallBody)
		began := time.Now()
		id, err := c.upload(ctx, bodies)
		if err != nil {
			return err
		}
		before, err := w.snapshot(ctx)
		if err != nil {
			return err
		}
		if _, err := c.client.Wait(ctx, id); err != nil {
			return fmt.Errorf("wait for batch %s: %w", id, err)
		}
		took := time.Since(began)
		after, err := w.snapshot(ctx)
		if err != nil {
			return err
		}
		used = modelUsage{
			all: after.all() - before.all(), redis: after.redis - before.redis,
			others: max(0, float64(after.others-before.others)/float64(after.at.Sub(before.at))/float64(runtime.NumCPU())),
		}
		answer, err := c.readResults(ctx, id, n*smallBody)
		if err != nil {
			return err
		}
		waits, err := waitsIn(answer, began)
		if err != nil {
			return err
		}
		is = forecastOf(took, waits)
		return errors.Join(w.verifyAnswer(bodies, answer), w.checkRequests(ctx))
	})
	return is, used, err
}

// modelUsage has the resources that a batch used from its acceptance to its end.
type modelUsage struct {
	all, redis time.Duration // processor time of all participants, and of Redis
	others     float64       // the share of the machine that all other processes used
}

// beside returns the costs on cores of which other processes use that share.
func (c costs) beside(others float64) costs {
	slower := func(d time.Duration) time.Duration { return time.Duration(float64(d) / max(1-others, 0.1)) }
	c.fanOut, c.run, c.redis = slower(c.fanOut), slower(c.run), slower(c.redis)
	return c
}

// all returns the processor time of all participants.
func (s *snapshot) all() time.Duration { return s.client + s.server + s.redis + s.target }

// waitsIn returns the time from a moment to the end of each action's last attempt, in
// ms.
func waitsIn(answer []byte, began time.Time) ([]float64, error) {
	var waits []float64
	for line := range bytes.Lines(answer) {
		var r client.Result
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, fmt.Errorf("decode a result: %w", err)
		}
		// Start and duration are truncated to whole milliseconds, half a millisecond
		// each on average.
		ended := r.StartedAt.Add(r.Duration + time.Millisecond)
		waits = append(waits, float64(ended.Sub(began))/float64(time.Millisecond))
	}
	return waits, nil
}

// runPredict is the subcommand "predict": a forecast without a measurement.
func runPredict(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("predict", flag.ContinueOnError)
	var m model
	flags.IntVar(&m.actions, "actions", 10_000, "actions of the batch")
	flags.IntVar(&m.workers, "workers", 1, "worker processes")
	flags.IntVar(&m.slots, "concurrency", 64, "the target's concurrency, in each worker")
	flags.Float64Var(&m.rate, "rate", 0, "the target's rate, in requests a second; 0 is any")
	flags.IntVar(&m.cores, "cores", runtime.NumCPU(), "cores that everything shares")
	flags.DurationVar(&m.costs.submit, "submit", 8*time.Microsecond, "what accepting an action takes")
	flags.DurationVar(&m.costs.fanOut, "fan-out", 8*time.Microsecond, "processor time until it is in its queue")
	flags.DurationVar(&m.costs.run, "run", 90*time.Microsecond, "processor time from then on, of everything on the cores")
	flags.DurationVar(&m.costs.redis, "redis", 20*time.Microsecond, "Redis's part of that")
	flags.DurationVar(&m.costs.exchange, "exchange", 200*time.Microsecond, "an exchange with Redis")
	flags.Uint64Var(&m.seed, "seed", 1, "makes another run")
	target := flags.String("latency", "20ms", "what the target takes: 20ms, exp:20ms (that mean) or lognormal:20ms,100ms (median, 99th percentile)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q: there are only flags, see -help", flags.Arg(0))
	}
	if slices.Min([]int{m.actions, m.workers, m.slots, m.cores}) < 1 || m.rate < 0 || m.costs.redis > m.costs.run {
		return errors.New("actions, workers, concurrency and cores have to be at least 1, the rate no less than 0, and Redis's part no more than all of it")
	}
	var err error
	if m.target, err = parseLatency(*target); err != nil {
		return err
	}
	f := m.forecast()
	_, err = fmt.Fprintf(out, "%s actions/s; an action has ended after %s ms (mean), %s ms (p50), %s ms (p99)\n", number(f.rate), number(f.mean), number(f.p50), number(f.p99))
	return err
}
