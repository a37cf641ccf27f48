package queue

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/hibiken/asynq"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/rdb"
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
	linger       = time.Millisecond
	enoughPlaces = 12
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
	smallLast  = 500 * time.Millisecond
	busyPlaces = 24
	fewBulk    = 8
	// pollEvery is how often the queues are looked into although nobody said that
	// there is something in them: a word can be lost.
	pollEvery = 2 * time.Second
	// takerPause follows an exchange that failed.
	takerPause = 250 * time.Millisecond
	// lastPatience is about how long a server that ends tries to tell what has ended.
	lastPatience = time.Second
)

// taker takes the tasks of actions from their queues, many in one exchange, has its
// runners run them, and ends them likewise. It leaves webhooks to asynq: see newWebhooks.
type taker struct {
	s         *Store
	lines     []*line
	lanes     map[string]*lane // by asynq queue
	forwarder *forwarder
	quit      chan struct{} // closed when nothing is taken any more
	closed    chan struct{} // closed when no task can end any more
	wg        sync.WaitGroup
	delays    sync.WaitGroup // tasks on their way to their runners
	runners   sync.WaitGroup
	action    func(id string, index int, place *Place) error
	later     func(n int, err error, t *asynq.Task) time.Duration
	remove    func()
	silent    func()
}

// task is a task that was taken.
type task struct {
	lane  *lane
	id    string
	taken time.Time
	place Place

	// Guarded by the line's mutex.
	seated  bool // it has a place
	moving  bool // it is being handed over or given back
	suspect bool // the last audit did not find it anywhere
}

// lane is one asynq queue of a line.
type lane struct {
	*line
	name, prefix string
	bulk         bool
	message      MessageParts // of its tasks

	// Guarded by the line's mutex.
	filled  bool      // there may be tasks in it
	done    []string  // tasks that have ended, to be taken from asynq's books
	again   []Again   // tasks that are to come again
	due     time.Time // when tasks that wait in asynq's retry set are moved next; zero if none are known
	moves   bool      // an exchange that moves them is under way
	lost    bool      // there may be tasks that were taken and that nobody holds
	telling bool      // the sweeper is being told of that
	polling bool      // a turn with it is under way
	wanted  int       // the tasks that this turn asks for
	failed  time.Time // when it may be asked again, if the last turn with it failed
}

func newTaker(s *Store, cfg ServerConfig) *taker {
	t := &taker{
		s: s, lanes: make(map[string]*lane), quit: make(chan struct{}), closed: make(chan struct{}),
		later: cfg.RetryDelayFunc,
	}
	t.forwarder = newForwarder(t)
	if t.later == nil {
		t.later = asynq.DefaultRetryDelayFunc
	}
	for _, c := range cfg.Lines {
		l := t.add(c)
		for _, kind := range []batch.Lane{batch.Interactive, batch.Bulk} {
			for _, name := range s.queuesOf(route{c.Target, kind}) {
				l.addLane(name, kind == batch.Bulk)
			}
		}
	}
	return t
}

func (t *taker) add(c Line) *line {
	if c.Held == nil {
		c.Held = func() (time.Duration, <-chan struct{}) { return 0, nil }
	}
	l := &line{Line: c, t: t, share: share{slots: c.Places}, nudge: make(chan struct{}, 1)}
	l.polled = sync.NewCond(&l.mu)
	if l.Rate.N > 0 {
		l.pacer = l.newPacer()
	}
	l.out = make(chan *task, l.capacity())
	t.lines = append(t.lines, l)
	return l
}

func (l *line) addLane(name string, bulk bool) {
	q := &lane{line: l, name: name, prefix: asynqPrefix(name), bulk: bulk, filled: true, message: newMessageTemplate(name, TaskAction).around()}
	l.lanes = append(l.lanes, q)
	l.t.lanes[name] = q
}

// asynqPrefix is what the keys of an asynq queue begin with.
func asynqPrefix(queue string) string { return "asynq:{" + queue + "}:" }

