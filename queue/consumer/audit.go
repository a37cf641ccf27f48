package consumer

import (
	"time"
)

// auditEvery is how often a consumer compares the counts of slots with the tasks that are really
// in hand.
const auditEvery = 5 * time.Second

// auditSlots compares the counts with the tasks in hand.
func (c *consumer) auditSlots() {
	for _, t := range c.targets {
		t.auditSlots()
	}
}

// auditSlots corrects the counts, and gives up tasks that are neither ready, nor moving, nor run: the
// sweeper puts them back into their queues. A slot that stays counted without a task would never run
// another one.
func (t *targetConsumer) auditSlots() {
	t.mu.Lock()
	lost := t.slots.findLost()
	for _, k := range lost {
		delete(t.slots.held, &k.slot)
		k.queue.reportLost()
	}
	was, is := t.slots.counts, t.slots.recount(t.queues)
	if was != is {
		t.slots.counts = counts{is.inHand, is.inBulk, was.running, is.finishing}
		t.slots.addRunning(is.running - was.running)
		t.slots.startReady()
	}
	t.mu.Unlock()
	if was == is {
		return
	}
	t.consumer.store.Log.Error("slots were counted as used by tasks that do not run: corrected", "target", t.Name, "lost_tasks", len(lost),
		"taken_was", was.inHand, "taken_is", is.inHand, "running_was", was.running, "running_is", is.running)
	t.wake()
}

// recount returns the counts according to the tasks in hand, and to what polls of the queues under way ask
// for.
func (s *slots) recount(queues []*taskQueue) (is counts) {
	for _, q := range queues {
		is.inHand += q.wanted
		if q.bulk {
			is.inBulk += q.wanted
		}
	}
	for p, k := range s.held {
		if p.left {
			is.finishing++
			continue
		}
		is.inHand++
		if k.queue.bulk {
			is.inBulk++
		}
		if k.running {
			is.running++
		}
	}
	return is
}

// findLost returns the tasks in hand that are neither ready, nor moving, nor run, and were
// not at the last audit.
func (s *slots) findLost() (lost []*task) {
	waits := len(s.runners.out) > 0 // for a runner; a channel does not say which tasks
	known := make(map[*task]bool, len(s.ready)+len(s.runners.all))
	for _, k := range s.ready {
		known[k] = true
	}
	for _, k := range s.runners.tasks() {
		known[k] = true
	}
	for _, k := range s.held {
		switch {
		case known[k] || k.moving || k.running && waits:
			k.suspect = false
		case k.suspect:
			lost = append(lost, k)
		default:
			k.suspect = true
		}
	}
	return lost
}
