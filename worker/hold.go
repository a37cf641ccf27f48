package worker

import (
	"context"
	"sync"
	"time"

	"github.com/batchd/batchd/internal/batch"
)

const (
	// tripAfter is the number of failed connections to a target in a row after which
	// its circuit opens.
	tripAfter = 20
	// tripHold is how long a target with an open circuit is held. It is longer than the
	// time between two probes, so the hold does not end between them.
	tripHold = 3 * sweepEvery
)

// targetGate holds back the actions of a target while the target is held.
type targetGate struct {
	target batch.Target

	mu       sync.Mutex
	until    time.Time
	changed  chan struct{} // closed when until changes
	failures int           // failed connections in a row
}

func newTargetGate(target batch.Target) *targetGate {
	return &targetGate{target: target, changed: make(chan struct{})}
}

// held returns how long the target is still held, and a channel that is closed when
// that changes.
func (g *targetGate) held() (time.Duration, <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return max(time.Until(g.until), 0), g.changed
}

// wait returns when the target is no longer held.
func (g *targetGate) wait(ctx context.Context) error {
	for {
		left, changed := g.held()
		if left <= 0 {
			return context.Cause(ctx)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-changed:
		case <-time.After(left):
		}
	}
}

// hold holds the target for that time from now, or ends its hold if d is 0. A shorter hold does not
// shorten a longer one.
func (g *targetGate) hold(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	until := time.Now().Add(d)
	if d > 0 && until.Before(g.until) {
		return
	}
	g.until = until
	close(g.changed)
	g.changed = make(chan struct{})
}

// connected counts failed connections in a row, and reports whether the circuit must
// open.
func (g *targetGate) connected(ok bool) (trip bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if ok {
		g.failures = 0
		return false
	}
	g.failures++
	if g.failures < tripAfter {
		return false
	}
	g.failures = 0
	return true
}

// hold holds a target at the request of this worker or another one.
func (w *Worker) hold(target string, d time.Duration) {
	if g := w.gates[target]; g != nil {
		g.hold(d)
	}
}

// observe evaluates a response: the target may ask to be called later, or may be unreachable.
func (w *Worker) observe(ctx context.Context, target string, resp *batch.Response) {
	g := w.gates[target]
	if resp.After > 0 {
		ctx = context.WithoutCancel(ctx)
		// The target asked one request to wait; all requests to it wait.
		d := min(resp.After, g.target.Retry.Max)
		g.hold(d)
		if err := w.cfg.Gate.Hold(ctx, target, d); err != nil {
			w.log.WarnContext(ctx, "other workers do not know that a target is held", "target", target, "error", err)
		}
	}
	if resp.Result.Status > 0 {
		g.connected(true)
		return
	}
	if !unreachable(resp) || !g.connected(false) {
		return
	}
	ctx = context.WithoutCancel(ctx)
	opened, err := w.cfg.Gate.Trip(ctx, target)
	if err != nil {
		w.log.WarnContext(ctx, "circuit could not be opened", "target", target, "error", err)
		return
	}
	g.hold(tripHold)
	if err := w.cfg.Gate.Hold(ctx, target, tripHold); err != nil {
		w.log.WarnContext(ctx, "other workers do not know that a target is held", "target", target, "error", err)
	}
	if opened {
		w.log.WarnContext(ctx, "target paused: no connection to it can be made", "target", target, "reason", resp.Result.Error.Message)
	}
}

// unreachable reports whether no connection to the target could be made.
func unreachable(resp *batch.Response) bool {
	if !resp.Unsent || resp.Result.Error == nil {
		return false
	}
	switch resp.Result.Error.Code {
	case batch.CodeRefused, batch.CodeDNS, batch.CodeTLS, batch.CodeTimeout:
		return true
	default:
		return false
	}
}
