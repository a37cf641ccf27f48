package main

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"github.com/batchd/batchd/client"
)

func aboutLatency(s sizes) string {
	return fmt.Sprintf("%d actions, %d times one after another, from the submission until the results are in hand", small, s.times)
}

// asynqWrote matches the last line of the subcommand "asynq --times".
var asynqWrote = regexp.MustCompile(`(?m)^(\{"took":.*\})$`)

func latency(ctx context.Context, b *bench, out *section) error {
	entrants := b.field(setup{split: b.split})
	for _, e := range entrants {
		out.row(e.name)
	}
	err := b.eachRound(entrants, func(_ int, e entrant) error {
		return b.inWorld(ctx, 0, b.fsync, func(ctx context.Context, w *world) error {
			took, err := b.latencyOf(ctx, w, e)
			if err != nil {
				return err
			}
			w.sent = small * (warmBatches + b.sizes.times)
			if err := w.checkRequests(ctx); err != nil {
				return err
			}
			addLatency(out.row(e.name), took)
			return nil
		})
	})
	if err != nil {
		return err
	}
	out.goal("batchd, p50", "ms", out.of("batchd", "p50"), "≤ 3", "≤ 1.5")
	out.goal("batchd, p99", "ms", out.of("batchd", "p99"), "≤ 10", "")
	out.goal("p50: batchd / asynq-4", "", ratios(out.of("batchd", "p50"), out.of("asynq-4", "p50")), "", "")
	return nil
}

// latencyOf runs small batches with an entrant.
func (b *bench) latencyOf(ctx context.Context, w *world, e entrant) ([]time.Duration, error) {
	servers, peer := map[string]int{"asynq-1": 1, "asynq-4": 4}[e.name]
	if peer {
		return w.asynqLatency(ctx, servers, b.sizes.times)
	}
	c, err := e.start(ctx, w, load{inFlight: inFlight})
	if err != nil {
		return nil, err
	}
	if ours, ok := c.(*batchd); ok {
		c = waiting{ours}
	}
	return smallBatches(ctx, c, b.sizes.times)
}

// addLatency adds one round of durations.
func addLatency(r *row, took []time.Duration) {
	ms := milliseconds(took)
	r.add("p50", "ms", quantile(ms, 0.5))
	r.add("p90", "ms", quantile(ms, 0.9))
	r.add("p99", "ms", quantile(ms, 0.99))
	r.add("most", "ms", quantile(ms, 1))
}

// warmBatches is the number of batches before the measurement.
const warmBatches = 20

// smallBatches runs batches of ten one after another, and returns their durations.
func smallBatches(ctx context.Context, c contender, times int) ([]time.Duration, error) {
	took := make([]time.Duration, 0, warmBatches+times)
	for i := range warmBatches + times {
		one, err := smallBatch(ctx, c, "small-"+strconv.Itoa(i))
		if err != nil {
			return nil, err
		}
		took = append(took, one)
	}
	return took[warmBatches:], nil
}

// smallBatch runs one batch of ten, and checks its results.
func smallBatch(ctx context.Context, c contender, name string) (time.Duration, error) {
	bodies := makeBodies(name, small, smallBody)
	took, results, err := c.run(ctx, name, bodies)
	if err != nil {
		return 0, err
	}
	if err := check(bodies, results); err != nil {
		return 0, fmt.Errorf("wrong results: %w", err)
	}
	return took.read, nil
}

// asynqLatency runs small batches of the peer in the servers' own process.
func (w *world) asynqLatency(ctx context.Context, servers, times int) ([]time.Duration, error) {
	p, err := w.startServer("asynq", w.self, "asynq", "--redis", w.redis.addr, "--target", w.targetURL,
		"--servers", strconv.Itoa(servers), "--in-flight", strconv.Itoa(inFlight), "--times", strconv.Itoa(times))
	if err != nil {
		return nil, err
	}
	line, err := p.await(ctx, asynqWrote)
	if err != nil {
		return nil, err
	}
	var wrote asynqLatency
	if err := json.Unmarshal([]byte(line), &wrote); err != nil {
		return nil, fmt.Errorf("read what asynq took: %w", err)
	}
	return wrote.Took, nil
}

// waiting is batchd with answers that contain the results: one round trip.
type waiting struct{ *batchd }

func (b waiting) run(ctx context.Context, name string, bodies [][]byte) (timing, []result, error) {
	began := time.Now()
	batch, err := b.client.SubmitJSON(ctx, document(bodies), client.Options{Wait: 30 * time.Second})
	took := time.Since(began)
	switch {
	case err != nil:
		return timing{}, nil, fmt.Errorf("submit %s: %w", name, err)
	case !batch.Status.Terminal():
		return timing{}, nil, fmt.Errorf("%s is still %s after %s", name, batch.Status, took)
	}
	return timing{submitted: took, ended: took, read: took}, resultsOf(batch), nil
}
