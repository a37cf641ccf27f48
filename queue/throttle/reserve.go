package throttle

import (
	"context"
	"slices"
	"time"
)

const (
	// firstLooks is how often a pacer reads Redis's clock when it starts.
	firstLooks = 6
	// MostReserving is the most reservations under way at a time, if an exchange takes longer
	// than reserveSeveral; otherwise it is one.
	MostReserving  = 3
	reserveSeveral = 20 * time.Millisecond
	// replyAge is less than the time for which Redis keeps the reply to a reservation.
	replyAge = 5 * time.Minute
	// reservePause follows a reservation that failed, and reserveEvery is the longest time between two
	// reservations while there are no send times for tasks in hand.
	reservePause = 250 * time.Millisecond
	reserveEvery = 2 * time.Second
)

// reservations has the reservations of a pacer under way and those that it repeats, and when it may make more. The
// pacer's lock guards them.
type reservations struct {
	underWay   int
	expected   int            // send times that those under way reserve
	unanswered []*reservation // the pacer repeats them: Redis may have executed them
	answered   int64          // Redis's time of the latest reply
	next       time.Time      // from when on Redis has more send times; zero if that is not known
	noneBefore time.Time      // until when Redis has no further send times
	retryAt    time.Time      // until when the pacer does not call Redis, since a call failed
}

// start counts a reservation that is about to be made.
func (s *reservations) start(r *reservation, expected int) {
	s.underWay++
	r.expected = expected
	s.expected += expected
}

// end counts a reservation that has ended.
func (s *reservations) end(r *reservation) {
	s.underWay--
	s.expected -= r.expected
}

// returnAll returns all send times to Redis, when no request can use them any more.
func (p *Pacer[T]) returnAll() {
	p.awaitReplies()
	p.times.mu.Lock()
	unanswered := p.reservations.unanswered
	p.reservations.unanswered = nil
	p.times.mu.Unlock()
	for _, r := range unanswered {
		if time.Since(r.since) >= replyAge {
			continue
		}
		sent := time.Now() // it may have reserved some
		if reply, err := p.cfg.reserve(r); err == nil {
			p.times.mu.Lock()
			p.answered(r, reply, sent, time.Now())
			p.times.mu.Unlock()
		}
	}
	p.times.mu.Lock()
	r := &reservation{token: p.cfg.token(), late: p.times.tolerance.needed, horizon: horizon, returned: latestFirst(append(p.times.unused, p.times.free...))}
	p.times.unused, p.times.free = nil, nil
	p.times.mu.Unlock()
	if len(r.returned) > 0 {
		_, _ = p.cfg.reserve(r) // if it fails they are lost, as those of a worker that dies
	}
}

// awaitReplies returns when no reservation is under way any more.
func (p *Pacer[T]) awaitReplies() {
	for {
		p.times.mu.Lock()
		underWay := p.reservations.underWay
		p.times.mu.Unlock()
		if underWay == 0 {
			return
		}
		<-p.times.wakeC // each one ends with a wakeup
	}
}

// reservation returns a reservation of send times that are missing, which also returns the unused ones. The
// caller holds the lock.
func (p *Pacer[T]) reservation(missing int, now time.Time) *reservation {
	s := p.times
	most, _ := s.distance.ahead()
	blur := s.distance.blur(p.cfg.Rate)
	r := &reservation{
		token: p.cfg.token(), most: missing, earliest: s.distance.earliest(), horizon: most, late: s.tolerance.asked + blur, blur: blur, since: now,
		returned: latestFirst(s.unused),
	}
	s.unused = nil
	return r
}

// reserveAfterPoll returns a reservation that follows a poll in the same exchange: for the tasks in hand
// that have no send times, and for those that the poll takes, at most want. It returns nil if
// the pacer must not call Redis now, or does not know how far Redis is away. The caller makes the reservation,
// adds the tasks, and then calls pollEnded.
func (p *Pacer[T]) reserveAfterPoll(want int) *reservation {
	p.times.mu.Lock()
	defer p.times.mu.Unlock()
	now := time.Now()
	s := &p.reservations
	if p.stopping || p.times.distance.trips.n == 0 || now.Before(s.retryAt) || now.Before(s.noneBefore) {
		return nil // without an exchange it does not know how far ahead send times must be
	}
	missing := max(p.missing()-s.expected, 0)
	r := p.reservation(missing, now)
	r.afterPoll, r.want = true, want
	s.start(r, missing+want)
	return r
}

