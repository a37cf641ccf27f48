package queue

import (
	"context"
	"time"
)

// asidePatience is how long somebody waits for what is done aside.
const asidePatience = 100 * time.Millisecond

// aside does what need not be done before somebody is answered: they go on when
// it is done, or after a moment. It is cut off when the store is closed.
func (s *Store) aside(do func(ctx context.Context)) {
	done := make(chan struct{})
	s.fanouts.wg.Go(func() {
		defer close(done)
		do(s.fanouts.ctx)
	})
	select {
	case <-done:
	case <-time.After(asidePatience):
	}
}

// unlink removes keys, and goes on trying for a while if Redis is away.
func (s *Store) unlink(ctx context.Context, keys ...string) error {
	return s.insist(ctx, func() error {
		ctx, cancel := s.within(ctx)
		defer cancel()
		return mapError(ctx, s.rdb.Unlink(ctx, keys...).Err())
	})
}
