package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

func aboutPoll(s sizes) string {
	return fmt.Sprintf("GET /batch/{id} of a batch of %d and of one of %d, in turn, before their ends and after", s.large, small)
}

func poll(ctx context.Context, b *bench, out *section) error {
	for range b.rounds {
		// The target is so slow that neither batch ends meanwhile.
		err := b.inWorld(ctx, 20*time.Second, b.fsync, func(ctx context.Context, w *world) error { return w.pollRunning(ctx, out) })
		if err == nil {
			err = b.inWorld(ctx, 0, b.fsync, func(ctx context.Context, w *world) error { return w.pollEnded(ctx, out) })
		}
		if err != nil {
			return err
		}
	}
	for _, when := range []string{"running", "ended"} {
		out.goal("p50, "+when+": large / small", "", ratios(out.of("large", when), out.of("small", when)), "≤ 1.1", "")
	}
	return nil
}

func (w *world) pollRunning(ctx context.Context, out *section) error {
	c, err := w.startBatchd(ctx, setup{split: w.split, concurrency: 1})
	if err != nil {
		return err
	}
	large, err := c.upload(ctx, makeBodies("large", w.sizes.large, smallBody))
	if err != nil {
		return err
	}
	little, err := c.upload(ctx, makeBodies("small", small, smallBody))
	if err != nil {
		return err
	}
	if err := w.awaitQuiet(ctx); err != nil {
		return err
	}
	if err := c.pollInTurn(ctx, out, "running", large, little, w.sizes.times); err != nil {
		return err
	}
	for _, id := range []string{large, little} {
		batch, err := c.client.Get(ctx, id, 0)
		if err != nil {
			return fmt.Errorf("get batch %s: %w", id, err)
		}
		if batch.Status.Terminal() {
			return fmt.Errorf("a batch that was to run is %s", batch.Status)
		}
	}
	return nil
}

func (w *world) pollEnded(ctx context.Context, out *section) error {
	c, err := w.startBatchd(ctx, setup{split: w.split, concurrency: inFlight})
	if err != nil {
		return err
	}
	ids := make([]string, 2)
	for i, n := range []int{w.sizes.large, small} {
		bodies := makeBodies("run", n, smallBody)
		if ids[i], err = c.upload(ctx, bodies); err != nil {
			return err
		}
		answer, err := c.readEnded(ctx, ids[i], bodies)
		if err != nil {
			return err
		}
		if err := w.verifyAnswer(bodies, answer); err != nil {
			return err
		}
	}
	if err := w.checkRequests(ctx); err != nil {
		return err
	}
	return c.pollInTurn(ctx, out, "ended", ids[0], ids[1], w.sizes.times)
}

// pollInTurn reads a large batch and a small one in turn, so that both have the same
// disturbance.
func (b *batchd) pollInTurn(ctx context.Context, out *section, when, large, little string, times int) error {
	took := map[string][]time.Duration{}
	for range times {
		for _, id := range []string{large, little} {
			one, err := b.poll(ctx, id)
			if err != nil {
				return err
			}
			took[id] = append(took[id], one)
		}
	}
	out.row("large").add(when, "ms", quantile(milliseconds(took[large]), 0.5))
	out.row("small").add(when, "ms", quantile(milliseconds(took[little]), 0.5))
	return nil
}

// poll reads a batch without decoding it.
func (b *batchd) poll(ctx context.Context, id string) (time.Duration, error) {
	began := time.Now()
	resp, err := b.get(ctx, "/batch/"+id, http.Header{"Accept": {"application/json"}})
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return 0, fmt.Errorf("read batch %s: %w", id, err)
	}
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("read batch %s: %s", id, resp.Status)
	}
	return time.Since(began), nil
}

// awaitQuiet waits until Redis has little to do: tasks that are enqueued after the
// answer are then enqueued.
func (w *world) awaitQuiet(ctx context.Context) error {
	const tick, few = 250 * time.Millisecond, 500 // commands
	var last float64
	for quiet := 0; quiet < 4; quiet++ {
		if err := pause(ctx, tick); err != nil {
			return err
		}
		info, err := w.redis.info(ctx, "stats")
		if err != nil {
			return err
		}
		now := info["total_commands_processed"]
		if now-last > few {
			quiet = -1
		}
		last = now
	}
	return nil
}
