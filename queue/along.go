package queue

import (
	"context"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
)

// along is a turn that is made in an exchange of another step: the one that enqueues tasks.
type along struct {
	*lane
	parts []*part
	tells bool // workers elsewhere of what it leaves
}

// turnAlong returns a turn for a pipeline that enqueues tasks, if a server of this
// process has places for them, or nil. That spares the server being told of them, and an
// exchange of its own. The caller has to add it to the pipeline, send that, and call took.
func (s *Store) turnAlong(ctx context.Context, queue string) *along {
	q := s.laneOf(queue)
	if q == nil || q.pacer != nil { // send times are reserved in an exchange of their own
		return nil
	}
	// If the caller gives up before the reply, the tasks that the turn took stay unstarted
	// until the sweeper finds them.
	if until, _ := ctx.Deadline(); time.Until(until) < defaultTimeout/2 || !q.turning.TryLock() {
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
		if p.lane == q && p.want > 0 { // it may be the turn of other queues
			p.word, a.tells = s.word(queue), true
		}
	}
	return a
}

func (a *along) add(ctx context.Context, pipe redis.Pipeliner) { a.line.add(ctx, pipe, a.parts) }

// took reads the answer, and returns how many tasks were taken.
func (a *along) took(ctx context.Context) int {
	defer a.wake() // what it is to do next may have changed
	defer a.turning.Unlock()
	return a.read(ctx, a.parts)
}

// failed reports whether a part of it was not answered at once.
func (a *along) failed() bool {
	return slices.ContainsFunc(a.parts, func(p *part) bool { return p.cmd.Err() != nil })
}
