package batch

import (
	"context"
	"time"
)

const (
	// BeatEvery is the time between two heartbeats of a worker.
	BeatEvery = 2 * time.Second
	// DeadAfter is how long a worker may be silent before other workers take over its
	// actions.
	DeadAfter = 8 * time.Second
)

// Registry records which workers are alive. It uses only the store's clock, so
// differences between the clocks of machines do not matter.
type Registry interface {
	// Beat records that a worker is alive, and returns the workers that have been
	// silent for DeadAfter.
	Beat(ctx context.Context, worker string) (dead []string, err error)
	// Leave removes a worker that shuts down in order.
	Leave(ctx context.Context, worker string) error
	// Recover hands the actions that dead workers had begun to other workers, which find
	// them interrupted, and then forgets the dead workers. One worker does this for all
	// of them; meanwhile the others get ErrRecovering. Recover returns the number of
	// actions that it found. It is harmless to call it twice.
	Recover(ctx context.Context, worker string, dead []string) (int, error)
}
