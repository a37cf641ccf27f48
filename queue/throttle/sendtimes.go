package throttle

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/batchd/batchd/internal/batch"
)

// mostConnectAhead is the longest time before its send time at which a request asks for a connection: it may
// have to open a new one.
const mostConnectAhead = 250 * time.Millisecond

// sendTime is a time at which one request may be written. No other request has it.
type sendTime struct {
	redis, step, late int64     // as lua/reserve.lua has them, in µs of Redis's clock
	at, until         time.Time // by this process's clock: a request may be written from at to until
}

// sendTimes are the send times that a worker has reserved at the rate of a target, and the claims of the
// requests that use them. A send time belongs to no task: the request that is ready first claims the
// earliest.
//
// mu guards the fields below it, those of the claims, and those of the pacer.
type sendTimes struct {
	burst, most int
	held        func() (time.Duration, <-chan struct{})
	sleep       func(ctx context.Context, d time.Duration) error
	wakeC       chan struct{} // wakes the pacer
	permits     chan struct{} // held by requests from their connections to their answers

	mu        sync.Mutex
	distance  distance
	tolerance tolerance
	step      time.Duration // between two send times
	free      []sendTime    // reserved and not claimed, by time
	claimed   []*Claim      // those that have send times, by time
	pending   int           // tasks that were handed over and have no send time
	unused    []sendTime    // that go back to Redis with the next reservation
	more      chan struct{} // closed and replaced when there may be a free send time
}

func newSendTimes(rate batch.Rate, burst, most int) *sendTimes {
	s := &sendTimes{burst: max(burst, 1), most: most, tolerance: newTolerance(rate), wakeC: make(chan struct{}, 1), permits: make(chan struct{}, most), more: make(chan struct{})}
	s.step = (rate.Per + s.tolerance.needed) / time.Duration(rate.N)
	return s
}

// wake wakes the pacer.
func (s *sendTimes) wake() {
	select {
	case s.wakeC <- struct{}{}:
	default: // it has a wakeup that it has not seen yet
	}
}

// signal wakes the requests that wait for a send time. The caller holds mu.
func (s *sendTimes) signal() {
	close(s.more)
	s.more = make(chan struct{})
}

// expire drops free send times that have passed. The caller holds mu.
func (s *sendTimes) expire(now time.Time) {
	n := 0
	for n < len(s.free) && now.After(s.free[n].until) {
		n++
	}
	if n > 0 && s.step > s.distance.trip() {
		n = len(s.free) // Redis can give earlier ones than the next of these
	}
	s.unused = append(s.unused, s.free[:n]...)
	s.free = s.free[n:]
}

// add adds the send times of a reply to a reservation whose tolerance contains blur, and returns their
// number. The caller holds mu.
func (s *sendTimes) add(reply *reserved, blur time.Duration) (n int) {
	for _, run := range reply.runs {
		s.step = time.Duration(run.Step) * time.Microsecond
		for i := range run.N {
			t := run.at(i)
			t.at = s.distance.clock.local(t.redis)
			// Part of the tolerance is for the writing itself.
			may := max(time.Duration(run.Late)*time.Microsecond-blur, 0)
			t.until = t.at.Add(time.Duration(s.burst-1)*s.step + may - may/8)
			s.free = append(s.free, t)
		}
		n += run.N
	}
	slices.SortStableFunc(s.free, func(a, b sendTime) int { return cmp.Compare(a.redis, b.redis) })
	return n
}

// release frees a claimed send time that was not used, for the next request that is ready. The caller
// holds mu.
func (s *sendTimes) release(t sendTime) {
	at, _ := slices.BinarySearchFunc(s.free, t, func(a, b sendTime) int { return cmp.Compare(a.redis, b.redis) })
	s.free = slices.Insert(s.free, at, t)
	s.signal()
	s.wake()
}

// enter adds a claim that has got a send time to the claimed ones. The caller holds mu.
func (s *sendTimes) enter(c *Claim) {
	at, _ := slices.BinarySearchFunc(s.claimed, c.time.redis, func(c *Claim, redis int64) int { return cmp.Compare(c.time.redis, redis) })
	s.claimed = slices.Insert(s.claimed, at, c)
}

// leave takes the send time away from a claim. The caller holds mu.
func (s *sendTimes) leave(c *Claim) {
	if i := slices.Index(s.claimed, c); i >= 0 {
		s.claimed = slices.Delete(s.claimed, i, i+1)
	}
	c.time = nil
}

// shift gives a request that missed its send time the next one that a request has, that request the
// one after, and so on. If the request waited behind all of them instead, it would
// often be too late then to be sent at all. The caller holds mu.
func (s *sendTimes) shift(c *Claim, now time.Time) {
	first := 0
	for first < len(s.claimed) && now.After(s.claimed[first].time.until) {
		first++ // it is about to find that out
	}
	claims := append([]*Claim{c}, s.claimed[first:]...)
	s.claimed = s.claimed[:first]
	times := make([]*sendTime, 0, len(claims))
	for _, k := range claims[1:] {
		times = append(times, k.time)
	}
	s.expire(now)
	for _, k := range claims {
		k.time = nil
		switch {
		case len(times) > 0 && k.mayUse(times[0]):
			k.time, times = times[0], times[1:]
			s.enter(k)
		case len(times) == 0 && len(s.free) > 0 && k.mayUse(&s.free[0]):
			t := s.free[0]
			k.time, s.free = &t, s.free[1:]
			s.enter(k)
		case !k.pending: // it claims one when it wakes
			k.pending = true
			s.pending++
		}
	}
	for _, t := range times {
		s.release(*t)
	}
}

// begun takes in how long the exchange took that began an action.
func (s *sendTimes) begun(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.distance.exchange.add(d)
}

// lead returns how long before a send time a task is handed over.
func (s *sendTimes) lead() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.distance.lead()
}

// connectAhead returns how long before its send time a request asks for a connection. Not
// more than a quarter of the connections wait for send times.
func (s *sendTimes) connectAhead() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return min(max(s.step*time.Duration(s.most)/4, time.Millisecond), mostConnectAhead)
}

// latestFirst sorts send times in the order in which they are returned to Redis.
func latestFirst(times []sendTime) []sendTime {
	slices.SortFunc(times, func(a, b sendTime) int { return cmp.Compare(b.redis, a.redis) })
	return times
}
