package worker

import (
	"context"
	"sync"
	"time"
)

// service is one periodic duty of a worker. It has its own goroutine, so that a slow
// duty, or one that waits for an unreachable target, does not delay the others.
type service struct {
	// run does the duty until the context ends.
	run func(ctx context.Context)

	once   sync.Once
	cancel context.CancelFunc
	done   chan struct{}
}

func newService(run func(ctx context.Context)) *service {
	return &service{run: run, done: make(chan struct{})}
}

// Start runs the service until the context ends or Stop is called. A service starts once.
func (s *service) Start(ctx context.Context) {
	s.once.Do(func() {
		running, cancel := context.WithCancel(ctx)
		s.cancel = cancel
		go func() {
			defer close(s.done)
			s.run(running)
		}()
	})
}

// Stop ends the service and waits for its goroutine. It may be called several times, and
// for a service that was never started.
func (s *service) Stop() {
	s.once.Do(func() { close(s.done) })
	if s.cancel != nil {
		s.cancel()
	}
	<-s.done
}

// repeat repeats a duty until the context ends, for the first time after the interval of the
// sweeps. The duty returns the pause until the next time.
func repeat(ctx context.Context, duty func() time.Duration) {
	next := time.NewTimer(nextSweep())
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-next.C:
			next.Reset(duty())
		}
	}
}
