package consumer

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/hibiken/asynq"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/batcher"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/ledger"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
	"github.com/batchd/batchd/queue/throttle"
)

const (
	// mostTaken is the most tasks taken from a queue in one exchange.
	mostTaken = 128
	// mostPaced is the same for a target with a rate, whose tasks wait for their send
	// times for as long as some exchanges take.
	mostPaced = 1000
	// fewTaken is what it is worth to ask one of several queues for.
	fewTaken = 16
	// linger is the pause between two turns for which it is worth to wait, for more
	// places to become free; enoughPlaces are worth none.
	linger      = time.Millisecond
	enoughSlots = 12
	// doneWithin is how long asynq's entry of a task may outlast the task.
	doneWithin = 5 * time.Millisecond
	// mostDone is the number of ended tasks that are not waited with any longer.
	mostDone = 128
	// interactiveShare is the part of the places that go to interactive tasks, in
	// tenths, while both lanes wait.
	interactiveShare = 9
	// smallLast is how long small batches count as coming after one did. Meanwhile
	// large ones get, at a target that is fast, busyPlaces for each millisecond that
	// a task takes at the least, or fewBulk.
	smallLast = 500 * time.Millisecond
	busySlots = 24
	fewBulk   = 8
	// pollEvery is how often the queues are looked into although nobody said that
	// there is something in them: a word can be lost.
	pollEvery = 2 * time.Second
	// retryPause follows an exchange that failed.
	retryPause = 250 * time.Millisecond
	// shutdownTimeout is about how long a server that ends tries to tell what has ended.
	shutdownTimeout = time.Second
)

// consumer takes the tasks of actions from their queues, many in one exchange, has its
// runners run them, and ends them likewise. It leaves webhooks to asynq: see newWebhooks.
type consumer struct {
	s         *Consumers
	targets   []*targetConsumer
	queues    map[string]*taskQueue // by asynq queue
	forwarder *forwarder
	quit      chan struct{} // closed when nothing is taken any more
	closed    chan struct{} // closed when no task can end any more
	wg        sync.WaitGroup
	delays    sync.WaitGroup // tasks on their way to their runners
	runners   sync.WaitGroup
	action    func(id string, index int, place *Slot) error
	later     func(n int, err error, t *asynq.Task) time.Duration
	remove    func()
	silent    func()
}

// task is a task that was taken.
type task struct {
	queue *taskQueue
	id    string
	taken time.Time
	slot  Slot

	// Guarded by the line's mutex.
	running bool // it has a place
	moving  bool // it is being handed over or given back
	suspect bool // the last audit did not find it anywhere
}

// taskQueue is one asynq queue of a line.
type taskQueue struct {
	*targetConsumer
	name, prefix string
	bulk         bool
	message      tasks.MessageParts // of its tasks

	// Guarded by the line's mutex.
	maybeNonEmpty bool          // there may be tasks in it
	done          []string      // tasks that have ended, to be taken from asynq's books
	again         []tasks.Again // tasks that are to come again
	due           time.Time     // when tasks that wait in asynq's retry set are moved next; zero if none are known
	moves         bool          // an exchange that moves them is under way
	lost          bool          // there may be tasks that were taken and that nobody holds
	reporting     bool          // the sweeper is being told of that
	polling       bool          // a turn with it is under way
	wanted        int           // the tasks that this turn asks for
	failed        time.Time     // when it may be asked again, if the last turn with it failed
}

func newConsumer(s *Consumers, cfg ServerConfig) *consumer {
	t := &consumer{
		s: s, queues: make(map[string]*taskQueue), quit: make(chan struct{}), closed: make(chan struct{}),
		later: cfg.RetryDelayFunc,
	}
	t.forwarder = newForwarder(t)
	if t.later == nil {
		t.later = asynq.DefaultRetryDelayFunc
	}
	for _, c := range cfg.Targets {
		l := t.addTarget(c)
		for _, kind := range []batch.Lane{batch.Interactive, batch.Bulk} {
			for _, name := range s.tasks.QueuesOf(tasks.Route{Target: c.Name, Lane: kind}) {
				l.addQueue(name, kind == batch.Bulk)
			}
		}
	}
	return t
}

func (t *consumer) addTarget(c Target) *targetConsumer {
	if c.Held == nil {
		c.Held = func() (time.Duration, <-chan struct{}) { return 0, nil }
	}
	l := &targetConsumer{Target: c, t: t, share: share{slots: c.Slots}, wakeC: make(chan struct{}, 1)}
	l.polled = sync.NewCond(&l.mu)
	if l.Rate.N > 0 {
		l.pacer = l.newPacer()
	}
	l.out = make(chan *task, l.capacity())
	t.targets = append(t.targets, l)
	return l
}

func (l *targetConsumer) addQueue(name string, bulk bool) {
	q := &taskQueue{targetConsumer: l, name: name, prefix: tasks.AsynqPrefix(name), bulk: bulk, maybeNonEmpty: true, message: tasks.NewMessageTemplate(name, tasks.TaskAction).Around()}
	l.queues = append(l.queues, q)
	l.t.queues[name] = q
}

