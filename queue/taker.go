package queue

import (
	"context"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
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
	// mostEnded is the most that one exchange takes from a queue's books: Lua passes
	// on no more than some thousand arguments.
	mostEnded = 1000
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
	// idlePolls is after how many of them the queues are looked into although no
	// batch is open: webhooks outlive their batches.
	idlePolls = 2
	// takerPause follows an exchange that failed.
	takerPause = 250 * time.Millisecond
	// lastPatience is about how long a server that ends tries to tell what has ended.
	lastPatience = time.Second
	// dequeueWait bounds how long asynq waits for a task. It reckons the lease from
	// before.
	dequeueWait = time.Second
	// asynqLease and asynqStats are asynq's own: how long a taken task may go without
	// a word of its server, and how long it keeps the counts of a day.
	asynqLease = 30 * time.Second
	asynqStats = 90 * 24 * time.Hour
)

// taker takes tasks from the queues, many in one exchange, and ends them likewise.
// It has its runners run those of actions. Webhooks it hands to an asynq server,
// whose client of Redis it is: it answers asynq's own steps for taking and ending a
// task. All else goes through.
type taker struct {
	redis.UniversalClient
	s       *Store
	lines   []*line
	lanes   map[string]*lane // by asynq queue
	hooks   *line            // webhooks
	quit    chan struct{}    // closed when nothing is taken any more
	closed  chan struct{}    // closed when no task can end any more
	wg      sync.WaitGroup
	delays  sync.WaitGroup // tasks on their way to their runners
	runners sync.WaitGroup
	action  func(id string, index int, place *Place) error
	later   func(n int, err error, t *asynq.Task) time.Duration
	busy    atomic.Bool // there are open batches
	remove  func()
	silent  func()
}

// task is a task that was taken.
type task struct {
	lane    *lane
	id      string
	message string // of a webhook
	taken   time.Time
	place   Place

	// Guarded by the line's mutex.
	seated  bool // it has a place
	moving  bool // it is being handed over or given back
	started bool // a webhook's: its handler was called
	suspect bool // the last audit did not find it anywhere
}

// again is a task that is to come again at a time, in unix seconds, or at once if that is zero.
type again struct {
	id string
	at int64
}

func (k again) atOnce() bool { return k.at == 0 }

// lane is one asynq queue of a line.
type lane struct {
	*line
	name, prefix string
	bulk         bool

	// Guarded by the line's mutex.
	filled  bool     // there may be tasks in it
	done    []string // tasks that have ended, to be taken from asynq's books
	again   []again  // tasks that are to come again
	retries map[int64]struct{}
	looked  time.Time // when waiting retries were last looked through
	lost    bool      // there may be tasks that were taken and that nobody holds
	telling bool      // the sweeper is being told of that
	polling bool      // a turn with it is under way
	wanted  int       // the tasks that this turn asks for
	failed  time.Time // when it may be asked again, if the last turn with it failed
}

func newTaker(s *Store, cfg ServerConfig) *taker {
	t := &taker{
		UniversalClient: s.rdb, s: s, lanes: make(map[string]*lane), quit: make(chan struct{}), closed: make(chan struct{}),
		later: cfg.RetryDelayFunc,
	}
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
	t.hooks = t.add(Line{Places: cfg.WebhookPlaces})
	t.hooks.addLane(WebhookQueue, false)
	return t
}

func (t *taker) add(c Line) *line {
	if c.Held == nil {
		c.Held = func() (time.Duration, <-chan struct{}) { return 0, nil }
	}
	l := &line{Line: c, t: t, nudge: make(chan struct{}, 1)}
	l.polled = sync.NewCond(&l.mu)
	if l.Rate.N > 0 {
		l.pacer = l.newPacer()
	}
	l.out = make(chan *task, l.capacity())
	t.lines = append(t.lines, l)
	return l
}

func (l *line) addLane(name string, bulk bool) {
	q := &lane{line: l, name: name, prefix: asynqPrefix(name), bulk: bulk, filled: true, retries: make(map[int64]struct{})}
	l.lanes = append(l.lanes, q)
	l.t.lanes[name] = q
}

// asynqPrefix is what the keys of an asynq queue begin with.
func asynqPrefix(queue string) string { return "asynq:{" + queue + "}:" }

