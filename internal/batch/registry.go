package batch

import (
	"context"
	"time"
)

const (
	// BeatEvery is how often a worker says that it is alive.
	BeatEvery = 2 * time.Second
	// DeadAfter is how long a worker may be silent before what it began is
	// taken from it.
	DeadAfter = 8 * time.Second
)

// Registry keeps account of the workers that are alive. It goes by the store's
// clock alone, so clocks that differ between machines do not matter.
type Registry interface {
	// Beat says that a worker is alive, and returns those that have been silent
	// for DeadAfter.
	Beat(ctx context.Context, worker string) (dead []string, err error)
	// Leave takes a worker off the list, because it ends in order.
	Leave(ctx context.Context, worker string) error
	// Recover brings the actions that dead workers had begun to other workers, which find
	// them interrupted, and then forgets the dead workers. A worker does it for all, and
	// the others get ErrRecovering meanwhile. It returns how many actions it found. Doing
	// it twice is harmless.
	Recover(ctx context.Context, worker string, dead []string) (int, error)
}
