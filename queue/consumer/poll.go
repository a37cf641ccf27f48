package consumer

import (
	"context"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/queue/tasks"
)

const (
	// mostTaken is the most tasks that one poll takes from a queue.
	mostTaken = 128
	// mostPaced is the same for a target with a rate, whose tasks wait for their send
	// times for as long as some exchanges take.
	mostPaced = 1000
)

// queuePoll is the part of a poll that is about one queue.
type queuePoll struct {
	*taskQueue
	tasks.Poll
}

// poll makes a poll, and returns when its replies were read.
func (t *targetConsumer) poll(take bool) {
	t.startPoll(take)
	t.awaitPolls()
}

// startPoll removes the tasks that have ended from asynq's records and, if take is true, takes as
// many tasks as there are slots for. On a cluster it does not wait for the replies: each
// node has an exchange of its own, so that a node that does not reply delays only its own queues.
func (t *targetConsumer) startPoll(take bool) {
	t.pollMu.Lock()
	defer t.pollMu.Unlock()
	polls := t.plan(take && !t.stopped())
	if len(polls) == 0 {
		return
	}
	if t.consumer.store.DB.Cluster == nil {
		t.exchange(polls)
		return
	}
	groups := byNode(t.consumer.store.DB, polls, func(p *queuePoll) string { return p.prefix })
	t.mu.Lock()
	t.polls += len(groups)
	t.mu.Unlock()
	for _, of := range groups {
		go func() {
			t.exchange(of)
			t.mu.Lock()
			t.polls--
			t.polled.Broadcast()
			t.mu.Unlock()
			t.wake()
		}()
	}
}

// awaitPolls waits for the exchanges under way with single nodes.
func (t *targetConsumer) awaitPolls() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.polls > 0 {
		t.polled.Wait()
	}
}

// exchange makes polls in one exchange.
func (t *targetConsumer) exchange(polls []*queuePoll) {
	ctx, cancel := t.consumer.store.DB.WithTimeout(context.Background())
	defer cancel()
	pipe := t.consumer.store.DB.Client.Pipeline()
	reservation := t.reserveAfterPoll(polls)
	addPolls(ctx, pipe, polls)
	reservation.Add(ctx, pipe)
	t.consumer.store.DB.Send(ctx, pipe)
	received := time.Now()
	reservation.Read(received, t.read(ctx, polls))
}

// addPolls adds polls to a pipeline.
func addPolls(ctx context.Context, pipe redis.Pipeliner, polls []*queuePoll) {
	for _, p := range polls {
		p.Add(ctx, pipe)
	}
}

// read reads the replies to polls, and returns how many tasks they took.
func (t *targetConsumer) read(ctx context.Context, polls []*queuePoll) (taken int) {
	for _, p := range polls {
		ids, more, err := p.Read(ctx, t.consumer.store.DB)
		taken += t.apply(p, ids, more, err)
		t.mu.Lock()
		p.polling = false // not before: tasks that apply gave back come first in the next poll
		t.mu.Unlock()
	}
	return taken
}

// plan divides the free slots among the queues that may have tasks.
func (t *targetConsumer) plan(take bool) []*queuePoll {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.polledAt = time.Now()
	bulkFree := t.slots.bulkFree(t.polledAt)
	free := 0
	if take {
		free = max(0, t.slots.room(t.polledAt)) // fewer than next saw, if fewer tasks leave their slots now
	}
	wants := divide(free, bulkFree, t.queueStates(), processRandom{})
	var polls []*queuePoll
	for i, q := range t.queues {
		if !q.polling && (wants[i] > 0 || q.unreported() > 0) {
			polls = append(polls, t.planQueue(q, wants[i]))
		}
	}
	return polls
}

// queueStates returns the state of each queue. The caller holds the lock.
func (t *targetConsumer) queueStates() []queueState {
	cluster := t.consumer.store.DB.Cluster != nil
	most := mostTaken
	if t.pacer != nil {
		most = mostPaced
	}
	queues := make([]queueState, len(t.queues))
	for i, q := range t.queues {
		queues[i] = queueState{bulk: q.bulk, waits: q.maybeNonEmpty && !q.polling && (!cluster || !t.polledAt.Before(q.failed)), most: most}
		if cluster && !q.failed.IsZero() {
			queues[i].most = 1 // meanwhile no other queue gets the slots for which a node that does not reply was asked
		}
	}
	return queues
}

// planQueue returns the poll of a queue that takes so many tasks. The caller holds the lock.
func (t *targetConsumer) planQueue(q *taskQueue, want int) *queuePoll {
	n, m := min(len(q.done), tasks.MostEnded), min(len(q.again), tasks.MostEnded)
	p := &queuePoll{q, tasks.Poll{Queue: q.name, Want: want, FIFO: t.FIFO, Message: q.message, Ended: slices.Clip(q.done[:n]), Again: slices.Clip(q.again[:m])}}
	q.done, q.again = q.done[n:], q.again[m:]
	for i := range p.Again {
		p.Again[i].Wait = max(0, p.Again[i].At.Sub(t.polledAt)).Round(time.Microsecond)
	}
	if slices.ContainsFunc(p.Again, tasks.Again.AtOnce) {
		p.Wakeup = t.consumer.store.Tasks.Wakeup(q.name)
	}
	q.polling = true
	if want > 0 {
		q.maybeNonEmpty = false // unless the poll leaves tasks, or a wakeup arrives meanwhile
		t.slots.want(q, want)
	}
	return p
}

// apply takes in the reply to the poll of one queue, and returns how many tasks it took.
func (t *targetConsumer) apply(p *queuePoll, ids []string, more bool, err error) int {
	now := time.Now()
	taken := make([]*task, len(ids))
	for i, id := range ids {
		taken[i] = &task{queue: p.taskQueue, id: id, taken: now, slot: Slot{queue: p.taskQueue}}
	}
	t.mu.Lock()
	t.slots.add(p.taskQueue, taken, p.Want)
	if len(taken) > 0 && !p.bulk {
		t.slots.share.small = now
	}
	if err != nil {
		if p.Want > 0 {
			p.reportLost() // Redis may have given some to this process
		}
		p.done = append(p.Ended, p.done...)
		p.again = append(p.Again, p.again...)
		p.maybeNonEmpty = true
		p.failed = now.Add(retryPause)
	} else {
		p.failed = time.Time{}
		p.maybeNonEmpty = p.maybeNonEmpty || more
		for _, k := range p.Again {
			if k.AtOnce() {
				p.maybeNonEmpty = true
			} else {
				p.forwardAt(now.Add(k.Wait + time.Millisecond)) // Redis counted from a moment before now, and rounded up
			}
		}
	}
	t.mu.Unlock()
	if err != nil {
		t.consumer.store.Log.Warn("tasks not taken", "queue", p.name, "error", err)
		return 0
	}
	switch {
	case len(taken) == 0:
	case t.pacer != nil:
		t.pacer.Add(taken)
	default:
		t.mu.Lock()
		t.slots.ready = append(t.slots.ready, taken...)
		t.slots.startReady()
		t.mu.Unlock()
	}
	return len(taken)
}
