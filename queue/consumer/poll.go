package consumer

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/queue/tasks"
	"github.com/batchd/batchd/queue/throttle"
)

// targetConsumer takes the tasks of one target.
type targetConsumer struct {
	Target
	t      *consumer
	pacer  *throttle.Pacer[*task] // nil for a target without a rate
	queues []*taskQueue
	wakeC  chan struct{}

	pollMu    sync.Mutex // held during a turn
	out       chan *task // to be run; it holds as many as can be
	mu        sync.Mutex
	runners   []*runner
	idle      int       // runners that wait for a task, those of tasks in out not counted
	shut      bool      // nothing is handed to runners any more
	ready     []*task   // taken ahead of their places
	inHand    int       // tasks that were taken and have not left their places
	inBulk    int       // of them, those of large batches
	running   int       // of them, those that have places
	finishing int       // tasks that have left their places and not ended
	share               // of the places
	polledAt  time.Time // when the last turn was
	ended     time.Time // when the first of the ended tasks did
	polling   int       // exchanges under way with single nodes of a cluster
	polled    *sync.Cond
	audit     audit
}

// run makes turns until no task can end any more.
func (l *targetConsumer) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var seen <-chan struct{}
	for {
		held, changed := l.Held()
		if changed != seen { // a pause of the queues may have ended with it
			seen = changed
			l.markAllNonEmpty()
		}
		l.startOrGiveBack(held)
		wait, take, end := l.next(held)
		if take || end {
			l.startPoll(take)
			continue
		}
		timer.Reset(wait)
		select {
		case <-l.wakeC:
		case <-timer.C:
		case <-changed:
		case <-l.t.closed:
			// What cannot be told now is found by asynq when the leases end.
			for since := time.Now(); time.Since(since) < shutdownTimeout; {
				l.poll(false)
				if l.unreported() == 0 {
					return
				}
				timer.Reset(retryPause)
				<-timer.C
			}
			return
		}
	}
}

func (l *targetConsumer) stopped() bool {
	select {
	case <-l.t.quit:
		return true
	default:
		return false
	}
}

// unreported returns how many tasks asynq's books are still to be told of.
func (l *targetConsumer) unreported() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, q := range l.queues {
		n += q.unreported()
	}
	return n
}

// next reports whether a turn is due, to take tasks or only to end some, and if
// not, when there may be one unless something happens.
func (l *targetConsumer) next(held time.Duration) (wait time.Duration, take, end bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	wait = time.Hour
	filled, done := false, 0
	bulkFree := l.bulkFree(now)
	at := func(t time.Time) bool {
		if left := t.Sub(now); left > 0 {
			wait = min(wait, left)
			return false
		}
		return true
	}
	for _, q := range l.queues {
		if q.polling || (q.maybeNonEmpty || q.unreported() > 0) && !at(q.failed) {
			continue
		}
		filled = filled || q.maybeNonEmpty && (!q.bulk || bulkFree > 0)
		done += q.unreported()
	}
	if bulkFree <= 0 {
		_ = at(l.small.Add(smallLast))
	}
	if len(l.ready) > 0 {
		_ = at(l.ready[0].taken.Add(readyFor))
	}
	if free := l.room(now); free > 0 && filled && !l.stopped() && at(now.Add(held)) && (l.pacer == nil || at(l.pacer.NotBefore())) {
		if free >= min(enoughSlots, l.Slots/4+1) || at(l.polledAt.Add(linger)) {
			return 0, true, false
		}
	}
	return wait, false, done > 0 && (done >= mostDone || at(l.ended.Add(doneWithin)))
}

// poll makes a turn, and returns when it is made.
func (l *targetConsumer) poll(take bool) {
	l.startPoll(take)
	l.awaitPolls()
}

// startPoll takes what has ended from asynq's books and, if it is told to, takes as
// many tasks as there are places for. On a cluster it does not wait for the replies: each
// node is asked on its own, so that one that does not answer keeps no other from it.
func (l *targetConsumer) startPoll(take bool) {
	l.pollMu.Lock()
	defer l.pollMu.Unlock()
	parts := l.plan(take && !l.stopped())
	if len(parts) == 0 {
		return
	}
	if l.t.s.db.Cluster == nil {
		l.exchange(parts)
		return
	}
	byNode := make(map[*redis.Client][]*part)
	for _, p := range parts {
		node := l.t.s.db.NodeOf(context.Background(), p.prefix)
		byNode[node] = append(byNode[node], p)
	}
	l.mu.Lock()
	l.polling += len(byNode)
	l.mu.Unlock()
	for _, parts := range byNode {
		go func() {
			l.exchange(parts)
			l.mu.Lock()
			l.polling--
			l.polled.Broadcast()
			l.mu.Unlock()
			l.wake()
		}()
	}
}

// awaitPolls waits for the exchanges under way with single nodes.
func (l *targetConsumer) awaitPolls() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.polling > 0 {
		l.polled.Wait()
	}
}

// exchange makes a turn in one exchange.
func (l *targetConsumer) exchange(parts []*part) {
	ctx, cancel := l.t.s.db.WithTimeout(context.Background())
	defer cancel()
	pipe := l.t.s.db.Client.Pipeline()
	times := l.reserveAfterPoll(parts)
	l.add(ctx, pipe, parts)
	times.add(ctx, pipe)
	l.t.s.db.Send(ctx, pipe)
	received := time.Now()
	times.read(received, l.read(ctx, parts))
}

