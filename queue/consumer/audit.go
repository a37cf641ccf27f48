package consumer

import (
	"time"
)

// auditEvery is how often the counts of slots are compared with the tasks that are really
// in hand.
const auditEvery = 5 * time.Second

// audit knows every task that was taken and has not ended, so that the counts of a line
// can be checked. It is guarded by the line's mutex.
type audit struct {
	held map[*Slot]*task
}

func (a *audit) add(tasks []*task) {
	if a.held == nil {
		a.held = make(map[*Slot]*task)
	}
	for _, k := range tasks {
		a.held[&k.slot] = k
	}
}

// ended forgets a task that has ended, or that was given back.
func (a *audit) ended(p *Slot) { delete(a.held, p) }

// slots are the counts of a line.
type slots struct{ inHand, inBulk, running, finishing int }

// auditSlots compares the counts with the tasks in hand until no task can end any more.
func (t *consumer) auditSlots() {
	tick := time.NewTicker(auditEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			for _, l := range t.targets {
				l.auditSlots()
			}
		case <-t.closed:
			return
		}
	}
}

// auditSlots corrects the counts, and gives up tasks that have no runner and are on no way
// to one. A slot that stays counted without a task would never run another one. The sweeper puts such tasks back into their queues.
func (l *targetConsumer) auditSlots() {
	l.mu.Lock()
	lost := l.lostTasks()
	for _, k := range lost {
		l.audit.ended(&k.slot)
		k.queue.reportMissed()
	}
	was, is := slots{l.inHand, l.inBulk, l.running, l.finishing}, l.countHeld()
	if was != is {
		l.inHand, l.inBulk, l.finishing = is.inHand, is.inBulk, is.finishing
		l.addRunning(is.running - was.running)
		l.startReady()
	}
	l.mu.Unlock()
	if was == is {
		return
	}
	l.t.s.log.Error("slots were counted as used by tasks that do not run: corrected", "target", l.Name, "lost_tasks", len(lost),
		"taken_was", was.inHand, "taken_is", is.inHand, "running_was", was.running, "running_is", is.running)
	l.wake()
}

// countHeld counts the tasks in hand, and those that turns under way have asked for, with
// the lock held.
func (l *targetConsumer) countHeld() (is slots) {
	for _, q := range l.queues {
		is.inHand += q.wanted
		if q.bulk {
			is.inBulk += q.wanted
		}
	}
	for p, k := range l.audit.held {
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

// lostTasks returns the tasks in hand that neither wait, nor are moved, nor run, and did
// not at the last audit, with the lock held.
func (l *targetConsumer) lostTasks() (lost []*task) {
	waits := len(l.out) > 0 // for a runner; which tasks, a channel does not tell
	known := make(map[*task]bool, len(l.ready)+len(l.runners))
	for _, k := range l.ready {
		known[k] = true
	}
	for _, r := range l.runners {
		if k := r.now.Load(); k != nil {
			known[k] = true
		}
	}
	for _, k := range l.audit.held {
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
