package worker

import (
	"context"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/batchd/batchd/internal/batch"
)

const (
	// webhookDeliveries is the most webhooks that a worker delivers at one time.
	webhookDeliveries = 32
	// webhookHandlers is the most tasks of webhooks that a worker has at one time. Those beyond the deliveries wait
	// for a turn.
	webhookHandlers = 2 * webhookDeliveries
	// turnWait is how long a task waits for a turn before others behind it come first.
	turnWait = time.Second
	// leastDelay and mostDelay bound when a task without a turn comes again.
	leastDelay, mostDelay = time.Second, time.Minute
)

// turns shares the deliveries that a worker makes at one time. An owner, and likewise a receiver's host, may have as
// many as are free: half of all if it is alone, a third each if they are two. So receivers that take their time hold up
// only their own webhooks. A task without a turn waits a moment, because most deliveries are short. If that does not
// help, it goes back to the queue, and so do the tasks of the same owner or host behind it.
type turns struct {
	most int

	mu      sync.Mutex
	used    int
	parties map[string]*party
	line    []*waiter // in the order in which they came
}

// party is an owner or a host.
type party struct {
	name                         string
	deliveries, waiting, delayed int
	// stuckUntil: until then its tasks do not wait for a turn.
	stuckUntil time.Time
	// usual is about how long a delivery lasts.
	usual time.Duration
}

// waiter is a task that waits for a turn.
type waiter struct {
	parties []*party
	turn    chan struct{} // closed when it has begun
}

func newTurns(most int) *turns { return &turns{most: most, parties: make(map[string]*party)} }

// partiesOf returns whose turn the delivery of a batch's webhook is.
func partiesOf(b *batch.Batch) []string {
	names := []string{"owner " + b.Owner}
	if u, err := url.Parse(b.WebhookURL); err == nil {
		names = append(names, "host "+strings.ToLower(u.Hostname()))
	}
	return names
}

// take waits for a turn of parties. The caller calls done once after the delivery. If done is nil, there is no turn, and
// the task comes again after the delay.
func (t *turns) take(ctx context.Context, names []string) (done func(), delay time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := &waiter{turn: make(chan struct{})}
	for _, name := range names {
		p := t.parties[name]
		if p == nil {
			p = &party{name: name}
			t.parties[name] = p
		}
		p.waiting++
		w.parties = append(w.parties, p)
	}
	t.line = append(t.line, w)
	t.advance()
	select {
	case <-w.turn:
		return t.ender(w), 0
	default:
	}
	if p := t.blocking(w); time.Now().Before(p.stuckUntil) {
		return nil, t.leave(w, p)
	}
	t.mu.Unlock()
	timer := time.NewTimer(turnWait)
	defer timer.Stop()
	select {
	case <-w.turn:
	case <-timer.C:
	case <-ctx.Done():
	}
	t.mu.Lock()
	select {
	case <-w.turn:
		return t.ender(w), 0
	default:
	}
	p := t.blocking(w)
	p.stuckUntil = time.Now().Add(turnWait)
	return nil, t.leave(w, p)
}

// advance begins the deliveries for which there is room, in the order of the line.
func (t *turns) advance() {
	t.line = slices.DeleteFunc(t.line, func(w *waiter) bool {
		for _, p := range w.parties {
			if !t.hasRoom(p) {
				return false
			}
		}
		t.used++
		for _, p := range w.parties {
			p.waiting--
			p.deliveries++
		}
		close(w.turn)
		return true
	})
}

// hasRoom reports whether a party may have one delivery more.
func (t *turns) hasRoom(p *party) bool { return p.deliveries < t.most-t.used }

// blocking returns the party for which a waiter has no turn.
func (t *turns) blocking(w *waiter) *party {
	for _, p := range w.parties {
		if !t.hasRoom(p) {
			return p
		}
	}
	return w.parties[0]
}

// ender returns the function that ends a delivery.
func (t *turns) ender(w *waiter) (done func()) {
	start := time.Now()
	return func() {
		took := time.Since(start)
		t.mu.Lock()
		defer t.mu.Unlock()
		t.used--
		for _, p := range w.parties {
			p.deliveries--
			p.usual += (took - p.usual) / 4
		}
		t.advance()
		for _, p := range w.parties {
			t.forget(p)
		}
	}
}

// leave takes a waiter out of the line because of a party, and returns when its task comes again.
func (t *turns) leave(w *waiter, p *party) time.Duration {
	t.line = slices.DeleteFunc(t.line, func(other *waiter) bool { return other == w })
	d := t.delay(p)
	for _, p := range w.parties {
		p.waiting--
		t.forget(p)
	}
	return d
}

// delay returns when a task of a party without a turn comes again: about when those before it have had theirs.
func (t *turns) delay(p *party) time.Duration {
	p.delayed++
	d := min(max(p.usual*time.Duration(p.delayed)/time.Duration(max(p.deliveries, 1)), leastDelay), mostDelay)
	d += rand.N(d) //nolint:gosec // jitter is no secret
	time.AfterFunc(d, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		p.delayed--
		t.forget(p)
	})
	return d
}

// forget removes a party about which there is nothing to know.
func (t *turns) forget(p *party) {
	if p.deliveries+p.waiting+p.delayed == 0 {
		delete(t.parties, p.name)
	}
}