func (t *consumer) start(action func(id string, index int, place *Slot) error) {
	t.action = action
	t.remove = t.s.add(t)
	silentWork, silentHolders := t.s.pubsub.Listen(keys.WorkChannel, t.onWakeup), t.s.pubsub.Listen(keys.HoldersChannel, t.s.ledger.Restorer.AnswerQuestion)
	silentTasks := t.s.pubsub.Listen(keys.TasksChannel, t.askedForTasks)
	t.silent = func() { silentWork(); silentHolders(); silentTasks() }
	for _, l := range t.targets {
		t.wg.Go(l.run)
		if l.pacer != nil {
			t.wg.Go(func() { l.pacer.Run(t.quit, t.closed) })
		}
	}
	t.wg.Go(t.poll)
	t.wg.Go(t.forwarder.run)
	t.wg.Go(t.keepLeases)
	t.wg.Go(t.auditSlots)
	t.wg.Go(func() { t.s.ledger.Restorer.WatchHistory(t.closed) })
	warmer := &rdb.Warmer{DB: t.s.db, Connections: t.connections, Steps: []*rdb.Step{tasks.Steps.Poll, tasks.Steps.Offer, throttle.Steps.Reserve, ledger.Steps.Begin, ledger.Steps.Finish, ledger.Steps.Release, tasks.Steps.Requeue}}
	t.wg.Go(func() { warmer.Run(t.quit) })
}

func (t *consumer) stop() {
	select {
	case <-t.quit:
	default:
		close(t.quit)
		t.silent()
		t.remove()
	}
}

// giveBackRest gives back what nobody runs any more, and sends the runners home
// that have nothing to do.
func (t *consumer) giveBackRest() {
	for _, l := range t.targets { // a turn under way may still bring some
		l.pollMu.Lock()
		l.pollMu.Unlock() //nolint:staticcheck // that it was free is all that is asked
		l.awaitPolls()
	}
	t.delays.Wait()
	var rest []*task
	for _, l := range t.targets {
		rest = append(rest, l.takePrefetched()...)
		if l.pacer != nil {
			rest = append(rest, l.pacer.Unhanded()...)
		}
		rest = append(rest, l.unrun()...)
	}
	giveBackAll(rest)
}

func (t *consumer) close() {
	close(t.closed)
	t.wg.Wait()
}

// onWakeup takes the word of another process that a queue has tasks.
func (t *consumer) onWakeup(message string) {
	if origin, queue, _ := strings.Cut(message, " "); origin != t.s.db.Name {
		t.markNonEmpty(queue)
	}
}

// markNonEmpty notes that a queue may have tasks.
func (t *consumer) markNonEmpty(queue string) {
	if q := t.queues[queue]; q != nil {
		q.mu.Lock()
		q.maybeNonEmpty = true
		q.mu.Unlock()
		q.wake()
	}
}

func (l *targetConsumer) wake() {
	select {
	case l.wakeC <- struct{}{}:
	default: // it has a nudge that it did not see yet
	}
}

func (l *targetConsumer) markAllNonEmpty() {
	l.mu.Lock()
	for _, q := range l.queues {
		q.maybeNonEmpty = true
	}
	l.mu.Unlock()
	l.wake()
}

// poll looks into all queues from time to time while a batch is open.
func (t *consumer) poll() {
	for n := 0; ; n++ {
		select {
		case <-t.quit:
			return
		case <-time.After(pollEvery - pollEvery/8 + rand.N(pollEvery/4)): //nolint:gosec // jitter is no secret
		}
		open, _ := t.s.batches.Index.AnyOpen(context.Background())
		if !open {
			continue
		}
		for _, l := range t.targets {
			l.markAllNonEmpty()
			if l.pacer != nil {
				l.pacer.Probe(1)
			}
		}
		if n%forwardPolls == 0 {
			t.forwarder.lookAtAll()
		}
		if n%reapPolls == 0 {
			t.reap()
		}
	}
}

// end notes that a task has ended.
func (q *taskQueue) end(id string) {
	q.mu.Lock()
	q.noteEnd()
	q.done = append(q.done, id)
	q.mu.Unlock()
	q.wake()
}

// noteEnd notes that asynq's books are to be told something, with the lock held.
func (q *taskQueue) noteEnd() {
	for _, other := range q.queues {
		if other.unreported() > 0 {
			return
		}
	}
	q.ended = time.Now()
}

// unreported returns how many tasks asynq's books are still to be told of, with the lock held.
func (q *taskQueue) unreported() int { return len(q.done) + len(q.again) }

// spareConns is the number of connections for everything that is neither a begin, a finish, a poll nor a
// reservation.
const spareConns = 4

// connections returns how many connections to Redis a busy worker uses at a time.
func (t *consumer) connections(trip time.Duration) int {
	n := spareConns + batcher.MaxExchanges(trip)
	for _, l := range t.targets {
		if n++; l.pacer != nil {
			n += throttle.MostReserving
		}
	}
	return n
}
