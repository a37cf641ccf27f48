package queue

import (
	"context"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/queue/rdb"
)

// piggyback takes tasks in an exchange that another step makes. It spares a wake-up and an exchange
// for a small batch that is committed where it is run. Store.piggyback is the one place to switch
// it off: with noPiggyback, a commit wakes the consumers, which poll in exchanges of their own.
type piggyback interface {
	// poll returns a poll for a pipeline that offers actions in a queue. The caller adds it to
	// the pipeline after the offer, sends that, and calls took.
	poll(ctx context.Context, queue string) piggybackPoll
}

// piggybackPoll is a poll in an exchange that another step makes.
type piggybackPoll interface {
	// wakesOthers reports whether the poll wakes consumers elsewhere for what it leaves.
	wakesOthers() bool
	add(ctx context.Context, pipe redis.Pipeliner)
	// took reads the answer, and returns how many tasks were taken.
	took(ctx context.Context) int
	// failed reports whether a part of the poll was not answered at once.
	failed() bool
}

// noPiggyback takes no tasks.
type noPiggyback struct{}

func (noPiggyback) poll(context.Context, string) piggybackPoll { return noPoll{} }

type noPoll struct{}

func (noPoll) wakesOthers() bool                    { return false }
func (noPoll) add(context.Context, redis.Pipeliner) {}
func (noPoll) took(context.Context) int             { return 0 }
func (noPoll) failed() bool                         { return false }

// localConsumers has a consumer of this process take the tasks.
type localConsumers struct{ s *Store }

func (l localConsumers) poll(ctx context.Context, queue string) piggybackPoll {
	if a := l.s.turnAlong(ctx, queue); a != nil {
		return a
	}
	return noPoll{}
}

// along is a turn that is made in an exchange of another step.
type along struct {
	*lane
	parts []*part
	tells bool // workers elsewhere of what it leaves
}

// turnAlong returns a turn for a pipeline that enqueues tasks, if a server of this
// process has places for them, or nil. That saves the consumer a wakeup and an
// exchange of its own. The caller has to add it to the pipeline, send that, and call took.
func (s *Store) turnAlong(ctx context.Context, queue string) *along {
	q := s.laneOf(queue)
	if q == nil || q.pacer != nil { // send times are reserved in an exchange of their own
		return nil
	}
	// If the caller gives up before the reply, the tasks that the turn took stay unstarted
	// until the sweeper finds them.
	if until, _ := ctx.Deadline(); time.Until(until) < rdb.DefaultTimeout/2 || !q.turning.TryLock() {
		return nil
	}
	q.mu.Lock()
	q.filled = true
	q.mu.Unlock()
	held, _ := q.Held()
	if _, take, _ := q.next(held); !take {
		q.turning.Unlock()
		return nil
	}
	a := &along{lane: q, parts: q.plan(true)}
	for _, p := range a.parts {
		if p.lane == q && p.Want > 0 { // it may be the turn of other queues
			p.Wakeup, a.tells = s.word(queue), true
		}
	}
	return a
}

func (a *along) wakesOthers() bool { return a.tells }

func (a *along) add(ctx context.Context, pipe redis.Pipeliner) { a.line.add(ctx, pipe, a.parts) }

func (a *along) took(ctx context.Context) int {
	defer a.wake() // what it is to do next may have changed
	defer a.turning.Unlock()
	return a.read(ctx, a.parts)
}

func (a *along) failed() bool {
	return slices.ContainsFunc(a.parts, func(p *part) bool { return p.Failed() })
}
