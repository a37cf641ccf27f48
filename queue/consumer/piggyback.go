package consumer

import (
	"context"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
)

// localConsumers has a consumer of this process take the tasks.
type localConsumers struct{ s *Consumers }

func (l localConsumers) Poll(ctx context.Context, queue string) tasks.PiggybackPoll {
	if a := l.s.newLocalPoll(ctx, queue); a != nil {
		return a
	}
	return tasks.NoPoll{}
}

// localPoll is a turn that is made in an exchange of another step.
type localPoll struct {
	*taskQueue
	parts []*part
	tells bool // workers elsewhere of what it leaves
}

// newLocalPoll returns a turn for a pipeline that enqueues tasks, if a server of this
// process has places for them, or nil. That saves the consumer a wakeup and an
// exchange of its own. The caller has to add it to the pipeline, send that, and call took.
func (s *Consumers) newLocalPoll(ctx context.Context, queue string) *localPoll {
	q := s.queueOf(queue)
	if q == nil || q.pacer != nil { // send times are reserved in an exchange of their own
		return nil
	}
	// If the caller gives up before the reply, the tasks that the turn took stay unstarted
	// until the sweeper finds them.
	if until, _ := ctx.Deadline(); time.Until(until) < rdb.DefaultTimeout/2 || !q.pollMu.TryLock() {
		return nil
	}
	q.mu.Lock()
	q.maybeNonEmpty = true
	q.mu.Unlock()
	held, _ := q.Held()
	if _, take, _ := q.next(held); !take {
		q.pollMu.Unlock()
		return nil
	}
	a := &localPoll{taskQueue: q, parts: q.plan(true)}
	for _, p := range a.parts {
		if p.taskQueue == q && p.Want > 0 { // it may be the turn of other queues
			p.Wakeup, a.tells = s.tasks.Wakeup(queue), true
		}
	}
	return a
}

func (a *localPoll) WakesOthers() bool { return a.tells }

func (a *localPoll) Add(ctx context.Context, pipe redis.Pipeliner) {
	a.targetConsumer.add(ctx, pipe, a.parts)
}

func (a *localPoll) Read(ctx context.Context) int {
	defer a.wake() // what it is to do next may have changed
	defer a.pollMu.Unlock()
	return a.read(ctx, a.parts)
}

func (a *localPoll) Failed() bool {
	return slices.ContainsFunc(a.parts, func(p *part) bool { return p.Failed() })
}
