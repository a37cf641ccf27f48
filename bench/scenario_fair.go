package main

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/batchd/batchd/client"
)

// fairPause is the least time between the starts of two small batches. Without it, they
// would use as much of the machine as the large batch.
const fairPause = 20 * time.Millisecond

func aboutFair(s sizes) string {
	return fmt.Sprintf("batches of %d one after another, at most one in %s, alone and while %d actions of another owner run, from their upload to their end", small, fairPause, s.large)
}

func fair(ctx context.Context, b *bench, out *section) error {
	alone, beside := out.row("alone"), out.row("beside")
	for range b.rounds {
		err := b.inWorld(ctx, 0, b.fsync, func(ctx context.Context, w *world) error {
			c, err := w.startBatchd(ctx, setup{split: b.split, concurrency: inFlight, passthrough: true})
			if err != nil {
				return err
			}
			theirs, err := c.as("small-owner")
			if err != nil {
				return err
			}
			took, err := smallBatches(ctx, paced(waiting{theirs}), b.sizes.times)
			if err != nil {
				return err
			}
			addLatency(alone, took)
			return w.beside(ctx, c, theirs, beside, b.sizes.large)
		})
		if err != nil {
			return err
		}
	}
	out.goal("p50: beside / alone", "", ratios(out.of("beside", "p50"), out.of("alone", "p50")), "", "")
	out.goal("p99: beside / alone", "", ratios(out.of("beside", "p99"), out.of("alone", "p99")), "≤ 3", "≤ 2")
	return nil
}

// beside runs small batches while one large batch of another owner runs.
func (w *world) beside(ctx context.Context, c, theirs *batchd, r *row, n int) error {
	bulk, err := c.as("bulk-owner")
	if err != nil {
		return err
	}
	bodies := makeBodies("bulk", n, smallBody)
	var (
		running sync.WaitGroup
		answer  []byte
		bulkErr error
		ended   = make(chan struct{})
		bulkFor time.Duration
	)
	began := time.Now()
	running.Go(func() {
		defer close(ended)
		var id string
		if id, bulkErr = bulk.upload(ctx, bodies); bulkErr == nil {
			_, bulkErr = bulk.client.Wait(ctx, id)
		}
		bulkFor = time.Since(began)
		if bulkErr == nil {
			answer, bulkErr = bulk.readResults(ctx, id, n*smallBody)
		}
	})
	one := paced(waiting{theirs})
	var took []time.Duration
	for i := 0; !closed(ended); i++ {
		t, err := smallBatch(ctx, one, "beside-"+strconv.Itoa(i))
		if err != nil {
			<-ended
			return err
		}
		took = append(took, t)
	}
	running.Wait()
	if bulkErr != nil {
		return fmt.Errorf("the large batch: %w", bulkErr)
	}
	addLatency(r, took)
	r.add("batches", "", float64(len(took)))
	r.add("bulk", "actions/s", float64(n)/bulkFor.Seconds())
	w.sent += small * (len(took) + warmBatches + w.sizes.times)
	if err := w.verifyAnswer(bodies, answer); err != nil {
		return err
	}
	return w.checkRequests(ctx)
}

// pacedContender starts each run at least fairPause after the one before.
type pacedContender struct {
	contender
	next time.Time
}

func paced(c contender) contender { return &pacedContender{contender: c} }

func (p *pacedContender) run(ctx context.Context, name string, bodies [][]byte) (timing, []result, error) {
	if err := pause(ctx, time.Until(p.next)); err != nil {
		return timing{}, nil, err
	}
	p.next = time.Now().Add(fairPause)
	return p.contender.run(ctx, name, bodies)
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// as returns batchd for the owner with that credential.
func (b *batchd) as(owner string) (*batchd, error) {
	seen := *b
	seen.credential = owner
	var err error
	seen.client, err = b.newClient(client.WithBearer(owner))
	return &seen, err
}
