package rdb

import (
	"context"
	"time"

	"github.com/batchd/batchd/internal/batch"
)

const (
	// RetryFor is how long [RetryUnavailable] repeats an exchange.
	RetryFor = time.Minute
	// RetryPause is the pause between two repetitions.
	RetryPause = 200 * time.Millisecond
)

// RetryUnavailable repeats an exchange while Redis is away, for [RetryFor] at most.
func RetryUnavailable(ctx context.Context, step func() error) error {
	return RetryUnavailableFor(ctx, RetryFor, step)
}

// RetryUnavailableFor repeats an exchange while Redis is away, for limit at most. What it repeats must
// be repeatable: Redis may have executed it although its answer was lost, or an error took its place.
// It stops when the context ends, and when nothing is left of the request's [batch.Budget], to which its
// pauses count.
func RetryUnavailableFor(ctx context.Context, limit time.Duration, step func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := step()
		if !IsUnavailable(err) || time.Now().After(deadline) || !batch.BudgetOf(ctx).Take(RetryPause) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(RetryPause):
		}
	}
}
