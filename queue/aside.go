package queue

import (
	"context"
	"time"
)

// detachWait is the longest that a caller waits for detached work.
const detachWait = 100 * time.Millisecond

// detach runs work in the background that a request does not depend on. The caller goes on when the
// work is done, or after detachWait. The context of the work ends when the store is closed.
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