func (t *taker) start(action func(id string, index int, place *Place) error) {
	t.action = action
	t.remove = t.s.addTaker(t)
	silentWork, silentHolders := t.s.notices.hear(workChannel, t.heard), t.s.notices.hear(holdersChannel, t.s.asked)
	silentTasks := t.s.notices.hear(tasksChannel, t.askedForTasks)
	t.silent = func() { silentWork(); silentHolders(); silentTasks() }
	for _, l := range t.lines {
		t.wg.Go(l.run)
		if l.pacer != nil {
			t.wg.Go(func() { l.pacer.run(t.quit, t.closed) })
		}
	}
	t.wg.Go(t.poll)
	t.wg.Go(t.keepLeases)
	t.wg.Go(t.auditSlots)
	t.wg.Go(t.watchHistory)
	t.wg.Go(t.keepWarm)
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
	if origin, queue, _ := strings.Cut(message, " "); origin != t.s.name {
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

// poll looks into all queues from time to time.
func (t *taker) poll() {
	for n := 0; ; n++ {
		select {
		case <-t.quit:
			return
		case <-time.After(pollEvery - pollEvery/8 + rand.N(pollEvery/4)): //nolint:gosec // jitter is no secret
		}
		open, err := t.s.open(context.Background())
		t.busy.Store(open || err != nil)
		for _, l := range t.lines {
			if open || (n%idlePolls == 0 && l.Target == "") {
				l.markAll()
			}
			if open && l.pacer != nil {
				l.pacer.probe(1)
			}
		}
	}
}

// asynq's handler, of webhooks, which knows of places.
func (t *taker) seating(h asynq.HandlerFunc) asynq.Handler {
	return asynq.HandlerFunc(func(ctx context.Context, k *asynq.Task) error {
		id, _ := asynq.GetTaskID(ctx)
		place := t.hooks.webhook(id)
		defer place.end()
		return h(ctx, k) //nolint:wrapcheck // asynq is to see the handler's own
	})
}

// webhook returns the place of a webhook's task that is now run.
func (l *line) webhook(id string) *Place {
	l.mu.Lock()
	defer l.mu.Unlock()
	place := l.audit.webhook(id)
	if place == nil { // it was given up as lost, and was not
		k := &task{lane: l.lanes[0], id: id, place: Place{lane: l.lanes[0]}, seated: true, started: true}
		l.audit.took([]*task{k})
		l.count(k.lane, 1)
		l.sit(1)
		place = &k.place
	}
	place.since = time.Now()
	return place
}

// EvalSha answers asynq's steps for taking and ending tasks, and lets all else through.
func (t *taker) EvalSha(ctx context.Context, sha string, keys []string, args ...any) *redis.Cmd {
	return t.eval(ctx, keys, args, func() *redis.Cmd { return t.UniversalClient.EvalSha(ctx, sha, keys, args...) })
}

// Eval does so for steps that come by their text.
func (t *taker) Eval(ctx context.Context, script string, keys []string, args ...any) *redis.Cmd {
	return t.eval(ctx, keys, args, func() *redis.Cmd { return t.UniversalClient.Eval(ctx, script, keys, args...) })
}

// eval tells asynq's steps by their keys: its scripts have no names.
func (t *taker) eval(ctx context.Context, keys []string, args []any, through func() *redis.Cmd) *redis.Cmd {
	if len(keys) == 0 {
		return through()
	}
	queue, word := asynqKey(keys[0])
	q := t.lanes[queue]
	if q == nil {
		return through()
	}
	is := func(n int, words ...string) bool {
		if len(keys) != n || word != words[0] {
			return false
		}
		for i, want := range words {
			if of, word := asynqKey(keys[i]); of != queue || word != want {
				return false
			}
		}
		return true
	}
	switch {
	case is(4, "pending", "paused", "active", "lease"):
		return t.dequeue(ctx)
	case is(5, "active", "lease", "t") && len(args) == 3:
		q.end(text(args[0]))
		return redis.NewCmdResult("OK", nil)
	case is(8, "t", "active", "lease", "retry") && len(args) == 6:
		cmd := through() // who looks for the task before this is done does not find it
		at, err := strconv.ParseInt(text(args[2]), 10, 64)
		switch {
		case err != nil:
		case redis.HasErrorPrefix(cmd.Err(), "NOSCRIPT"): // asynq sends the text next
		case isUnavailable(mapError(ctx, cmd.Err())):
			// asynq repeats it with a context that has ended, and leaves the task to its lease.
			q.putAside(text(args[0]), at)
			return redis.NewCmdResult("OK", nil)
		default:
			q.mu.Lock()
			q.retries[at] = struct{}{}
			q.mu.Unlock()
		}
		return cmd
	case is(2, "scheduled", "pending"), is(2, "retry", "pending"):
		if !q.look(word == "retry") {
			return redis.NewCmdResult(int64(0), nil)
		}
		cmd := through()
		if n, err := cmd.Int(); err != nil || n > 0 {
			t.mark(queue)
			q.mu.Lock()
			q.retries[time.Now().Unix()] = struct{}{} // there may be more
			q.mu.Unlock()
		}
		return cmd
	default:
		return through()
	}
}

// dequeue is asynq's asking for a task.
func (t *taker) dequeue(ctx context.Context) *redis.Cmd {
	timer := time.NewTimer(dequeueWait)
	defer timer.Stop()
	select {
	case k, ok := <-t.hooks.out:
		if ok {
			return redis.NewCmdResult(k.message, nil)
		}
	case <-timer.C:
	case <-t.quit:
	case <-ctx.Done():
	}
	return redis.NewCmdResult(nil, redis.Nil)
}

// end notes that a task has ended.
func (q *lane) end(id string) {
	q.mu.Lock()
	q.noteEnd()
	q.done = append(q.done, id)
	q.mu.Unlock()
	q.wake()
}

// putAside notes that a task is to come again at a time, in unix seconds.
func (q *lane) putAside(id string, at int64) {
	q.mu.Lock()
	q.noteEnd()
	q.again = append(q.again, again{id, at})
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

// look reports whether tasks that wait for a later attempt are to be looked
// through: because one that waits here is due, or because it is time to look
// for those of workers that are gone.
func (q *lane) look(retry bool) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	due := false
	if retry {
		for at := range q.retries {
			if at <= now.Unix() {
				due = true
				delete(q.retries, at)
			}
		}
	}
	// Those of workers that are gone: where no batch is open, there are none.
	if every := idlePolls * pollEvery; q.Target == "" || q.t.busy.Load() {
		due = due || retry && now.Sub(q.looked) >= every
	}
	if due {
		q.looked = now
	}
	return due
}
