package consumer

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/queue/tasks"
)

const (
	// forwardPolls and reapPolls are after how many polls a server looks for tasks that wait for
	// another attempt, or whose leases have expired, although none of its own do: those of
	// processes that died.
	forwardPolls = 2
	reapPolls    = 4
	// forwardPause is the least time between two exchanges for one queue: tasks that are due
	// meanwhile share the next one.
	forwardPause = 2 * time.Millisecond
	// reapGrace is for how long a lease must have been over. A worker renews leases more often,
	// so those that could not be renewed while Redis was unavailable are renewed before that.
	reapGrace = leaseEvery + 2*time.Second
)

// forwarder moves the tasks of actions whose retry times have come back to their queues.
type forwarder struct {
	t     *consumer
	wakeC chan struct{}
}

func newForwarder(t *consumer) *forwarder { return &forwarder{t: t, wakeC: make(chan struct{}, 1)} }

// waits notes that a task of the queue is due at a time, with the lock held.
func (q *taskQueue) waits(at time.Time) {
	if q.due.IsZero() || at.Before(q.due) {
		q.due = at
		q.t.forwarder.wake()
	}
}

func (f *forwarder) wake() {
	select {
	case f.wakeC <- struct{}{}:
	default: // it has a wakeup that it did not see yet
	}
}

// lookAtAll has all queues looked through.
func (f *forwarder) lookAtAll() {
	now := time.Now()
	for _, l := range f.t.targets {
		l.mu.Lock()
		for _, q := range l.queues {
			q.waits(now)
		}
		l.mu.Unlock()
	}
}

// run moves tasks as they become due, until the server stops.
func (f *forwarder) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		due, wait := f.due(time.Now())
		f.t.eachNode(due, f.forward)
		timer.Reset(wait)
		select {
		case <-f.wakeC:
		case <-timer.C:
		case <-f.t.quit:
			return
		}
	}
}

// due returns the queues with tasks that are due, and how long it is until others are.
func (f *forwarder) due(now time.Time) (due []*taskQueue, wait time.Duration) {
	wait = time.Hour
	for _, l := range f.t.targets {
		l.mu.Lock()
		for _, q := range l.queues {
			switch {
			case q.moves || q.due.IsZero():
			case q.due.After(now):
				wait = min(wait, q.due.Sub(now))
			default:
				q.moves, q.due = true, time.Time{}
				due = append(due, q)
			}
		}
		l.mu.Unlock()
	}
	return due, wait
}

// eachNode does something with some queues in the background: on a cluster for each node on its
// own, so that one that does not answer delays none but its own queues.
func (t *consumer) eachNode(queues []*taskQueue, do func([]*taskQueue)) {
	byNode := make(map[*redis.Client][]*taskQueue)
	for _, q := range queues {
		node := t.s.db.NodeOf(context.Background(), q.prefix)
		byNode[node] = append(byNode[node], q)
	}
	for _, of := range byNode {
		t.wg.Go(func() { do(of) })
	}
}

// forward moves the tasks of some queues that are due, in one exchange.
func (f *forwarder) forward(queues []*taskQueue) {
	for i, answer := range f.t.s.tasks.Forward(context.Background(), namesOf(queues)) {
		queues[i].forwarded(answer)
	}
	f.wake()
}

func namesOf(queues []*taskQueue) []string {
	names := make([]string, len(queues))
	for i, q := range queues {
		names[i] = q.name
	}
	return names
}

// forwarded notes what an exchange has moved to the queue, and when the next one is due.
func (q *taskQueue) forwarded(answer tasks.Forwarded) {
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.moves = false
	switch {
	case answer.Err != nil:
		q.t.s.log.Warn("tasks not moved that are due for another attempt", "queue", q.name, "error", answer.Err)
		q.maybeNonEmpty = true // Redis may have moved some
		q.waits(now.Add(retryPause))
	case answer.Waits:
		q.waits(now.Add(max(answer.Next, forwardPause)))
	}
	if answer.Err != nil || answer.Moved > 0 {
		q.maybeNonEmpty = true
		q.wake()
	}
}

// reap puts tasks back whose leases have expired: the processes that took them died, or never
// learned that they have them, and the sweeper did not find them.
func (t *consumer) reap() {
	var all []*taskQueue
	for _, l := range t.targets {
		all = append(all, l.queues...)
	}
	t.eachNode(all, t.reapQueues)
}

func (t *consumer) reapQueues(queues []*taskQueue) {
	for i, answer := range t.s.tasks.Reap(context.Background(), namesOf(queues), reapGrace) {
		name := queues[i].name
		switch {
		case answer.Err != nil:
			t.s.log.Warn("expired leases not looked for", "queue", name, "error", answer.Err)
		case answer.PutBack > 0:
			t.s.log.Info("tasks put back whose leases had expired", "queue", name, "tasks", answer.PutBack)
			t.markNonEmpty(name)
		}
	}
}
