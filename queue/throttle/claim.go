package throttle

import (
	"context"
	"errors"
	"time"
)

// sendWithin is how long after its task was handed over a request may be written: a batch
// that was cancelled, or is past its deadline, must not send a request much later.
const sendWithin = 950 * time.Millisecond

// ErrNoSendTime says that a request was not sent because there was no send time at its
// target's rate soon enough.
var ErrNoSendTime = errors.New("no send time soon enough at the target's rate")

// Claim is the right of a task that was handed over to a send time of its target. For each request the
// task calls Approach, then Use and, when the request was answered, Leave; it calls End when it is done. A
// Claim is used by one goroutine at a time.
type Claim struct {
	times     *sendTimes
	handed    time.Time // when the task was handed over; zero once its action has begun
	permitted bool      // it holds a permit

	// Guarded by times.mu.
	pending bool      // it is counted in times.pending
	time    *sendTime // claimed and not used yet
	until   time.Time // the latest time at which the request may be written; zero is no limit
}

// take claims the earliest send time, when there is one.
func (c *Claim) take(ctx context.Context) error {
	s := c.times
	var end <-chan time.Time
	if !c.until.IsZero() {
		timer := time.NewTimer(time.Until(c.until))
		defer timer.Stop()
		end = timer.C
	}
	for {
		held, changed := s.held()
		s.mu.Lock()
		if !c.pending {
			c.pending = true
			s.pending++
		}
		now := time.Now()
		s.expire(now)
		if held <= 0 && len(s.free) > 0 && c.mayUse(&s.free[0]) {
			t := s.free[0]
			s.free = s.free[1:]
			s.pending--
			c.pending, c.time = false, &t
			s.enter(c)
			s.mu.Unlock()
			s.wake()
			return nil
		}
		more := s.more
		s.mu.Unlock()
		s.wake() // it reserves the missing ones
		var over <-chan time.Time
		if held > 0 {
			over = time.After(held)
		}
		select {
		case <-more:
		case <-changed:
		case <-over:
		case <-end:
			return ErrNoSendTime
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// sendAt returns the send time of the request, and claims one if it has none. The send time may change to a
// later one, or none, if a request before it misses its own.
func (c *Claim) sendAt(ctx context.Context) (time.Time, error) {
	for {
		c.times.mu.Lock()
		t := c.time
		c.times.mu.Unlock()
		if t != nil {
			return t.at, nil
		}
		if err := c.take(ctx); err != nil {
			return time.Time{}, err
		}
	}
}

// Approach returns shortly before a send time that this request has, when it needs a connection,
// and with a permit: no more than PacerConfig.Most requests have one. It returns [ErrNoSendTime] if there is
// no send time soon enough, or the cause of the context's end.
func (c *Claim) Approach(ctx context.Context) error {
	return c.approach(ctx, c.times.connectAhead())
}

// ApproachEarly is Approach with enough time left for an exchange with Redis before the request is sent. A
// task can call it again for further requests: they wait for a send time as long as necessary.
func (c *Claim) ApproachEarly(ctx context.Context) error {
	if c.handed.IsZero() {
		c.Leave()
		c.mayWait()
	}
	return c.approach(ctx, c.times.lead())
}

// approach returns, with a permit, that long before a send time that this request has.
func (c *Claim) approach(ctx context.Context, ahead time.Duration) error {
	if !c.handed.IsZero() {
		c.times.begun(time.Since(c.handed))
		c.handed = time.Time{}
	}
	for {
		at, err := c.sendAt(ctx)
		if err != nil {
			return err
		}
		wait := time.Until(at) - ahead
		if wait <= 0 {
			c.times.mu.Lock()
			if c.until.IsZero() {
				c.until = at.Add(sendWithin)
			}
			c.times.mu.Unlock()
			break
		}
		if err := c.times.sleep(ctx, wait); err != nil {
			return err
		}
		c.times.mu.Lock()
		c.times.tolerance.woke(time.Since(at) + ahead)
		c.times.mu.Unlock()
	}
	end := time.NewTimer(time.Until(c.until))
	defer end.Stop()
	select {
	case c.times.permits <- struct{}{}:
		c.permitted = true
		return nil
	case <-end.C:
		return ErrNoSendTime
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Use returns at the send time: the caller writes the request at once. If the send time has passed, it
// claims another one. It returns the errors of Approach. The caller may call it again for the same request
// as long as it has written nothing of it.
func (c *Claim) Use(ctx context.Context) error {
	for {
		at, err := c.sendAt(ctx)
		if err != nil {
			return err
		}
		if err := c.times.sleep(ctx, time.Until(at)); err != nil {
			return err
		}
		held, _ := c.times.held()
		if c.settle(at, time.Now(), held <= 0) {
			return nil
		}
	}
}

// settle reports whether the request, whose send time was at, may be written now. If it is
// too late, the request gets the next send time, and the requests behind it those that follow.
func (c *Claim) settle(at, now time.Time, may bool) bool {
	s := c.times
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tolerance.woke(now.Sub(at))
	if c.time == nil || !c.time.at.Equal(at) {
		return false // it got a later one meanwhile
	}
	t := c.time
	s.leave(c)
	switch {
	case may && !now.After(t.until):
		return true
	case may:
		s.unused = append(s.unused, *t)
		s.shift(c, now)
		s.wake()
	default:
		s.release(*t)
	}
	return false
}

// mayWait lets the next request of the task wait for its send time as long as necessary.
func (c *Claim) mayWait() {
	c.times.mu.Lock()
	defer c.times.mu.Unlock()
	c.until = time.Time{}
}

// mayUse reports whether the request may be written at a send time. The caller holds times.mu.
func (c *Claim) mayUse(t *sendTime) bool { return c.until.IsZero() || !t.at.After(c.until) }

// Leave gives the permit back, if the claim has one: the request was answered.
func (c *Claim) Leave() {
	if c.permitted {
		c.permitted = false
		<-c.times.permits
	}
}

// End gives back the permit and the send time that were not used.
func (c *Claim) End() {
	c.Leave()
	s := c.times
	s.mu.Lock()
	if c.pending {
		s.pending--
	}
	if t := c.time; t != nil {
		s.leave(c)
		s.release(*t)
	}
	c.pending = false
	s.mu.Unlock()
	s.wake()
}