// add adds a turn to a pipeline.
func (l *targetConsumer) add(ctx context.Context, pipe redis.Pipeliner, parts []*part) {
	for _, p := range parts {
		p.Add(ctx, pipe)
	}
}

// read reads the answers, and returns how many tasks were taken.
func (l *targetConsumer) read(ctx context.Context, parts []*part) (taken int) {
	for _, p := range parts {
		ids, more, err := p.Read(ctx, l.t.s.db)
		taken += l.apply(p, ids, more, err)
		l.mu.Lock()
		p.polling = false // not before: what it gave back is to be taken first
		l.mu.Unlock()
	}
	return taken
}

// part is what a turn does with one queue.
type part struct {
	*taskQueue
	tasks.Poll
}

// plan divides the free places among the queues that may have tasks.
func (l *targetConsumer) plan(take bool) []*part {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.polledAt = time.Now()
	bulkFree := l.bulkFree(l.polledAt)
	free := 0
	if take {
		free = max(0, l.room(l.polledAt)) // fewer than next saw, if fewer leave their places now
	}
	cluster := l.t.s.db.Cluster != nil
	queues := make([]queueState, len(l.queues))
	for i, q := range l.queues {
		queues[i] = queueState{bulk: q.bulk, waits: q.maybeNonEmpty && !q.polling && (!cluster || !l.polledAt.Before(q.failed)), most: l.mostTaken()}
		if cluster && !q.failed.IsZero() {
			queues[i].most = 1 // slots that wait for a node in vain are no other's
		}
	}
	wants := divide(free, bulkFree, queues, anyLot{})
	var parts []*part
	for i, q := range l.queues {
		if q.polling || wants[i] == 0 && q.unreported() == 0 {
			continue
		}
		n, m := min(len(q.done), tasks.MostEnded), min(len(q.again), tasks.MostEnded)
		p := &part{q, tasks.Poll{Queue: q.name, Want: wants[i], FIFO: q.FIFO, Message: q.message, Ended: slices.Clip(q.done[:n]), Again: slices.Clip(q.again[:m])}}
		q.done, q.again = q.done[n:], q.again[m:]
		for i := range p.Again {
			p.Again[i].Wait = max(0, p.Again[i].At.Sub(l.polledAt)).Round(time.Microsecond)
		}
		if slices.ContainsFunc(p.Again, tasks.Again.AtOnce) {
			p.Wakeup = l.t.s.tasks.Wakeup(q.name)
		}
		q.polling = true
		if p.Want > 0 {
			q.maybeNonEmpty = false // unless it turns out to hold more, or somebody says so meanwhile
			q.wanted = p.Want
			l.count(q, p.Want)
		}
		parts = append(parts, p)
	}
	return parts
}

// count counts tasks in hand, with the lock held.
func (l *targetConsumer) count(q *taskQueue, n int) {
	l.inHand += n
	if q.bulk {
		l.inBulk += n
	}
}

// room returns how many more tasks may be taken, with the lock held.
func (l *targetConsumer) room(now time.Time) int {
	if l.pacer != nil {
		return min(l.capacity()-l.inHand, l.pacer.Fitting(now))
	}
	return l.Slots + l.prefetch(now) - l.inHand
}

// mostTaken is the most tasks taken from a queue in one exchange.
func (l *targetConsumer) mostTaken() int {
	if l.pacer != nil {
		return mostPaced
	}
	return mostTaken
}

// bulkFree returns how many more tasks of large batches may be taken, with the lock held.
func (l *targetConsumer) bulkFree(now time.Time) int {
	if l.pacer != nil { // what waits for its send time keeps no processor busy
		return l.capacity() - l.inBulk
	}
	return l.bulkMost(now) - l.inBulk
}

// apply notes what a turn brought from one queue, and returns how many tasks that is.
func (l *targetConsumer) apply(p *part, ids []string, more bool, err error) int {
	now := time.Now()
	tasks := make([]*task, len(ids))
	for i, id := range ids {
		tasks[i] = &task{queue: p.taskQueue, id: id, taken: now, slot: Slot{queue: p.taskQueue}}
	}
	l.mu.Lock()
	p.wanted = 0
	l.count(p.taskQueue, len(tasks)-p.Want)
	l.audit.add(tasks)
	if l.Rate.N > 0 {
		for _, k := range tasks {
			k.moving = true
		}
	}
	if len(tasks) > 0 && !p.bulk {
		l.small = now
	}
	if err != nil {
		if p.Want > 0 {
			p.reportMissed() // Redis may have handed out some
		}
		p.done = append(p.Ended, p.done...)
		p.again = append(p.Again, p.again...)
		p.maybeNonEmpty = true
		p.failed = now.Add(retryPause)
	} else {
		p.failed = time.Time{}
		p.maybeNonEmpty = p.maybeNonEmpty || more
		for _, k := range p.Again {
			if k.AtOnce() {
				p.maybeNonEmpty = true
			} else {
				p.waits(now.Add(k.Wait + time.Millisecond)) // Redis counted from a moment before now, and rounded up
			}
		}
	}
	l.mu.Unlock()
	if err != nil {
		l.t.s.log.Warn("tasks not taken", "queue", p.name, "error", err)
		return 0
	}
	switch {
	case len(tasks) == 0:
	case l.pacer != nil:
		l.pacer.Add(tasks)
	default:
		l.mu.Lock()
		l.ready = append(l.ready, tasks...)
		l.startReady()
		l.mu.Unlock()
	}
	return len(tasks)
}
