package batch

import (
	"context"
	"time"
)

// Gate holds back requests to a target, for all workers together.
type Gate interface {
	// Hold keeps all workers from sending to the target for that time from now. It does not
	// shorten a longer hold.
	Hold(ctx context.Context, target string, d time.Duration) error
	// Trip opens the target's circuit because no connection to the target can be made, and pauses
	// its queues until Reset. It reports whether the circuit was closed before.
	Trip(ctx context.Context, target string) (opened bool, err error)
	// Reset closes the target's circuit.
	Reset(ctx context.Context, target string) error
	// Tripped returns the targets whose circuit is open.
	Tripped(ctx context.Context) ([]string, error)
	// Holds calls the function whenever a worker holds a target, until stop is called. A broken
	// connection can lose a call.
	Holds(f func(target string, d time.Duration)) (stop func())
}

// Prober checks whether a target can be reached.
type Prober interface {
	// Probe makes a connection to the target and sends nothing over it.
	Probe(ctx context.Context, target string) error
}
