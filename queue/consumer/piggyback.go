package consumer

import (
	"context"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
)

// piggyback lets a consumer of this process poll in the exchange of another step. It implements
// [tasks.Piggyback].
type piggyback struct{ consumers *Consumers }

func (p piggyback) Poll(ctx context.Context, queue string) tasks.PiggybackPoll {
	if poll := p.consumers.newPiggybackPoll(ctx, queue); poll != nil {
		return poll
	}
	return tasks.NoPoll{}
}

// piggybackPoll is a poll in an exchange of another step. From its creation until Read has returned it holds
// pollMu of its target.
type piggybackPoll struct {
	target      *targetConsumer
	polls       []*queuePoll
	wakesOthers bool
}

// newPiggybackPoll returns a poll for a pipeline that offers actions, if a consumer of this
// process has slots for them, or nil. That saves the consumer a wakeup and an
// exchange of its own. The caller has to add it to the pipeline, send that, and call Read.
func (cs *Consumers) newPiggybackPoll(ctx context.Context, queue string) *piggybackPoll {
	q := cs.queueOf(queue)
	if q == nil || q.target.pacer != nil { // send times are reserved in an exchange of the consumer
		return nil
	}
	t := q.target
	// If the caller gives up before the reply, the tasks that the poll took stay unstarted
	// until the sweeper finds them.
	if until, _ := ctx.Deadline(); time.Until(until) < rdb.DefaultTimeout/2 || !t.pollMu.TryLock() {
		return nil
	}
	t.mu.Lock()
	q.maybeNonEmpty = true
	t.mu.Unlock()
	held, _ := t.Held()
	if _, take, _ := t.next(held); !take {
		t.pollMu.Unlock()
		return nil
	}
	a := &piggybackPoll{target: t, polls: t.plan(true)}
	for _, p := range a.polls {
		if p.taskQueue == q && p.Want > 0 { // the poll may be of other queues only
			p.Wakeup, a.wakesOthers = cs.store.Tasks.Wakeup(queue), true
		}
	}
	return a
}

func (a *piggybackPoll) WakesOthers() bool { return a.wakesOthers }

func (a *piggybackPoll) Add(ctx context.Context, pipe redis.Pipeliner) { addPolls(ctx, pipe, a.polls) }

func (a *piggybackPoll) Read(ctx context.Context) int {
	defer a.target.wake() // its next poll may be due
	defer a.target.pollMu.Unlock()
	return a.target.read(ctx, a.polls)
}

func (a *piggybackPoll) Failed() bool {
	return slices.ContainsFunc(a.polls, func(p *queuePoll) bool { return p.Failed() })
}
