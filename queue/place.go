package queue

import "time"

const (
	// mostLeaving is the most tasks of a target that have left their places and not
	// ended: their results are on their way to Redis.
	mostLeaving = 64
	// aheadFor is how much ahead of its place a task may be taken, about, so that a
	// place that comes free is taken at once.
	aheadFor = 5 * time.Millisecond
	// readyFor is the longest that it keeps what it was taken for. It is shorter than
	// orphanPause.
	readyFor = 500 * time.Millisecond
)

// Place is one of the places that a [Line] has.
type Place struct {
	lane  *lane
	since time.Time
	left  bool
}

// Leave gives the place up: the task has nothing to do with its target any more,
// and another may have it. At a target with a rate it keeps the place until the
// handler returns: what is taken there is sent at its time.
func (p *Place) Leave() {
	q := p.lane
	if q == nil || p.left || q.Rate.N > 0 || q.Target == "" {
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
	if p.left {
		p.lane.leaving--
	} else {
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

// ahead returns how many tasks may be taken ahead of their places, with the lock
// held: as many as leave theirs in a moment. They would otherwise be free for as long
// as an exchange with Redis takes.
func (l *line) ahead(now time.Time) int {
	if l.Rate.N > 0 || l.Target == "" {
		return 0
	}
	return min(l.Places, l.left.in(now, aheadFor))
}

// sit counts tasks that get places, or leave them, with the lock held.
func (l *line) sit(n int) {
	l.seated += n
	if l.Target != "" {
		l.t.s.seated.Add(int64(n))
	}
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

// seatAtOnce hands a task over whose time has come. It reports false if the target is
// held or the server stops.
func (l *line) seatAtOnce(k *task) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if held, _ := l.Held(); held > 0 || l.stopped() {
		return false
	}
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