// pollEnded takes in how a reservation ended that followed a poll, which took so many tasks.
func (p *Pacer[T]) pollEnded(r *reservation, taken int, reply *reserved, err error, sent, received time.Time) {
	if err != nil {
		taken = r.want // Redis may have reserved as many
	}
	r.most += taken
	p.ended(r, reply, err, sent, received)
}

// reserve reserves send times that are missing, and returns unused ones, if there are any
// and no other reservation is under way. If Redis is distant it does not wait
// for one reply before it makes the next reservation. The caller holds the lock.
func (p *Pacer[T]) reserve(now time.Time) {
	s := &p.reservations
	most := 1
	if p.times.distance.trip() > reserveSeveral {
		most = MostReserving
	}
	if s.underWay >= most || now.Before(s.retryAt) {
		return
	}
	s.unanswered = slices.DeleteFunc(s.unanswered, func(r *reservation) bool { return now.Sub(r.since) >= replyAge })
	var r *reservation
	missing := p.missing() - s.expected
	switch {
	case len(s.unanswered) > 0:
		r, s.unanswered = s.unanswered[0], s.unanswered[1:]
	case missing > 0 && !now.Before(s.noneBefore), len(p.times.unused) > 0:
		r = p.reservation(max(missing, 0), now)
		if p.times.pending > len(p.times.free)+s.expected { // an action has begun already
			r.earliest = 5*p.times.distance.trip()/8 + time.Millisecond
		}
	default:
		return
	}
	s.start(r, r.most)
	p.cfg.Async(func() { p.call(r) })
}

// Probe asks Redis, so many times, for its time and when it has more send times.
func (p *Pacer[T]) Probe(times int) {
	p.times.mu.Lock()
	defer p.times.mu.Unlock()
	if now := time.Now(); p.reservations.underWay == 0 && !p.stopping && !now.Before(p.reservations.retryAt) {
		p.reservations.underWay = 1
		late := p.times.tolerance.needed
		p.cfg.Async(func() {
			for n := range times - 1 {
				p.readClock(late, n == 0)
			}
			p.call(&reservation{late: late, horizon: horizon})
		})
	}
}

// readClock asks Redis for its time, and measures how late a sleeper wakes on this machine.
func (p *Pacer[T]) readClock(late time.Duration, first bool) {
	start := time.Now()
	const nap = time.Millisecond
	if p.times.sleep(context.Background(), nap) != nil {
		return
	}
	sent := time.Now()
	slept := sent.Sub(start)
	reply, err := p.cfg.reserve(&reservation{late: late, horizon: horizon})
	received := time.Now()
	if err != nil {
		return // the next ones will fail, too
	}
	p.times.mu.Lock()
	defer p.times.mu.Unlock()
	d := &p.times.distance
	if first { // it opened a connection, and loaded the script
		d.clock.sample(sent, received, reply.now)
	} else {
		d.observe(sent, received, reply.now)
	}
	p.times.tolerance.woke(slept - nap)
}

// call makes a reservation.
func (p *Pacer[T]) call(r *reservation) {
	sent := time.Now()
	reply, err := p.cfg.reserve(r)
	p.ended(r, reply, err, sent, time.Now())
}

// ended takes in how a reservation ended.
func (p *Pacer[T]) ended(r *reservation, reply *reserved, err error, sent, received time.Time) {
	p.times.mu.Lock()
	p.reservations.end(r)
	r.afterPoll = false // if it is repeated, its number includes the tasks that were taken
	if err != nil {
		p.reservations.retryAt = received.Add(reservePause)
		if r.token != "" {
			p.reservations.unanswered = append(p.reservations.unanswered, r)
		}
		p.dropTimeless()
	} else {
		p.answered(r, reply, sent, received)
	}
	p.times.mu.Unlock()
	p.cfg.Changed()
	p.times.wake()
}

// answered takes in the reply to a reservation. The caller holds the lock.
func (p *Pacer[T]) answered(r *reservation, reply *reserved, sent, received time.Time) {
	s := &p.reservations
	p.times.distance.observe(sent, received, reply.now)
	n := p.times.add(reply, r.blur)
	if reply.now >= s.answered { // of several under way, the one that Redis answered last counts
		s.answered = reply.now
		s.next = p.times.distance.clock.local(reply.next)
		s.noneBefore = time.Time{}
	}
	if n < r.most { // some tasks have to come again, nearer to their time
		_, left := p.times.distance.ahead()
		s.noneBefore = received.Add(min(max(s.next.Sub(received)-left, time.Millisecond), reserveEvery))
		p.dropTimeless()
	}
	p.times.signal()
}
