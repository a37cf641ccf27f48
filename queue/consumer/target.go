package consumer

import (
	"sync"
	"time"

	"github.com/batchd/batchd/queue/throttle"
)

const (
	// linger is the least time between two polls while few slots are free: more slots may become free
	// meanwhile. If enoughSlots are free, or a quarter of all, a poll is due at once.
	linger      = time.Millisecond
	enoughSlots = 12
	// doneWithin is how long after its end a task may remain in asynq's records.
	doneWithin = 5 * time.Millisecond
	// mostDone is the number of ended tasks for which a poll is due at once.
	mostDone = 128
	// retryPause follows an exchange that failed.
	retryPause = 250 * time.Millisecond
	// shutdownTimeout is about how long a server that stops tries to report which tasks have ended.
	shutdownTimeout = time.Second
)

// targetConsumer takes the tasks of one target. run polls its queues, startPoll makes a poll, slots has the
// tasks in hand, and runners run them.
//
// A goroutine that needs several locks acquires pollMu before mu, and mu before the lock of the pacer. mu is
// not held during an exchange with Redis.
type targetConsumer struct {
	Target
	consumer *consumer
	pacer    *throttle.Pacer[*task] // nil for a target without a rate
	queues   []*taskQueue
	wakeC    chan struct{}

	pollMu sync.Mutex // held while a poll is planned and, except on a cluster, during its exchange

	mu       sync.Mutex // guards the fields below, those of the queues, and what tasks and slots say of it
	slots    slots
	runners  runners
	polledAt time.Time  // when the last poll was planned
	ended    time.Time  // when the first of the ended tasks that are not reported ended
	polls    int        // exchanges under way with single nodes of a cluster
	polled   *sync.Cond // signals that polls has changed
}

func newTargetConsumer(c *consumer, cfg Target) *targetConsumer {
	if cfg.Held == nil {
		cfg.Held = func() (time.Duration, <-chan struct{}) { return 0, nil }
	}
	t := &targetConsumer{Target: cfg, consumer: c, wakeC: make(chan struct{}, 1)}
	t.polled = sync.NewCond(&t.mu)
	if t.Rate.N > 0 {
		t.pacer = t.newPacer()
	}
	capacity := capacity(cfg)
	t.runners = runners{consumer: c, out: make(chan *task, capacity)}
	t.slots = slots{
		limit: cfg.Slots, capacity: capacity, pacer: t.pacer, runners: &t.runners, share: share{slots: cfg.Slots},
		mayStart: t.mayStart, onRunning: func(n int) { c.store.Ledger.AddRunning(n) }, held: make(map[*Slot]*task),
	}
	return t
}

// run polls the queues until no task can end any more.
func (t *targetConsumer) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var seen <-chan struct{}
	for {
		held, changed := t.Held()
		if changed != seen { // the queues may have been paused until now
			seen = changed
			t.markAllNonEmpty()
		}
		t.startOrGiveBack(held)
		wait, take, end := t.next(held)
		if take || end {
			t.startPoll(take)
			continue
		}
		timer.Reset(wait)
		select {
		case <-t.wakeC:
		case <-timer.C:
		case <-changed:
		case <-t.consumer.closed:
			t.reportRest(timer)
			return
		}
	}
}

// reportRest reports the tasks that have ended when the server stops. The leases of those that it cannot
// report expire, and another server finds them.
func (t *targetConsumer) reportRest(timer *time.Timer) {
	for since := time.Now(); time.Since(since) < shutdownTimeout; {
		t.poll(false)
		if t.unreported() == 0 {
			return
		}
		timer.Reset(retryPause)
		<-timer.C
	}
}

// next reports whether a poll is due, to take tasks or only to end some, and if
// not, when there may be one unless something happens.
func (t *targetConsumer) next(held time.Duration) (wait time.Duration, take, end bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	wait = time.Hour
	nonEmpty, done := false, 0
	bulkFree := t.slots.bulkFree(now)
	at := func(when time.Time) bool {
		if left := when.Sub(now); left > 0 {
			wait = min(wait, left)
			return false
		}
		return true
	}
	for _, q := range t.queues {
		if q.polling || (q.maybeNonEmpty || q.unreported() > 0) && !at(q.failed) {
			continue
		}
		nonEmpty = nonEmpty || q.maybeNonEmpty && (!q.bulk || bulkFree > 0)
		done += q.unreported()
	}
	if bulkFree <= 0 {
		_ = at(t.slots.share.small.Add(smallLast))
	}
	if ready := t.slots.ready; len(ready) > 0 {
		_ = at(ready[0].taken.Add(readyFor))
	}
	if free := t.slots.room(now); free > 0 && nonEmpty && !t.stopped() && at(now.Add(held)) && (t.pacer == nil || at(t.pacer.NotBefore())) {
		if free >= min(enoughSlots, t.Slots/4+1) || at(t.polledAt.Add(linger)) {
			return 0, true, false
		}
	}
	return wait, false, done > 0 && (done >= mostDone || at(t.ended.Add(doneWithin)))
}

func (t *targetConsumer) wake() {
	select {
	case t.wakeC <- struct{}{}:
	default: // it has a wakeup that it has not seen yet
	}
}

func (t *targetConsumer) markAllNonEmpty() {
	t.mu.Lock()
	for _, q := range t.queues {
		q.maybeNonEmpty = true
	}
	t.mu.Unlock()
	t.wake()
}

// stopped reports whether the server stops.
func (t *targetConsumer) stopped() bool {
	select {
	case <-t.consumer.quit:
		return true
	default:
		return false
	}
}

// mayStart reports whether tasks may start now: otherwise they are given back.
func (t *targetConsumer) mayStart() bool {
	held, _ := t.Held()
	return held <= 0 && !t.stopped()
}

// unreported returns how many ended tasks are not reported yet.
func (t *targetConsumer) unreported() (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, q := range t.queues {
		n += q.unreported()
	}
	return n
}

// startOrGiveBack gives back the ready tasks of a target that is on hold, or that has
// become so slow that other workers may have slots sooner. Otherwise it starts those that could not be
// started when a slot became free.
func (t *targetConsumer) startOrGiveBack(held time.Duration) {
	var rest []*task
	t.mu.Lock()
	if held > 0 || len(t.slots.ready) > 0 && time.Since(t.slots.ready[0].taken) >= readyFor {
		rest = t.slots.takeReady()
	} else {
		t.slots.startReady()
	}
	t.mu.Unlock()
	giveBackAll(rest)
}

// takeRest takes away the tasks that no runner has begun, when the consumer has stopped. Idle runners end.
func (t *targetConsumer) takeRest() []*task {
	t.mu.Lock()
	defer t.mu.Unlock()
	rest := t.slots.takeReady()
	if t.pacer != nil {
		rest = append(rest, t.pacer.Unhanded()...)
	}
	handed := t.runners.stop()
	t.slots.addRunning(-len(handed))
	return append(rest, handed...)
}
