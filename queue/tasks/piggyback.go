package tasks

import (
	"context"

	"github.com/redis/go-redis/v9"
)

// Piggyback polls in the exchange of another step. It saves a wakeup and an exchange when the process that
// commits a small batch also runs it. With [NoPiggyback], a commit wakes the consumers, which poll in exchanges
// of their own.
type Piggyback interface {
	// Poll returns a poll of a queue for a pipeline that offers actions there. The caller adds the poll to
	// the pipeline after the offer, sends the pipeline, and calls Read.
	Poll(ctx context.Context, queue string) PiggybackPoll
}

// PiggybackPoll is a poll in the exchange of another step.
type PiggybackPoll interface {
	// WakesOthers reports whether the poll wakes the consumers of other processes for the tasks that it leaves.
	WakesOthers() bool
	// Add adds the poll to the pipeline.
	Add(ctx context.Context, pipe redis.Pipeliner)
	// Read reads the answer, passes the tasks to the consumer, and returns their number.
	Read(ctx context.Context) int
	// Failed reports whether a command of the poll failed in this exchange.
	Failed() bool
}

// NoPiggyback is a [Piggyback] that takes no tasks.
type NoPiggyback struct{}

// Poll implements [Piggyback].
func (NoPiggyback) Poll(context.Context, string) PiggybackPoll { return NoPoll{} }

// NoPoll is a [PiggybackPoll] that adds nothing to the pipeline and takes no tasks.
type NoPoll struct{}

// WakesOthers implements [PiggybackPoll].
func (NoPoll) WakesOthers() bool { return false }

// Add implements [PiggybackPoll].
func (NoPoll) Add(context.Context, redis.Pipeliner) {}

// Read implements [PiggybackPoll].
func (NoPoll) Read(context.Context) int { return 0 }

// Failed implements [PiggybackPoll].
func (NoPoll) Failed() bool { return false }
