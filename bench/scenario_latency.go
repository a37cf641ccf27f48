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

// asynqWrote is the line that the subcommand "asynq --times" ends with.
var asynqWrote = regexp.MustCompile(`(?m)^(\{"took":.*\})$`)

func latency(ctx context.Context, b *bench, out *section) error {
	entrants := b.field(setup{split: b.split})
	for _, e := range entrants {
		out.row(e.name)
	}
	err := b.eachRound(entrants, func(_ int, e entrant) error {
		return b.inWorld(ctx, 0, func(w *world) error {
			took, err := b.latencyOf(ctx, w, e)
			if err != nil {
				return err
			}
			r, ms := out.row(e.name), milliseconds(took)
			r.add("p50", "ms", quantile(ms, 0.5))
			r.add("p90", "ms", quantile(ms, 0.9))
			r.add("p99", "ms", quantile(ms, 0.99))
			r.add("most", "ms", quantile(ms, 1))
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

// smallBatches runs batches of ten one after another, and returns how long each
// took. A few that come before are not counted.
func smallBatches(ctx context.Context, c contender, times int) ([]time.Duration, error) {
	const warm = 20
	took := make([]time.Duration, 0, times)
	for i := range warm + times {
		name := "small-" + strconv.Itoa(i)
		bodies := makeBodies(name, small, smallBody)
		t, results, err := c.run(ctx, name, bodies)
		if err != nil {
			return nil, err
		}
		if err := check(bodies, results); err != nil {
			return nil, fmt.Errorf("wrong results: %w", err)
		}
		if i >= warm {
			took = append(took, t.read)
		}
	}
	return took, nil
}

// asynqLatency has the peer run its small batches in the servers' own process.
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

// waiting is batchd asked to answer with the results: one round trip.
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
	results := make([]result, 0, len(bodies))
	for i := range batch.Results {
		results = append(results, resultOf(&batch.Results[i], 0))
	}
	return timing{submitted: took, ended: took, read: took}, results, nil
}
