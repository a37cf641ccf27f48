package queue

import (
	"cmp"
	"context"
	"slices"
	"time"
)

// reservation is a call of lua/reserve.lua. Repeated with the same token it does
// nothing twice.
type reservation struct {
	token    string
	most     int
	first    time.Duration // from now, before which none can be used
	horizon  time.Duration
	late     time.Duration
	returned []sendTime
	blur     time.Duration // the part of late that is not for being late
	since    time.Time     // when it was first made
	asked    int           // the send times that the pacer counts on while it is under way
	along    bool          // it follows a poll in the same exchange, and is for the tasks that this takes, too
}

// reserved is its answer: runs of send times that are a step apart.
type reserved struct {
	now, next int64
	runs      []sendRun
}

type sendRun struct {
	time, step, late int64
	n                int
}

// returnAll returns the send times that are left, when no request can use them any more.
func (p *pacer[T]) returnAll() {
	p.awaitAnswer()
	p.mu.Lock()
	repeats := p.repeats
	p.repeats = nil
	p.mu.Unlock()
	for _, repeat := range repeats {
		if time.Since(repeat.since) >= answerAge {
			continue
		}
		sent := time.Now() // it may have reserved some
		if answer, err := p.Reserve(repeat); err == nil {
			p.mu.Lock()
			p.answered(repeat, answer, sent, time.Now())
			p.mu.Unlock()
		}
	}
	p.mu.Lock()
	r := &reservation{token: p.Token(), late: p.late, horizon: horizon, returned: latestFirst(append(p.back, p.times...))}
	p.back, p.times = nil, nil
	p.mu.Unlock()
	if len(r.returned) > 0 {
		_, _ = p.Reserve(r) // or they are lost, as those of a worker that dies
	}
}

// awaitAnswer returns when no reservation is under way any more.
func (p *pacer[T]) awaitAnswer() {
	for {
		p.mu.Lock()
		asking := p.asking
		p.mu.Unlock()
		if asking == 0 {
			return
		}
		<-p.nudge // each answer ends with one
	}
}

// blur returns by how much the times of two servers may differ because the ways to Redis take
// now this long and now that, with the lock held. The more samples of its clock there are, the
// better are the best of them.
func (p *pacer[T]) blur() time.Duration {
	return min(blurOf*p.ways.mean/time.Duration(max(len(p.clock.samples), 1)), mostLate(p.Rate))
}

// latestFirst sorts send times in the order in which they are returned.
func latestFirst(times []sendTime) []sendTime {
	slices.SortFunc(times, func(a, b sendTime) int { return cmp.Compare(b.redis, a.redis) })
	return times
}

// first returns how long from now the first send time may be that a task can use that is taken, or
// that was, with the lock held: the answer comes, and an exchange begins the action.
func (p *pacer[T]) first() time.Duration { return 3*p.trip()/2 + 2*time.Millisecond }

// reservation returns one of send times that are missing, which also returns those that are
// left over, with the lock held.
func (p *pacer[T]) reservation(missing int, now time.Time) *reservation {
	most, _ := p.ahead()
	r := &reservation{
		token: p.Token(), most: missing, first: p.first(), horizon: most, late: p.asks + p.blur(), blur: p.blur(), since: now,
		returned: latestFirst(p.back),
	}
	p.back = nil
	return r
}

// start notes that a reservation is under way, with the lock held.
func (p *pacer[T]) start(r *reservation, asked int) {
	p.asking++
	r.asked = asked
	p.asked += asked
}

// along returns a reservation that follows a poll in the same exchange, for the tasks in hand
// that have no send times, and for those that the poll takes, at most want. It returns nil if
// Redis is not to be asked now. The caller calls ended when it has added the tasks.
func (p *pacer[T]) along(want int) *reservation {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if p.stopping || p.ways.n == 0 || now.Before(p.failed) || now.Before(p.nothing) {
		return nil // without an exchange it does not know how far ahead times must be
	}
	missing := max(p.missing()-p.asked, 0)
	r := p.reservation(missing, now)
	r.along = true
	p.start(r, missing+want)
	return r
}

