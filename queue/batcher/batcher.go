// Package batcher lets steps of the ledger that several goroutines ask for at about the
// same time share exchanges with Redis: the calls for actions of one batch become one run of
// the Lua step, and the runs for all batches are sent in one pipeline.
//
// It does not know what a step does, and it repeats nothing: package ledger builds the calls,
// reads their replies and decides about repetition. Package rdb makes the exchanges.
package batcher

import (
	"context"
	"runtime"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/queue/rdb"
)

const (
	// maxActions is the most actions that share one exchange with Redis.
	maxActions = 256
	// maxBytes is the most bytes of arguments that share one exchange. An exchange that is too
	// large times out for all of its calls, and would do so on every repetition.
	maxBytes = 4 << 20
	// gatherFor is how long a call that can wait stays in the queue for others to share its
	// exchange. Once gatherMost calls wait, they are sent at once.
	gatherFor  = 300 * time.Microsecond
	gatherMost = 32
	// maxFlushers is the usual number of concurrent exchanges. Meanwhile the next calls gather.
	maxFlushers = 2
	// flushWait is how long calls wait for one of these exchanges to end. If Redis is so far
	// away that an exchange takes longer, waiting calls of at most smallFlush bytes get up to
	// maxMoreFlushers additional exchanges.
	flushWait       = 20 * time.Millisecond
	maxMoreFlushers = 32
	smallFlush      = 64 << 10
)

// Batcher runs calls, several of them in one exchange. Its flush loops never end before Close,
// since their stacks have grown to what the Redis client needs. It is safe for concurrent use.
type Batcher struct {
	db      *rdb.DB
	onReply func(batchID string, err error)

	mu           sync.Mutex
	wake         sync.Cond // signals a flush loop: calls wait, or no more will come
	waiting      []*Call
	flushNow     bool // the waiting calls do not wait for others
	gatherFor    time.Duration
	gatherTimer  *time.Timer // fires gatherFor after the first waiting call
	flushers     int         // flush loops that were started, at most maxFlushers
	moreFlushers int         // exchanges beyond those of the flush loops
	moreTimer    *time.Timer // fires flushWait after calls began to wait for a flush loop
	moreTimerSet bool
	nodes        map[*redis.Client]*nodeQueue // of a cluster
	closed       bool
	wg           sync.WaitGroup
}

// New returns a batcher on a Redis. It calls onReply after each run of a step with the batch
// and the error, or nil.
func New(db *rdb.DB, onReply func(batchID string, err error)) *Batcher {
	b := &Batcher{db: db, onReply: onReply, gatherFor: gatherFor}
	b.wake.L = &b.mu
	b.gatherTimer = time.AfterFunc(time.Hour, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.flush()
	})
	b.moreTimer = time.AfterFunc(time.Hour, b.flushMore)
	return b
}

// Close returns once all waiting calls have been answered. Later calls get [redis.ErrClosed].
func (b *Batcher) Close() {
	b.mu.Lock()
	b.flush()
	b.closed = true
	b.wake.Broadcast()
	b.gatherTimer.Stop()
	b.moreTimer.Stop()
	b.mu.Unlock()
	b.wg.Wait()
}

// Do runs a call and returns once it is answered. It takes no context: if the caller left
// before the reply, the step might have run without any process knowing, and the action would
// be in doubt. A call whose last run failed shares its next run with no other, since the size
// of their replies may have been the reason. Errors are those of [rdb.MapError].
func (b *Batcher) Do(c *Call) error {
	c.done, c.solo, c.err = make(chan struct{}), c.err != nil, nil
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return redis.ErrClosed
	}
	b.waiting = append(b.waiting, c)
	switch {
	case !c.CanWait || b.flushNow || len(b.waiting) >= gatherMost:
		b.flush()
	case len(b.waiting) == 1:
		b.gatherTimer.Reset(b.gatherFor)
	}
	b.mu.Unlock()
	<-c.done
	return c.err
}

