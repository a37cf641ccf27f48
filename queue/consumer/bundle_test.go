package consumer

import (
	"testing"

	"github.com/batchd/batchd/queue"
	"github.com/batchd/batchd/queue/ledger"
	"github.com/batchd/batchd/queue/queuetest"
)

// bundle has a store and its consumers.
type bundle struct {
	*queuetest.Bundle
	consumers *Consumers
}

func onEveryStore(t *testing.T, test func(t *testing.T, b *bundle)) {
	t.Helper()
	queuetest.OnEveryStore(t, func(t *testing.T, b *queuetest.Bundle) { test(t, local(b)) })
}

func onStores(t *testing.T, test func(t *testing.T, b *bundle), kinds ...string) {
	t.Helper()
	queuetest.OnStores(t, func(t *testing.T, b *queuetest.Bundle) { test(t, local(b)) }, kinds...)
}

func open(t *testing.T, url string) *bundle {
	t.Helper()
	return local(queuetest.Open(t, url))
}

func local(b *queuetest.Bundle) *bundle { return &bundle{b, New(b.Store)} }

// withoutRedis returns the consumer of a target that makes no exchanges.
func withoutRedis(cfg Target) *targetConsumer {
	return newTargetConsumer(&consumer{store: &queue.Store{Ledger: &ledger.Ledger{}}, quit: make(chan struct{})}, cfg)
}

// end reports that a task has ended, without a runner.
func (q *taskQueue) end(id string) {
	q.target.mu.Lock()
	q.noteEnd()
	q.done = append(q.done, id)
	q.target.mu.Unlock()
	q.target.wake()
}

// end ends the task of a slot, without a runner.
func (s *Slot) end() {
	t := s.queue.target
	t.mu.Lock()
	defer t.mu.Unlock()
	t.slots.end(s)
}

// handed receives the tasks that are handed over to runners, if the consumer has not started.
func (t *targetConsumer) handed() <-chan *task { return t.runners.out }