// ask reserves send times that are missing, and returns others, if there is something to do
// and Redis is not being asked already, with the lock held. Of a distant Redis it does not wait
// for one answer before it asks for more.
func (p *pacer[T]) ask(now time.Time) {
	most := 1
	if p.trip() > askSeveral {
		most = mostAsking
	}
	if p.asking >= most || now.Before(p.failed) {
		return
	}
	p.repeats = slices.DeleteFunc(p.repeats, func(r *reservation) bool { return now.Sub(r.since) >= answerAge })
	var r *reservation
	missing := p.missing() - p.asked
	switch {
	case len(p.repeats) > 0:
		r, p.repeats = p.repeats[0], p.repeats[1:]
	case missing > 0 && !now.Before(p.nothing), len(p.back) > 0:
		r = p.reservation(max(missing, 0), now)
		if p.unready > len(p.times)+p.asked { // an action is begun already
			r.first = 5*p.trip()/8 + time.Millisecond
		}
	default:
		return
	}
	p.start(r, r.most)
	p.Async(func() { p.call(r) })
}

// probe asks that often when there may be more send times, and what time it is at Redis.
func (p *pacer[T]) probe(times int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := time.Now(); p.asking == 0 && !p.stopping && !now.Before(p.failed) {
		p.asking = 1
		late := p.late
		p.Async(func() {
			for n := range times - 1 {
				p.look(late, n == 0)
			}
			p.call(&reservation{late: late, horizon: horizon})
		})
	}
}

// look asks what time it is at Redis, and finds out how late sleepers wake here.
func (p *pacer[T]) look(late time.Duration, first bool) {
	start := time.Now()
	const nap = time.Millisecond
	if p.Sleep(context.Background(), nap) != nil {
		return
	}
	sent := time.Now()
	slept := sent.Sub(start)
	answer, err := p.Reserve(&reservation{late: late, horizon: horizon})
	received := time.Now()
	if err != nil {
		return // so will be what follows
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !first { // that one made a connection, and taught Redis the step
		p.exchange.add(received.Sub(sent))
		p.ways.add(received.Sub(sent))
	}
	p.clock.sample(sent, received, answer.now)
	p.woke(slept - nap)
}

// call makes a reservation.
func (p *pacer[T]) call(r *reservation) {
	sent := time.Now()
	answer, err := p.Reserve(r)
	p.ended(r, answer, err, sent, time.Now())
}

// ended takes in how a reservation ended.
func (p *pacer[T]) ended(r *reservation, answer *reserved, err error, sent, received time.Time) {
	p.mu.Lock()
	p.asking--
	p.asked -= r.asked
	r.along = false // if it is repeated, it is for the tasks that were taken
	if err != nil {
		p.failed = received.Add(reservePause)
		if r.token != "" {
			p.repeats = append(p.repeats, r)
		}
		p.dropTimeless()
	} else {
		p.answered(r, answer, sent, received)
	}
	p.mu.Unlock()
	p.Changed()
	p.wake()
}

// answered takes in the answer to a reservation, with the lock held.
func (p *pacer[T]) answered(r *reservation, answer *reserved, sent, received time.Time) {
	p.exchange.add(received.Sub(sent))
	p.ways.add(received.Sub(sent))
	p.clock.sample(sent, received, answer.now)
	n := 0
	for _, run := range answer.runs {
		p.step = time.Duration(run.step) * time.Microsecond
		for i := range run.n {
			t := sendTime{redis: run.time + int64(i)*run.step, step: run.step, late: run.late}
			t.at = p.clock.local(t.redis)
			// Part of the tolerance is for the writing itself.
			may := max(time.Duration(run.late)*time.Microsecond-r.blur, 0)
			t.until = t.at.Add(time.Duration(p.Burst-1)*p.step + may - may/8)
			p.times = append(p.times, t)
		}
		n += run.n
	}
	slices.SortStableFunc(p.times, func(a, b sendTime) int { return cmp.Compare(a.redis, b.redis) })
	if answer.now >= p.answers { // of several under way, the one that Redis answered last counts
		p.answers = answer.now
		p.next = p.clock.local(answer.next)
		p.nothing = time.Time{}
	}
	if n < r.most { // some have to come again, nearer to their time
		_, left := p.ahead()
		p.nothing = received.Add(min(max(p.next.Sub(received)-left, time.Millisecond), askEvery))
		p.dropTimeless()
	}
	p.signal()
}