// flush has a flush loop send the waiting calls. The caller holds the lock.
func (b *Batcher) flush() {
	if len(b.waiting) == 0 {
		return
	}
	b.flushNow = true
	if b.flushers < maxFlushers {
		b.flushers++
		b.wg.Go(b.flushLoop)
		return
	}
	b.wake.Signal()
	if !b.moreTimerSet && b.db.Cluster == nil {
		b.moreTimerSet = true
		b.moreTimer.Reset(flushWait)
	}
}

// flushMore sends waiting calls in an exchange of their own while all flush loops are busy.
func (b *Batcher) flushMore() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.moreTimerSet = false
	if len(b.waiting) == 0 || !b.flushNow || b.closed {
		return
	}
	b.moreTimerSet = true
	b.moreTimer.Reset(flushWait)
	n := fit(b.waiting)
	if b.moreFlushers == maxMoreFlushers || sizeOf(b.waiting[:n]) > smallFlush { // large exchanges in parallel delay one another
		return
	}
	calls := b.take(n)
	b.moreFlushers++
	b.wg.Go(func() {
		b.exchange(calls)
		b.mu.Lock()
		b.moreFlushers--
		b.mu.Unlock()
	})
}

// take removes the first n waiting calls. The caller holds the lock.
func (b *Batcher) take(n int) []*Call {
	calls := b.waiting[:n]
	if b.waiting = b.waiting[n:]; len(b.waiting) == 0 {
		b.waiting, b.flushNow = nil, false // the next calls must not overwrite these
	}
	return calls
}

// flushLoop sends waiting calls until the batcher is closed.
func (b *Batcher) flushLoop() {
	for {
		b.mu.Lock()
		for len(b.waiting) == 0 || !b.flushNow {
			if b.closed && len(b.waiting) == 0 {
				b.mu.Unlock()
				return
			}
			b.wake.Wait()
		}
		b.mu.Unlock()
		runtime.Gosched() // goroutines that are about to call share this exchange
		b.mu.Lock()
		if len(b.waiting) == 0 || !b.flushNow {
			b.mu.Unlock()
			continue // another flusher was faster
		}
		calls := b.take(fit(b.waiting))
		b.mu.Unlock()
		if b.db.Cluster != nil {
			b.toNodes(calls)
		} else {
			b.exchange(calls)
		}
	}
}

// exchange runs calls in one exchange and answers them.
func (b *Batcher) exchange(calls []*Call) {
	b.run(calls)
	for _, c := range calls {
		close(c.done)
	}
}

// sizeOf returns the number of bytes of the calls' sealed arguments.
func sizeOf(calls []*Call) (bytes int) {
	for _, c := range calls {
		for _, arg := range c.Args {
			if sealed, ok := arg.([]byte); ok {
				bytes += len(sealed)
			}
		}
	}
	return bytes
}

// fit returns how many of the waiting calls, from the first one on, one exchange takes.
func fit(waiting []*Call) int {
	bytes := 0
	for n, c := range waiting {
		bytes += sizeOf(waiting[n : n+1])
		if n == maxActions || (n > 0 && (bytes > maxBytes || c.solo || waiting[0].solo)) {
			return n
		}
	}
	return len(waiting)
}

// run runs the steps of the calls in one exchange.
func (b *Batcher) run(calls []*Call) {
	ctx, cancel := b.db.WithTimeout(context.Background())
	defer cancel()
	merged := merge(calls)
	pipe := b.db.Client.Pipeline()
	for _, m := range merged {
		m.add(ctx, pipe)
	}
	b.db.Send(ctx, pipe)
	for _, m := range merged {
		err := m.read(ctx, b.db)
		b.onReply(m.calls[0].ID, err)
		m.reply(err)
	}
}

// MaxExchanges returns how many exchanges are under way at most if each takes a round trip.
func MaxExchanges(roundTrip time.Duration) int {
	return maxFlushers + min(int(roundTrip/flushWait)+1, maxMoreFlushers)
}
