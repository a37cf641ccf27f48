package rdb

import (
	"context"
	"sync"
	"time"
)

// detachWait is the longest that a caller waits for detached work.
const detachWait = 100 * time.Millisecond

// Background runs work that outlives the request that began it. [NewBackground] returns one.
type Background struct {
	ctx    context.Context //nolint:containedctx // it ends with the background, not with a call
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// NewBackground returns a Background. The caller stops it at the end.
func NewBackground() *Background {
	b := &Background{}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	return b
}

// Go runs work on a goroutine of its own. Its context ends when the background is stopped.
func (b *Background) Go(run func(ctx context.Context)) { b.wg.Go(func() { run(b.ctx) }) }

// Detach runs work that a request does not depend on. It returns when the work is done, or after
// 100 ms.
func (b *Background) Detach(run func(ctx context.Context)) {
	select {
	case <-b.start(run):
	case <-time.After(detachWait):
	}
}

// GoAndWait runs work as Go does, and returns when the work is done or a context ends.
func (b *Background) GoAndWait(ctx context.Context, run func(ctx context.Context)) {
	select {
	case <-b.start(run):
	case <-ctx.Done():
	}
}

// start runs work as Go does, and returns a channel that is closed when the work is done.
func (b *Background) start(run func(ctx context.Context)) <-chan struct{} {
	done := make(chan struct{})
	b.wg.Go(func() {
		defer close(done)
		run(b.ctx)
	})
	return done
}

// Wait returns when no work is under way.
func (b *Background) Wait() { b.wg.Wait() }

// Stop ends the contexts of all work, and returns when that has ended.
func (b *Background) Stop() {
	b.cancel()
	b.wg.Wait()
}
