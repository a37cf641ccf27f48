package consumer

import (
	"context"
	"time"

	"github.com/batchd/batchd/queue/throttle"
)

const (
	// finishingLimit is the most tasks of a target that have left their places and not
	// ended: their results are on their way to Redis.
	finishingLimit = 64
	// prefetchFor is about how long before a slot is free a task may be taken for it.
	prefetchFor = 5 * time.Millisecond
	// readyFor is the longest that it keeps what it was taken for. It is shorter than
	// orphanPause.
	readyFor = 500 * time.Millisecond
)

// Slot is one of the places that a [Line] has.
type Slot struct {
	queue *taskQueue
	since time.Time
	left  bool
	claim *throttle.Claim // of a target with a rate
}

// Paced reports whether requests to the target have send times, because it has a rate.
func (p *Slot) Paced() bool { return p.claim != nil }

// Approach returns shortly before the send time of the task's request, when a connection is to
// be made ready, and when so few requests are under way that this one may be. Without a rate it
// returns at once. It returns [ErrNoSendTime] if there is no time soon enough: the
// action has to come again.
func (p *Slot) Approach(ctx context.Context) error {
	if p.claim == nil {
		return nil
	}
	return p.claim.Approach(ctx)
}

// Ready returns at the send time, when the request has to be written at once. If the time has
// passed already it returns at a later one, or with [ErrNoSendTime]. It may be asked
// again for the same request as long as nothing of it was written.
func (p *Slot) Ready(ctx context.Context) error {
	if p.claim == nil {
		return nil
	}
	return p.claim.Use(ctx)
}

// ApproachEarly is Approach with enough time left for an exchange with Redis before the
// request is sent. It can be called for further requests of the same task, which wait for
// their send times as long as it takes.
func (p *Slot) ApproachEarly(ctx context.Context) error {
	if p.claim == nil {
		return nil
	}
	return p.claim.ApproachEarly(ctx)
}

// Leave gives the place up: the task has nothing to do with its target any more,
// and another may have it.
func (p *Slot) Leave() {
	q := p.queue
	if p.claim != nil {
		p.claim.Leave()
		return
	}
	if q == nil || p.left {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.finishing == q.maxFinishing() {
		return
	}
	p.left = true
	q.finishing++
	q.vacate(p)
}

// end says that the handler has returned.
func (p *Slot) end() {
	p.queue.mu.Lock()
	defer p.queue.mu.Unlock()
	p.endLocked()
}

func (p *Slot) endLocked() {
	p.queue.audit.ended(p)
	switch {
	case p.claim != nil:
		p.claim.End()
		p.queue.count(p.queue, -1)
		p.queue.addRunning(-1)
	case p.left:
		p.queue.finishing--
	default:
		p.queue.vacate(p)
	}
}

// vacate gives a place to the next task, with the lock held.
func (q *taskQueue) vacate(p *Slot) {
	now := time.Now()
	q.count(q, -1)
	q.addRunning(-1)
	q.fastest.add(now, now.Sub(p.since))
	q.left.add(now)
	q.startReady()
	q.wake()
}

// maxFinishing is the most tasks that have left their places and not ended.
func (l *targetConsumer) maxFinishing() int { return min(l.Slots, finishingLimit) }

// addRunning counts tasks that get places, or leave them, with the lock held.
func (l *targetConsumer) addRunning(n int) {
	l.running += n
	l.t.s.ledger.AddRunning(n)
}

// startReady has tasks run as there are places, in the order in which they were taken,
// with the lock held.
func (l *targetConsumer) startReady() {
	if held, _ := l.Held(); held > 0 || l.stopped() {
		return // they are given back
	}
	n := max(0, min(len(l.ready), l.Slots-l.running))
	for _, k := range l.ready[:n] {
		l.hand(k)
	}
	l.addRunning(n)
	l.ready = l.ready[n:]
}

// startOrGiveBack gives back what is ready for a target that is held, or that has
// become so slow that others may have places sooner. Else it seats what could not be
// seated when a place came free.
func (l *targetConsumer) startOrGiveBack(held time.Duration) {
	l.mu.Lock()
	old := len(l.ready) > 0 && time.Since(l.ready[0].taken) >= readyFor
	if held <= 0 && !old {
		l.startReady()
	}
	l.mu.Unlock()
	if held > 0 || old {
		giveBackAll(l.takePrefetched())
	}
}

// handOver hands a task over whose send time is near. It reports false if the target is
// held or the server stops.
func (l *targetConsumer) handOver(k *task) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if held, _ := l.Held(); held > 0 || l.stopped() {
		return false
	}
	now := time.Now()
	k.slot.claim = l.pacer.NewClaim(now)
	l.addRunning(1)
	l.hand(k)
	return true
}

// takePrefetched takes away what is ready and has no place.
func (l *targetConsumer) takePrefetched() []*task {
	l.mu.Lock()
	defer l.mu.Unlock()
	tasks := l.ready
	l.ready = nil
	for _, k := range tasks {
		k.moving = true
	}
	return tasks
}
