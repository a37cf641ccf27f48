package consumer

import (
	"context"
	"time"

	"github.com/batchd/batchd/queue/tasks"
)

const (
	// forwardPolls is after how many regular polls a consumer looks for tasks that wait for another attempt
	// although it put none there itself: those of processes that died.
	forwardPolls = 2
	// forwardPause is the least time between two exchanges for one queue: tasks that are due
	// meanwhile share the next one.
	forwardPause = 2 * time.Millisecond
)

// forwarder moves the tasks of actions whose retry time has come back to their queues.
type forwarder struct {
	consumer *consumer
	wakeC    chan struct{}
}

// forwardAt notes that a task of the queue is due at a time. The caller holds the lock.
func (q *taskQueue) forwardAt(at time.Time) {
	if q.due.IsZero() || at.Before(q.due) {
		q.due = at
		q.target.consumer.forwarder.wake()
	}
}

func (f *forwarder) wake() {
	select {
	case f.wakeC <- struct{}{}:
	default: // it has a wakeup that it has not seen yet
	}
}

// forwardAll looks for due tasks of all queues.
func (f *forwarder) forwardAll() {
	now := time.Now()
	for _, t := range f.consumer.targets {
		t.mu.Lock()
		for _, q := range t.queues {
			q.forwardAt(now)
		}
		t.mu.Unlock()
	}
}

// run moves tasks as they become due, until the server stops.
func (f *forwarder) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		due, wait := f.due(time.Now())
		f.consumer.eachNode(due, f.forward)
		timer.Reset(wait)
		select {
		case <-f.wakeC:
		case <-timer.C:
		case <-f.consumer.quit:
			return
		}
	}
}

// due returns the queues with tasks that are due, and how long it is until others are.
func (f *forwarder) due(now time.Time) (due []*taskQueue, wait time.Duration) {
	wait = time.Hour
	for _, t := range f.consumer.targets {
		t.mu.Lock()
		for _, q := range t.queues {
			switch {
			case q.forwarding || q.due.IsZero():
			case q.due.After(now):
				wait = min(wait, q.due.Sub(now))
			default:
				q.forwarding, q.due = true, time.Time{}
				due = append(due, q)
			}
		}
		t.mu.Unlock()
	}
	return due, wait
}

// forward moves the due tasks of some queues, in one exchange.
func (f *forwarder) forward(queues []*taskQueue) {
	answers := f.consumer.store.Tasks.Forward(context.Background(), namesOf(queues))
	for i, q := range queues {
		q.forwarded(answers[i])
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

// forwarded takes in how many tasks an exchange moved to the queue, and when the next one is due.
func (q *taskQueue) forwarded(answer tasks.Forwarded) {
	now := time.Now()
	t := q.target
	t.mu.Lock()
	defer t.mu.Unlock()
	q.forwarding = false
	switch {
	case answer.Err != nil:
		t.consumer.store.Log.Warn("tasks not moved that are due for another attempt", "queue", q.name, "error", answer.Err)
		q.forwardAt(now.Add(retryPause))
	case answer.Waits:
		q.forwardAt(now.Add(max(answer.Next, forwardPause)))
	}
	if answer.Err != nil || answer.Moved > 0 { // after an error Redis may have moved some
		q.maybeNonEmpty = true
		t.wake()
	}
}