func (t *taker) start(action func(id string, index int, place *Place) error) {
	t.action = action
	t.remove = t.s.addTaker(t)
	silentWork, silentHolders := t.s.pubsub.Listen(workChannel, t.heard), t.s.pubsub.Listen(holdersChannel, t.s.asked)
	silentTasks := t.s.pubsub.Listen(tasksChannel, t.askedForTasks)
	t.silent = func() { silentWork(); silentHolders(); silentTasks() }
	for _, l := range t.lines {
		t.wg.Go(l.run)
		if l.pacer != nil {
			t.wg.Go(func() { l.pacer.run(t.quit, t.closed) })
		}
	}
	t.wg.Go(t.poll)
	t.wg.Go(t.forwarder.run)
	t.wg.Go(t.keepLeases)
	t.wg.Go(t.auditSlots)
	t.wg.Go(func() { t.s.watchHistory(t.closed) })
	warmer := &rdb.Warmer{DB: t.s.db, Connections: t.connections, Steps: []*rdb.Step{pollStep, t.s.steps.offer, t.s.steps.reserve, t.s.steps.begin, t.s.steps.finish, t.s.steps.release, t.s.steps.requeue}}
	t.wg.Go(func() { warmer.Run(t.quit) })
}

func (t *taker) stop() {
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
func (t *taker) giveBackRest() {
	for _, l := range t.lines { // a turn under way may still bring some
		l.turning.Lock()
		l.turning.Unlock() //nolint:staticcheck // that it was free is all that is asked
		l.awaitPolls()
	}
	t.delays.Wait()
	var rest []*task
	for _, l := range t.lines {
		rest = append(rest, l.unready()...)
		if l.pacer != nil {
			rest = append(rest, l.pacer.unhanded()...)
		}
		rest = append(rest, l.unrun()...)
	}
	giveBackAll(rest)
}

func (t *taker) close() {
	close(t.closed)
	t.wg.Wait()
}

// heard takes the word of another process that a queue has tasks.
func (t *taker) heard(message string) {
	if origin, queue, _ := strings.Cut(message, " "); origin != t.s.db.Name {
		t.mark(queue)
	}
}

// mark notes that a queue may have tasks.
func (t *taker) mark(queue string) {
	if q := t.lanes[queue]; q != nil {
		q.mu.Lock()
		q.filled = true
		q.mu.Unlock()
		q.wake()
	}
}

func (l *line) wake() {
	select {
	case l.nudge <- struct{}{}:
	default: // it has a nudge that it did not see yet
	}
}

func (l *line) markAll() {
	l.mu.Lock()
	for _, q := range l.lanes {
		q.filled = true
	}
	l.mu.Unlock()
	l.wake()
}

// poll looks into all queues from time to time while a batch is open.
func (t *taker) poll() {
	for n := 0; ; n++ {
		select {
		case <-t.quit:
			return
		case <-time.After(pollEvery - pollEvery/8 + rand.N(pollEvery/4)): //nolint:gosec // jitter is no secret
		}
		open, _ := t.s.open(context.Background())
		if !open {
			continue
		}
		for _, l := range t.lines {
			l.markAll()
			if l.pacer != nil {
				l.pacer.probe(1)
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
func (q *lane) end(id string) {
	q.mu.Lock()
	q.noteEnd()
	q.done = append(q.done, id)
	q.mu.Unlock()
	q.wake()
}

// noteEnd notes that asynq's books are to be told something, with the lock held.
func (q *lane) noteEnd() {
	for _, other := range q.lanes {
		if other.untold() > 0 {
			return
		}
	}
	q.ended = time.Now()
}

// untold returns how many tasks asynq's books are still to be told of, with the lock held.
func (q *lane) untold() int { return len(q.done) + len(q.again) }

// spareConns is the number of connections for everything that is neither a begin, a finish, a poll nor a
// reservation.
const spareConns = 4

// connections returns how many connections to Redis a busy worker uses at a time.
func (t *taker) connections(trip time.Duration) int {
	n := spareConns + exchangesAtATime(trip)
	for _, l := range t.lines {
		if n++; l.pacer != nil {
			n += mostAsking
		}
	}
	return n
}
