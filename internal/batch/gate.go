package batch

import (
	"context"
	"time"
)

// Gate holds back what goes to a target, for all workers together.
type Gate interface {
	// Hold has every worker send nothing to the target for that long from now,
	// if it is not held for longer already.
	Hold(ctx context.Context, target string, d time.Duration) error
	// Trip opens the target's circuit, because no connection to it can be made:
	// its queues are paused until Mend. It reports whether it was closed until now.
	Trip(ctx context.Context, target string) (opened bool, err error)
	// Mend closes the target's circuit.
	Mend(ctx context.Context, target string) error
	// Tripped returns the targets whose circuit is open.
	Tripped(ctx context.Context) ([]string, error)
	// Holds calls the function whenever a target is held, by whichever worker,
	// until stop is called. A call can be lost with a connection.
	Holds(f func(target string, d time.Duration)) (stop func())
}

// Prober tries whether a target can be reached.
type Prober interface {
	// Probe makes a connection to the target and sends nothing over it.
	Probe(ctx context.Context, target string) error
}
