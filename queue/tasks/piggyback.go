package tasks

import (
	"context"

	"github.com/redis/go-redis/v9"
)

// Piggyback takes tasks in an exchange that another step makes. It spares a wake-up and an exchange
// for a small batch that is committed where it is run. Store.piggyback is the one place to switch
// it off: with noPiggyback, a commit wakes the consumers, which poll in exchanges of their own.
type Piggyback interface {
	// poll returns a poll for a pipeline that offers actions in a queue. The caller adds it to
	// the pipeline after the offer, sends that, and calls took.
	Poll(ctx context.Context, queue string) PiggybackPoll
}

// PiggybackPoll is a poll in an exchange that another step makes.
type PiggybackPoll interface {
	// wakesOthers reports whether the poll wakes consumers elsewhere for what it leaves.
	WakesOthers() bool
	Add(ctx context.Context, pipe redis.Pipeliner)
	// took reads the answer, and returns how many tasks were taken.
	Read(ctx context.Context) int
	// failed reports whether a part of the poll was not answered at once.
	Failed() bool
}

// NoPiggyback takes no tasks.
type NoPiggyback struct{}

func (NoPiggyback) Poll(context.Context, string) PiggybackPoll { return NoPoll{} }

type NoPoll struct{}

func (NoPoll) WakesOthers() bool { return false }

func (NoPoll) Add(context.Context, redis.Pipeliner) {}

func (NoPoll) Read(context.Context) int { return 0 }

func (NoPoll) Failed() bool { return false }
