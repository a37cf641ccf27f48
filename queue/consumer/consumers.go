package consumer

import (
	"maps"
	"slices"
	"sync"

	"github.com/batchd/batchd/queue"
)

// Consumers are the servers of this process on one store.
type Consumers struct {
	store *queue.Store

	mu      sync.Mutex
	running map[*consumer]struct{}
}

// New returns the consumers on a store, which must have no others. From then on the store wakes them when
// this process enqueues tasks, and lets them take tasks in the exchange that commits a batch.
func New(s *queue.Store) *Consumers {
	cs := &Consumers{store: s, running: make(map[*consumer]struct{})}
	s.Tasks.Local = cs.wake
	s.Uploads.Piggyback = piggyback{cs} // with tasks.NoPiggyback{}, every poll has an exchange of its own
	s.Ledger.Restorer.OnForgotten(cs.redisForgot)
	return cs
}

// all returns the consumers that run.
func (cs *Consumers) all() []*consumer {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return slices.Collect(maps.Keys(cs.running))
}

// add adds a consumer that begins to take tasks.
func (cs *Consumers) add(c *consumer) (remove func()) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.running[c] = struct{}{}
	return func() {
		cs.mu.Lock()
		defer cs.mu.Unlock()
		delete(cs.running, c)
	}
}

// wake tells the consumers of this process that a queue has tasks. That is faster than a wakeup
// by way of Redis.
func (cs *Consumers) wake(queue string) {
	for _, c := range cs.all() {
		c.markNonEmpty(queue)
	}
}

// queueOf returns a queue as a consumer of this process has it, or nil if none takes tasks from it.
func (cs *Consumers) queueOf(queue string) *taskQueue {
	for _, c := range cs.all() {
		if q := c.queues[queue]; q != nil {
			return q
		}
	}
	return nil
}

// redisForgot is called when Redis may have lost its latest writes. Other processes may have taken tasks
// that the queues now contain again as active tasks, so the sweeper looks for them, and the consumers poll
// all queues.
func (cs *Consumers) redisForgot() {
	for _, c := range cs.all() {
		for _, t := range c.targets {
			t.mu.Lock()
			for _, q := range t.queues {
				q.reportLost()
			}
			t.mu.Unlock()
			t.markAllNonEmpty()
		}
	}
}
