package queue

import (
	"context"
	"time"
)

const (
	// mostLeaving is the most tasks of a target that have left their places and not
	// ended: their results are on their way to Redis.
	mostLeaving = 64
	// prefetchFor is about how long before a slot is free a task may be taken for it.
	prefetchFor = 5 * time.Millisecond
	// readyFor is the longest that it keeps what it was taken for. It is shorter than
	// orphanPause.
	readyFor = 500 * time.Millisecond
)

// Place is one of the places that a [Line] has.
type Place struct {
	lane  *lane
	since time.Time
	left  bool
	claim *claim[*task] // of a target with a rate
}

// Paced reports whether requests to the target have send times, because it has a rate.
func (p *Place) Paced() bool { return p.claim != nil }

// Approach returns shortly before the send time of the task's request, when a connection is to
// be made ready, and when so few requests are under way that this one may be. Without a rate it
// returns at once. It returns [ErrNoSendTime] if there is no time soon enough: the
// action has to come again.
func (p *Place) Approach(ctx context.Context) error {
	if p.claim == nil {
		return nil
	}
	return p.claim.approach(ctx, p.claim.p.connectAhead())
}

// Ready returns at the send time, when the request has to be written at once. If the time has
// passed already it returns at a later one, or with [ErrNoSendTime]. It may be asked
// again for the same request as long as nothing of it was written.
func (p *Place) Ready(ctx context.Context) error {
	if p.claim == nil {
		return nil
	}
	return p.claim.use(ctx)
}

// ApproachEarly is Approach with enough time left for an exchange with Redis before the
// request is sent. It can be called for further requests of the same task, which wait for
// their send times as long as it takes.
func (p *Place) ApproachEarly(ctx context.Context) error {
	if p.claim == nil {
		return nil
	}
	if p.claim.handed.IsZero() {
		p.claim.leave()
		p.claim.mayWait()
	}
	return p.claim.approach(ctx, p.claim.p.leadNow())
}

// Leave gives the place up: the task has nothing to do with its target any more,
// and another may have it.
func (p *Place) Leave() {
	q := p.lane
	if p.claim != nil {
		p.claim.leave()
		return
	}
	if q == nil || p.left {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.leaving == q.leavers() {
		return
	}
	p.left = true
	q.leaving++
	q.vacate(p)
}

// end says that the handler has returned.
func (p *Place) end() {
	p.lane.mu.Lock()
	defer p.lane.mu.Unlock()
	p.endLocked()
}

func (p *Place) endLocked() {
	p.lane.audit.ended(p)
	switch {
	case p.claim != nil:
		p.claim.end()
		p.lane.count(p.lane, -1)
		p.lane.sit(-1)
	case p.left:
		p.lane.leaving--
	default:
		p.lane.vacate(p)
	}
}

// vacate gives a place to the next task, with the lock held.
func (q *lane) vacate(p *Place) {
	now := time.Now()
	q.count(q, -1)
	q.sit(-1)
	q.fastest.add(now, now.Sub(p.since))
	q.left.add(now)
	q.seat()
	q.wake()
}

// leavers is the most tasks that have left their places and not ended.
func (l *line) leavers() int { return min(l.Places, mostLeaving) }

// sit counts tasks that get places, or leave them, with the lock held.
func (l *line) sit(n int) {
	l.seated += n
	l.t.s.noteRunning(n)
}

// seat has tasks run as there are places, in the order in which they were taken,
// with the lock held.
func (l *line) seat() {
	if held, _ := l.Held(); held > 0 || l.stopped() {
		return // they are given back
	}
	n := max(0, min(len(l.ready), l.Places-l.seated))
	for _, k := range l.ready[:n] {
		l.hand(k)
	}
	l.sit(n)
	l.ready = l.ready[n:]
}

// seatOrGiveBack gives back what is ready for a target that is held, or that has
// become so slow that others may have places sooner. Else it seats what could not be
// seated when a place came free.
func (l *line) seatOrGiveBack(held time.Duration) {
	l.mu.Lock()
	old := len(l.ready) > 0 && time.Since(l.ready[0].taken) >= readyFor
	if held <= 0 && !old {
		l.seat()
	}
	l.mu.Unlock()
	if held > 0 || old {
		giveBackAll(l.unready())
	}
}

// handOver hands a task over whose send time is near. It reports false if the target is
// held or the server stops.
func (l *line) handOver(k *task) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if held, _ := l.Held(); held > 0 || l.stopped() {
		return false
	}
	now := time.Now()
	k.place.claim = l.pacer.claimFor(now)
	l.sit(1)
	l.hand(k)
	return true
}

// unready takes away what is ready and has no place.
func (l *line) unready() []*task {
	l.mu.Lock()
	defer l.mu.Unlock()
	tasks := l.ready
	l.ready = nil
	for _, k := range tasks {
		k.moving = true
	}
	return tasks
}

// recent counts what happens, to tell how much does in a moment.
type recent struct {
	since     time.Time
	now, last int
}

// window is what is looked back at.
const window = 100 * time.Millisecond

func (r *recent) add(now time.Time) {
	r.turn(now)
	r.now++
}

// in returns about how often it happens in that time.
func (r *recent) in(now time.Time, d time.Duration) int {
	r.turn(now)
	return r.last * int(d) / int(window)
}

func (r *recent) turn(now time.Time) {
	if age := now.Sub(r.since); age >= window {
		r.last = r.now
		if age >= 2*window {
			r.last = 0
		}
		r.now, r.since = 0, now
	}
}
