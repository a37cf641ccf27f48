package queue

import (
	"cmp"
	"context"
	"slices"
	"time"
)

// claim is what a task that was handed over has of its target's rate. It is used by one
// goroutine at a time.
type claim struct {
	p         *pacer
	open      bool      // it counts among those that have no send time yet
	time      *sendTime // that it has and did not use yet
	until     time.Time // it may be used at the latest; zero is at any time
	handed    time.Time // when the task was handed over, until its action is begun
	permitted bool
}

// take takes the earliest send time, when there is one.
func (c *claim) take(ctx context.Context) error {
	p := c.p
	var end <-chan time.Time
	if !c.until.IsZero() {
		timer := time.NewTimer(time.Until(c.until))
		defer timer.Stop()
		end = timer.C
	}
	for {
		held, changed := p.held()
		p.mu.Lock()
		if !c.open {
			c.open = true
			p.unready++
		}
		now := time.Now()
		p.expire(now)
		if held <= 0 && len(p.times) > 0 && (c.until.IsZero() || !p.times[0].at.After(c.until)) {
			t := p.times[0]
			p.times = p.times[1:]
			p.unready--
			c.open, c.time = false, &t
			p.mu.Unlock()
			p.wake()
			return nil
		}
		more := p.claims
		p.mu.Unlock()
		p.wake() // it asks for what is missing
		var over <-chan time.Time
		if held > 0 {
			timer := time.NewTimer(held)
			defer timer.Stop()
			over = timer.C
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

// approach returns that long before a send time that is this request's, with a permit.
func (c *claim) approach(ctx context.Context, ahead time.Duration) error {
	if !c.handed.IsZero() {
		c.p.begun(time.Since(c.handed))
		c.handed = time.Time{}
	}
	if err := c.take(ctx); err != nil {
		return err
	}
	if wait := time.Until(c.time.at) - ahead; wait > 0 {
		if err := c.p.sleep(ctx, wait); err != nil {
			return err
		}
		c.p.mu.Lock()
		c.p.woke(time.Since(c.time.at) + ahead)
		c.p.mu.Unlock()
	}
	if c.until.IsZero() {
		c.until = c.time.at.Add(sendWithin)
	}
	end := time.NewTimer(time.Until(c.until))
	defer end.Stop()
	select {
	case c.p.permits <- struct{}{}:
		c.permitted = true
		return nil
	case <-end.C:
		return ErrNoSendTime
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// use returns at the send time, at which the request is to be written at once. If that has passed,
// it takes another one.
func (c *claim) use(ctx context.Context) error {
	for {
		if c.time == nil {
			if err := c.take(ctx); err != nil {
				return err
			}
		}
		if err := c.p.sleep(ctx, time.Until(c.time.at)); err != nil {
			return err
		}
		held, _ := c.p.held()
		if c.p.settle(c.time, time.Now(), held <= 0) {
			c.time = nil
			return nil
		}
		c.time = nil
	}
}

// begun notes how long an action took to be begun.
func (p *pacer) begun(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.exchange.add(d)
}

// settle reports whether a request may be written now. Otherwise its send time is returned.
func (p *pacer) settle(t *sendTime, now time.Time, may bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.woke(now.Sub(t.at))
	if may && !now.After(t.until) {
		return true
	}
	p.put(*t)
	return false
}

// woke notes how much later than it wanted a goroutine went on, with the lock held. The
// tolerance follows what is seen often, and forgets it slowly.
func (p *pacer) woke(late time.Duration) {
	floor := floorLateness(p.rate)
	if late = late * 5 / 4; late > p.late {
		p.late = min(p.late+(late-p.late)/2, mostLate(p.rate))
	} else {
		p.late = max(p.late-(p.late-floor)/64, floor)
	}
}

// put takes back a send time that was not used, for the next request that is ready, with
// the lock held.
func (p *pacer) put(t sendTime) {
	at, _ := slices.BinarySearchFunc(p.times, t, func(a, b sendTime) int { return cmp.Compare(a.redis, b.redis) })
	p.times = slices.Insert(p.times, at, t)
	p.signal()
	p.wake()
}

// leave gives the permit back: the request was answered.
func (c *claim) leave() {
	if c.permitted {
		c.permitted = false
		<-c.p.permits
	}
}

// end gives back what was not used.
func (c *claim) end() {
	c.leave()
	p := c.p
	p.mu.Lock()
	if c.open {
		p.unready--
	}
	if c.time != nil {
		p.put(*c.time)
	}
	c.open, c.time = false, nil
	p.mu.Unlock()
	p.wake()
}

// sleep returns after that time.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return context.Cause(ctx)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
