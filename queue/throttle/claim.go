package throttle

import (
	"cmp"
	"context"
	"slices"
	"time"
)

// Claim is what a task that was handed over has of its target's rate. It is used by one
// goroutine at a time.
type Claim[T any] struct {
	P         *Pacer[T]
	open      bool      // it counts among those that have no send time yet
	time      *SendTime // that it has and did not use yet; both are guarded by the pacer's lock
	until     time.Time // it may be used at the latest; zero is at any time; changed under the lock
	Handed    time.Time // when the task was handed over, until its action is begun
	permitted bool
}

// ClaimFor returns the claim of a task that is handed over now.
func (p *Pacer[T]) ClaimFor(now time.Time) *Claim[T] {
	return &Claim[T]{P: p, open: true, Handed: now, until: now.Add(sendWithin)}
}

// take takes the earliest send time, when there is one.
func (c *Claim[T]) take(ctx context.Context) error {
	p := c.P
	var end <-chan time.Time
	if !c.until.IsZero() {
		timer := time.NewTimer(time.Until(c.until))
		defer timer.Stop()
		end = timer.C
	}
	for {
		held, changed := p.Held()
		p.mu.Lock()
		if !c.open {
			c.open = true
			p.unready++
		}
		now := time.Now()
		p.expire(now)
		if held <= 0 && len(p.times) > 0 && c.mayUse(&p.times[0]) {
			t := p.times[0]
			p.times = p.times[1:]
			p.unready--
			c.open, c.time = false, &t
			p.enter(c)
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

// sendAt returns the send time that it has. That may become a later one, or none, if a request
// before it misses its own.
func (c *Claim[T]) sendAt(ctx context.Context) (time.Time, error) {
	for {
		c.P.mu.Lock()
		t := c.time
		c.P.mu.Unlock()
		if t != nil {
			return t.at, nil
		}
		if err := c.take(ctx); err != nil {
			return time.Time{}, err
		}
	}
}

// Approach returns that long before a send time that is this request's, with a permit.
func (c *Claim[T]) Approach(ctx context.Context, ahead time.Duration) error {
	if !c.Handed.IsZero() {
		c.P.begun(time.Since(c.Handed))
		c.Handed = time.Time{}
	}
	for {
		at, err := c.sendAt(ctx)
		if err != nil {
			return err
		}
		wait := time.Until(at) - ahead
		if wait <= 0 {
			c.P.mu.Lock()
			if c.until.IsZero() {
				c.until = at.Add(sendWithin)
			}
			c.P.mu.Unlock()
			break
		}
		if err := c.P.Sleep(ctx, wait); err != nil {
			return err
		}
		c.P.mu.Lock()
		c.P.woke(time.Since(at) + ahead)
		c.P.mu.Unlock()
	}
	end := time.NewTimer(time.Until(c.until))
	defer end.Stop()
	select {
	case c.P.permits <- struct{}{}:
		c.permitted = true
		return nil
	case <-end.C:
		return ErrNoSendTime
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Use returns at the send time, at which the request is to be written at once. If that has passed,
// it takes another one.
func (c *Claim[T]) Use(ctx context.Context) error {
	for {
		at, err := c.sendAt(ctx)
		if err != nil {
			return err
		}
		if err := c.P.Sleep(ctx, time.Until(at)); err != nil {
			return err
		}
		held, _ := c.P.Held()
		if c.P.settle(c, at, time.Now(), held <= 0) {
			return nil
		}
	}
}

// begun notes how long an action took to be begun.
func (p *Pacer[T]) begun(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.exchange.add(d)
}

// settle reports whether a request that was to be written at that time may be written now. If it is
// too late, it takes the next send time, and the requests behind it those that follow.
func (p *Pacer[T]) settle(c *Claim[T], at, now time.Time, may bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.woke(now.Sub(at))
	if c.time == nil || !c.time.at.Equal(at) {
		return false // it was given a later one meanwhile
	}
	t := c.time
	p.leave(c)
	switch {
	case may && !now.After(t.until):
		return true
	case may:
		p.back = append(p.back, *t)
		p.shift(c, now)
		p.wake()
	default:
		p.put(*t)
	}
	return false
}

// shift gives a request that missed its send time the next one that a request has, that request the
// one after, and so on, with the lock held. If it waited behind all of them instead, it would
// often be too late then to be sent at all.
func (p *Pacer[T]) shift(c *Claim[T], now time.Time) {
	first := 0
	for first < len(p.claimed) && now.After(p.claimed[first].time.until) {
		first++ // it is about to find that out
	}
	claims := append([]*Claim[T]{c}, p.claimed[first:]...)
	p.claimed = p.claimed[:first]
	times := make([]*SendTime, 0, len(claims))
	for _, k := range claims[1:] {
		times = append(times, k.time)
	}
	p.expire(now)
	for _, k := range claims {
		k.time = nil
		switch {
		case len(times) > 0 && k.mayUse(times[0]):
			k.time, times = times[0], times[1:]
			p.enter(k)
		case len(times) == 0 && len(p.times) > 0 && k.mayUse(&p.times[0]):
			t := p.times[0]
			k.time, p.times = &t, p.times[1:]
			p.enter(k)
		case !k.open: // it takes one when it wakes
			k.open = true
			p.unready++
		}
	}
	for _, t := range times {
		p.put(*t)
	}
}

// MayWait has the next request of the task wait for its send time as long as it takes.
func (c *Claim[T]) MayWait() {
	c.P.mu.Lock()
	defer c.P.mu.Unlock()
	c.until = time.Time{}
}

// mayUse reports whether the request may be written at a time, with the lock held.
func (c *Claim[T]) mayUse(t *SendTime) bool { return c.until.IsZero() || !t.at.After(c.until) }

// enter notes that a request has a send time, with the lock held.
func (p *Pacer[T]) enter(c *Claim[T]) {
	at, _ := slices.BinarySearchFunc(p.claimed, c.time.Redis, func(c *Claim[T], redis int64) int { return cmp.Compare(c.time.Redis, redis) })
	p.claimed = slices.Insert(p.claimed, at, c)
}

// leave takes its send time from a request, with the lock held.
func (p *Pacer[T]) leave(c *Claim[T]) {
	if i := slices.Index(p.claimed, c); i >= 0 {
		p.claimed = slices.Delete(p.claimed, i, i+1)
	}
	c.time = nil
}

// woke notes how much later than it wanted a goroutine went on, with the lock held. The
// tolerance follows what is seen often, and forgets it slowly.
func (p *Pacer[T]) woke(late time.Duration) {
	floor := floorLateness(p.Rate)
	if late = late * 5 / 4; late > p.late {
		p.late = min(p.late+(late-p.late)/2, mostLate(p.Rate))
	} else {
		p.late = max(p.late-(p.late-floor)/64, floor)
	}
}

// put takes back a send time that was not used, for the next request that is ready, with
// the lock held.
func (p *Pacer[T]) put(t SendTime) {
	at, _ := slices.BinarySearchFunc(p.times, t, func(a, b SendTime) int { return cmp.Compare(a.Redis, b.Redis) })
	p.times = slices.Insert(p.times, at, t)
	p.signal()
	p.wake()
}

// Leave gives the permit back: the request was answered.
func (c *Claim[T]) Leave() {
	if c.permitted {
		c.permitted = false
		<-c.P.permits
	}
}

// End gives back what was not used.
func (c *Claim[T]) End() {
	c.Leave()
	p := c.P
	p.mu.Lock()
	if c.open {
		p.unready--
	}
	if t := c.time; t != nil {
		p.leave(c)
		p.put(*t)
	}
	c.open = false
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
