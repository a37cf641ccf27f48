package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/batchd/batchd/client"
)

const (
	ownersTarget = 20 * time.Millisecond // how long the target takes
	ownersPlaces = 16
	ownersTurns  = 4 // the loads alternate, so that a change of the machine affects all of them
	smallOwner   = "small-owner"
	bulkOwner    = "bulk-owner"
	manyBatches  = 100 // actions of each of the many batches
)

// ownersLoads are the loads beside the small batches.
var ownersLoads = []struct {
	row, owner string
	many       bool // as batches of manyBatches actions; else one batch
}{
	{row: "alone"},
	{row: "large", owner: bulkOwner},
	{row: "many", owner: bulkOwner, many: true},
	{row: "own many", owner: smallOwner, many: true},
}

func aboutOwners(s sizes) string {
	return fmt.Sprintf("batches of %d one after another at a target of %s with %d slots: alone, beside a batch of %d actions of another owner (large), beside its %d batches of %d (many), and beside as many of the same owner (own many)",
		small, ownersTarget, ownersPlaces, s.owners, s.owners/manyBatches, manyBatches)
}

func owners(ctx context.Context, b *bench, out *section) error {
	for _, l := range ownersLoads {
		out.row(l.row)
	}
	for range b.rounds {
		err := b.inWorld(ctx, ownersTarget, b.fsync, func(ctx context.Context, w *world) error {
			c, err := w.startBatchd(ctx, setup{split: b.split, concurrency: ownersPlaces, passthrough: true})
			if err != nil {
				return err
			}
			theirs, err := c.as(smallOwner)
			if err != nil {
				return err
			}
			if _, err := smallBatches(ctx, waiting{theirs}, 0); err != nil {
				return err
			}
			took := make(map[string][]time.Duration)
			for range ownersTurns {
				for _, l := range ownersLoads {
					some, err := b.besideLoad(ctx, c, theirs, l.owner, l.many)
					if err != nil {
						return fmt.Errorf("%s: %w", l.row, err)
					}
					took[l.row] = append(took[l.row], some...)
				}
			}
			for _, l := range ownersLoads {
				addLatency(out.row(l.row), took[l.row])
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for _, l := range ownersLoads[1:] {
		for _, q := range []string{"p50", "p99"} {
			out.goal(q+": "+l.row+" / alone", "", ratios(out.of(l.row, q), out.of("alone", q)), "≤ 2", "")
		}
	}
	return nil
}

// besideLoad runs small batches beside actions of an owner, if one is named, and then cancels
// the rest of these.
func (b *bench) besideLoad(ctx context.Context, c, theirs *batchd, owner string, many bool) ([]time.Duration, error) {
	var ids []string
	var bulk *batchd
	if owner != "" {
		var err error
		if bulk, err = c.as(owner); err != nil {
			return nil, err
		}
		size := b.sizes.owners
		if many {
			size = manyBatches
		}
		ids = make([]string, b.sizes.owners/size)
		err = eachInParallel(2, len(ids), func(i int) (err error) {
			batch, err := bulk.client.SubmitJSON(ctx, document(makeBodies("bulk-"+strconv.Itoa(i), size, smallBody)), client.Options{})
			if err == nil {
				ids[i] = batch.ID
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("submit the load: %w", err)
		}
	}
	var took []time.Duration
	for i := range b.sizes.times / ownersTurns {
		// The batches begin at various moments of the target's work.
		if err := pause(ctx, time.Duration(i*7%20)*time.Millisecond); err != nil {
			return nil, err
		}
		one, err := smallBatch(ctx, waiting{theirs}, "beside-"+strconv.Itoa(i))
		if err != nil {
			return nil, err
		}
		ended, err := allEnded(ctx, bulk, ids)
		if err != nil {
			return nil, err
		}
		if ended && len(took) == 0 {
			return nil, fmt.Errorf("the load of %d actions ended before one small batch", b.sizes.owners)
		}
		if ended {
			break
		}
		took = append(took, one)
	}
	for _, id := range ids {
		var ended *client.Problem
		if _, err := bulk.client.Cancel(ctx, id); err != nil && (!errors.As(err, &ended) || ended.Status != http.StatusConflict) {
			return nil, fmt.Errorf("cancel the load: %w", err)
		}
	}
	for _, id := range ids {
		if _, err := bulk.client.Wait(ctx, id); err != nil {
			return nil, fmt.Errorf("wait for the end of the load: %w", err)
		}
	}
	return took, nil
}

// allEnded reports whether batches, of which there is at least one, have ended. It reads the last one
// that was submitted and the first.
func allEnded(ctx context.Context, of *batchd, ids []string) (bool, error) {
	for i := range min(len(ids), 2) {
		batch, err := of.client.Get(ctx, ids[i*(len(ids)-1)], 0)
		if err != nil {
			return false, fmt.Errorf("read the load: %w", err)
		}
		if !batch.Status.Terminal() {
			return false, nil
		}
	}
	return len(ids) > 0, nil
}
