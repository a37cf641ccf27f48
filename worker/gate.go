package worker

import (
	"context"
	"sync"
	"time"

	"github.com/batchd/batchd/internal/batch"
)

const (
	// tripAfter is the number of connections to a target that cannot be made, one
	// after the other, after which its circuit opens.
	tripAfter = 20
	// tripHold is how long a target whose circuit is open is held. It is longer
	// than the time between two probes, so that it does not end in between.
	tripHold = 3 * sweepEvery
)

// gate is where actions wait while their target is held.
type gate struct {
	target batch.Target

	mu       sync.Mutex
	until    time.Time
	changed  chan struct{} // closed when until changes
	failures int           // connections in a row that could not be made
}

func newGate(target batch.Target) *gate {
	return &gate{target: target, changed: make(chan struct{})}
}

// held returns for how long from now the target is held, and a channel that is
// closed when that changes.
func (g *gate) held() (time.Duration, <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return max(time.Until(g.until), 0), g.changed
}

// wait returns when the target is not held any more.
func (g *gate) wait(ctx context.Context) error {
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

// hold notes that the target is held for that long from now. Zero lets it go.
func (g *gate) hold(d time.Duration) {
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

// connected counts connections that could not be made, and reports when there
// were so many in a row that the circuit is to be opened.
func (g *gate) connected(ok bool) (trip bool) {
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

// hold hears of a target that some worker has held.
func (w *Worker) hold(target string, d time.Duration) {
	if g := w.gates[target]; g != nil {
		g.hold(d)
	}
}

// learn takes from a response what concerns all that goes to its target.
func (w *Worker) learn(ctx context.Context, target string, resp *batch.Response) {
	g := w.gates[target]
	if resp.After > 0 {
		ctx = context.WithoutCancel(ctx)
		// One was told to come later, which goes for all.
		d := min(resp.After, g.target.Retry.Max)
		g.hold(d)
		if err := w.cfg.Gate.Hold(ctx, target, d); err != nil {
			w.log.WarnContext(ctx, "other workers not told that a target is held", "target", target, "error", err)
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
		w.log.WarnContext(ctx, "circuit not opened", "target", target, "error", err)
		return
	}
	g.hold(tripHold)
	if err := w.cfg.Gate.Hold(ctx, target, tripHold); err != nil {
		w.log.WarnContext(ctx, "other workers not told that a target is held", "target", target, "error", err)
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
