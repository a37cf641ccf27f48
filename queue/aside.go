package queue

import (
	"context"
	"time"
)

// detachWait is how long somebody waits for what is done aside.
const detachWait = 100 * time.Millisecond

// detach does what need not be done before somebody is answered: they go on when
// it is done, or after a moment. It is cut off when the store is closed.
func (s *Store) detach(do func(ctx context.Context)) {
	done := make(chan struct{})
	s.fanouts.wg.Go(func() {
		defer close(done)
		do(s.fanouts.ctx)
	})
	select {
	case <-done:
	case <-time.After(detachWait):
	}
}
