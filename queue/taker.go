package queue

import (
	"context"
	"math/rand/v2"
	"slices"
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
	// fewTaken is what it is worth to ask one of several queues for.
	fewTaken = 16
	// linger is the pause between two turns for which it is worth to wait, for more
	// places to become free; enoughPlaces are worth none.
	linger       = time.Millisecond
	enoughPlaces = 32
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
	// horizon is how far ahead a place at a target's rate may be for its task to be
	// taken from the queue.
	horizon = 500 * time.Millisecond
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

// taker takes tasks from the queues and hands them to an asynq server, whose
// client of Redis it is: it answers asynq's own steps for taking and ending a
// task, and does both for many tasks in one exchange. All else goes through.
type taker struct {
	redis.UniversalClient
	s      *Store
	lines  []*line
	lanes  map[string]*lane // by asynq queue
	out    chan *task       // for asynq; it holds as many as there are places
	quit   chan struct{}    // closed when nothing is taken any more
	closed chan struct{}    // closed when no task can end any more
	wg     sync.WaitGroup
	delays sync.WaitGroup // tasks on their way to out
	busy   atomic.Bool    // there are open batches
	remove func()
	silent func()
}

// task is a task that was taken.
type task struct {
	lane        *lane
	id, message string
}

// lane is one asynq queue of a line.
type lane struct {
	*line
	name, prefix string
	bulk         bool

	// Guarded by the line's mutex.
	filled  bool     // there may be tasks in it
	done    []string // tasks that have ended, to be taken from asynq's books
	retries map[int64]struct{}
	looked  time.Time // when waiting retries were last looked through
}

// line takes the tasks of one target, or webhooks.
type line struct {
	Line
	t     *taker
	lanes []*lane
	nudge chan struct{}

	turning   sync.Mutex // held during a turn
	mu        sync.Mutex
	inHand    int
	inBulk    int       // of them, those of large batches
	small     time.Time // when tasks of small batches were last taken
	fastest   lowest    // how long a task takes at the least
	turned    time.Time // when the last turn was
	ended     time.Time // when the first of the ended tasks did
	notBefore time.Time // when tasks may be taken again, by the target's rate
	failed    time.Time // when Redis may be asked again
}

func newTaker(s *Store, cfg ServerConfig) *taker {
	t := &taker{UniversalClient: s.rdb, s: s, lanes: make(map[string]*lane), quit: make(chan struct{}), closed: make(chan struct{})}
	places := cfg.WebhookPlaces
	for _, c := range cfg.Lines {
		l := t.add(c)
		for _, kind := range []batch.Lane{batch.Interactive, batch.Bulk} {
			for _, name := range s.queuesOf(route{c.Target, kind}) {
				l.addLane(name, kind == batch.Bulk)
			}
		}
		places += c.Places
	}
	t.add(Line{Places: cfg.WebhookPlaces}).addLane(WebhookQueue, false)
	t.out = make(chan *task, places)
	return t
}

func (t *taker) add(c Line) *line {
	if c.Held == nil {
		c.Held = func() (time.Duration, <-chan struct{}) { return 0, nil }
	}
	l := &line{Line: c, t: t, nudge: make(chan struct{}, 1)}
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

func (t *taker) start() {
	t.remove = t.s.addTaker(t)
	t.silent = t.s.notices.hear(workChannel, t.heard)
	for _, l := range t.lines {
		t.wg.Go(l.run)
	}
	t.wg.Go(t.poll)
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

// giveBackRest gives back what asynq will not ask for any more.
func (t *taker) giveBackRest() {
	for _, l := range t.lines { // a turn under way may still bring some
		l.turning.Lock()
		l.turning.Unlock() //nolint:staticcheck // that it was free is all that is asked
	}
	t.delays.Wait()
	rest := make(map[*lane][]*task)
	for len(t.out) > 0 {
		k := <-t.out
		rest[k.lane] = append(rest[k.lane], k)
	}
	for q, tasks := range rest {
		q.giveBack(tasks)
	}
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
		}
	}
}

// run makes turns until no task can end any more.
func (l *line) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var seen <-chan struct{}
	for {
		held, changed := l.Held()
		if changed != seen { // a pause of the queues may have ended with it
			seen = changed
			l.markAll()
		}
		wait, take, end := l.next(held)
		if take || end {
			l.turn(take)
			continue
		}
		timer.Reset(wait)
		select {
		case <-l.nudge:
		case <-timer.C:
		case <-changed:
		case <-l.t.closed:
			// What cannot be told now is found by asynq when the leases end.
			for since := time.Now(); time.Since(since) < lastPatience; {
				if l.turn(false); len(l.booked()) == 0 {
					return
				}
				timer.Reset(takerPause)
				<-timer.C
			}
			return
		}
	}
}

func (l *line) stopped() bool {
	select {
	case <-l.t.quit:
		return true
	default:
		return false
	}
}

// booked returns the ids of tasks that have ended and stand in asynq's books.
func (l *line) booked() (ids []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, q := range l.lanes {
		ids = append(ids, q.done...)
	}
	return ids
}

// next reports whether a turn is due, to take tasks or only to end some, and if
// not, when there may be one unless something happens.
func (l *line) next(held time.Duration) (wait time.Duration, take, end bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	wait = time.Hour
	filled, done := false, 0
	bulkFree := l.bulkFree(now)
	for _, q := range l.lanes {
		filled = filled || q.filled && (!q.bulk || bulkFree > 0)
		done += len(q.done)
	}
	at := func(t time.Time) bool {
		if left := t.Sub(now); left > 0 {
			wait = min(wait, left)
			return false
		}
		return true
	}
	if bulkFree <= 0 {
		_ = at(l.small.Add(smallLast))
	}
	if free := l.Places - l.inHand; free > 0 && filled && !l.stopped() && at(now.Add(held)) && at(l.notBefore) && at(l.failed) {
		if free >= min(enoughPlaces, l.Places/4+1) || at(l.turned.Add(linger)) {
			return 0, true, false
		}
	}
	return wait, false, done > 0 && (done >= mostDone || at(l.ended.Add(doneWithin))) && at(l.failed)
}

// turn takes what has ended from asynq's books and, if it is told to, takes as
// many tasks as there are places for.
func (l *line) turn(take bool) {
	l.turning.Lock()
	defer l.turning.Unlock()
	lanes := l.plan(take && !l.stopped())
	if len(lanes) == 0 {
		return
	}
	ctx, cancel := l.t.s.within(context.Background())
	defer cancel()
	cmds := make([]*redis.Cmd, len(lanes))
	pipe := l.t.s.rdb.Pipeline()
	for i, p := range lanes {
		cmds[i] = pipe.EvalSha(ctx, l.t.s.steps.turn.Hash(), p.keys(), p.args()...)
	}
	send(ctx, pipe)
	for i, p := range lanes {
		cmd := l.t.s.answer(ctx, l.t.s.steps.turn, cmds[i])
		l.took(p, cmd, mapError(ctx, cmd.Err()))
	}
}

// part is what a turn does with one queue.
type part struct {
	*lane
	want  int
	ended []string
}

func (p *part) keys() []string {
	return []string{
		p.prefix + "pending", p.prefix + "paused", p.prefix + "active", p.prefix + "lease",
		p.prefix + "processed:" + time.Now().UTC().Format(time.DateOnly), p.prefix + "processed",
	}
}

func (p *part) args() []any {
	args := make([]any, 0, 4+len(p.ended))
	args = append(args, p.prefix+"t:", int(asynqLease.Seconds()), time.Now().Add(asynqStats).Unix(), p.want)
	for _, id := range p.ended {
		args = append(args, id)
	}
	return args
}

// plan divides the free places among the queues that may have tasks.
func (l *line) plan(take bool) []*part {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.turned = time.Now()
	bulkFree := l.bulkFree(l.turned)
	free := 0
	if take {
		free = min(l.Places-l.inHand, l.fitting())
	}
	var waiting [2][]*lane
	for _, q := range l.lanes {
		if q.filled {
			kind := 0
			if q.bulk {
				kind = 1
			}
			waiting[kind] = append(waiting[kind], q)
		}
	}
	share := [2]int{free, min(free, max(bulkFree, 0))}
	if len(waiting[0]) > 0 && len(waiting[1]) > 0 {
		most := free - free*interactiveShare/10
		if rand.IntN(10) < free*interactiveShare%10 { //nolint:gosec // a lot, no secret
			most--
		}
		share[1] = min(share[1], most)
		share[0] = free - share[1]
	}
	wants := make(map[*lane]int, len(l.lanes))
	for kind, lanes := range waiting {
		rand.Shuffle(len(lanes), func(i, j int) { lanes[i], lanes[j] = lanes[j], lanes[i] }) //nolint:gosec // an order, no secret
		for i, q := range lanes {
			wants[q] = min(max(share[kind]/(len(lanes)-i), fewTaken), share[kind], mostTaken)
			share[kind] -= wants[q]
		}
	}
	var parts []*part
	for _, q := range l.lanes {
		if wants[q] == 0 && len(q.done) == 0 {
			continue
		}
		n := min(len(q.done), mostEnded)
		p := &part{lane: q, want: wants[q], ended: slices.Clip(q.done[:n])}
		q.done = q.done[n:]
		if p.want > 0 {
			q.filled = false // unless it turns out to hold more, or somebody says so meanwhile
			l.count(q, p.want)
		}
		parts = append(parts, p)
	}
	return parts
}

// count counts tasks in hand, with the lock held.
func (l *line) count(q *lane, n int) {
	l.inHand += n
	if q.bulk {
		l.inBulk += n
	}
}

// bulkFree returns how many more tasks of large batches may be taken, with the lock
// held. While small ones come, too, the large ones get only as many places as keep
// the processors busy: all tasks that wait in line there wait for one another. A target
// that takes its time keeps them busy with less, so it has all its places.
func (l *line) bulkFree(now time.Time) int {
	places := l.Places
	if now.Sub(l.small) < smallLast {
		places = min(places, max(fewBulk, int(l.fastest.of(now)*busyPlaces/time.Millisecond)))
	}
	return places - l.inBulk
}

// lowest is the lowest of the durations in the last one to two seconds.
type lowest struct {
	since     time.Time
	now, last time.Duration
}

func (m *lowest) add(now time.Time, d time.Duration) {
	m.turn(now)
	if m.now == 0 || d < m.now {
		m.now = d
	}
}

// of returns the lowest, or an hour if there was none.
func (m *lowest) of(now time.Time) time.Duration {
	m.turn(now)
	low := time.Hour
	for _, d := range []time.Duration{m.now, m.last} {
		if d > 0 {
			low = min(low, d)
		}
	}
	return low
}

func (m *lowest) turn(now time.Time) {
	if age := now.Sub(m.since); age >= time.Second {
		m.last = m.now
		if age >= 2*time.Second {
			m.last = 0
		}
		m.now, m.since = 0, now
	}
}

// took notes what a turn brought from one queue.
func (l *line) took(p *part, cmd *redis.Cmd, err error) {
	taken, _ := cmd.Val().([]any)
	l.mu.Lock()
	l.count(p.lane, len(taken)/2-p.want)
	if len(taken) > 0 && !p.lane.bulk {
		l.small = time.Now()
	}
	if err != nil {
		p.done = append(p.ended, p.done...)
		p.filled = true
		l.failed = time.Now().Add(takerPause)
	} else if p.want > 0 && len(taken)/2 == p.want {
		p.filled = true
	}
	l.mu.Unlock()
	if err != nil {
		l.t.s.log.Warn("tasks not taken", "queue", p.name, "error", err)
		return
	}
	tasks := make([]*task, 0, len(taken)/2)
	for i := 0; i+1 < len(taken); i += 2 {
		tasks = append(tasks, &task{lane: p.lane, id: text(taken[i]), message: text(taken[i+1])})
	}
	if len(tasks) == 0 {
		return
	}
	if l.Rate.N == 0 {
		for _, k := range tasks {
			l.t.out <- k
		}
		return
	}
	l.pace(tasks)
}

// fitting returns about how many tasks have a place at the target's rate before
// the horizon, with the lock held.
func (l *line) fitting() int {
	if l.Rate.N == 0 {
		return l.Places
	}
	interval, burst := pace(l.Rate)
	return burst + int(horizon/interval)
}

// pace hands over tasks as they have their places at the target's rate, and
// gives back those that have none yet.
func (l *line) pace(tasks []*task) {
	places, err := l.t.s.reserve(context.Background(), l.Target, l.Rate, len(tasks), horizon)
	if err != nil {
		l.t.s.log.Warn("no places reserved at the target's rate", "target", l.Target, "error", err)
		places.pause = takerPause
	}
	l.mu.Lock()
	l.notBefore = time.Now().Add(min(places.pause, pollEvery)) // a hold may be called off
	l.mu.Unlock()
	if rest := tasks[places.n:]; len(rest) > 0 {
		rest[0].lane.giveBack(rest)
	}
	if tasks = tasks[:places.n]; len(tasks) > 0 {
		l.t.delays.Go(func() { l.handOver(tasks, places, time.Now()) })
	}
}

// handOver hands over tasks at their places. If the target is held meanwhile, or
// the server stops, it gives back the rest.
func (l *line) handOver(tasks []*task, at places, since time.Time) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i, k := range tasks {
		timer.Reset(at.wait(i) - time.Since(since))
		select {
		case <-timer.C:
		case <-l.t.quit:
		}
		if held, _ := l.Held(); held > 0 || l.stopped() {
			k.lane.giveBack(tasks[i:])
			return
		}
		l.t.out <- k
	}
}

// giveBack puts tasks back to where they were taken from.
func (q *lane) giveBack(tasks []*task) {
	ctx, cancel := q.t.s.within(context.Background())
	defer cancel()
	ids := make([]string, len(tasks))
	for i, k := range tasks {
		ids[i] = k.id
	}
	slices.Reverse(ids) // each goes to the head
	if _, err := q.t.s.requeue(ctx, q.name, ids); err != nil {
		q.t.s.log.Warn("tasks not given back, they come when their leases end", "queue", q.name, "error", err)
	}
	q.mu.Lock()
	q.count(q, -len(tasks))
	q.filled = true
	q.mu.Unlock()
	q.wake()
}

// leaving frees a task's place when its handler returns.
func (t *taker) leaving(h asynq.Handler) asynq.Handler {
	return asynq.HandlerFunc(func(ctx context.Context, k *asynq.Task) error {
		queue, _ := asynq.GetQueueName(ctx)
		if q := t.lanes[queue]; q != nil {
			began := time.Now()
			defer func() {
				now := time.Now()
				q.mu.Lock()
				q.count(q, -1)
				q.fastest.add(now, now.Sub(began))
				q.mu.Unlock()
				q.wake()
			}()
		}
		return h.ProcessTask(ctx, k) //nolint:wrapcheck // asynq is to see the handler's own
	})
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
	queue, names := asynqKeys(keys)
	q := t.lanes[queue]
	if q == nil {
		return through()
	}
	switch {
	case slices.Equal(names, []string{"pending", "paused", "active", "lease"}):
		return t.dequeue(ctx)
	case len(names) == 5 && slices.Equal(names[:3], []string{"active", "lease", "t"}) && len(args) == 3:
		q.end(text(args[0]))
		return redis.NewCmdResult("OK", nil)
	case len(names) == 8 && slices.Equal(names[:4], []string{"t", "active", "lease", "retry"}) && len(args) == 6:
		cmd := through() // who looks for the task before this is done does not find it
		if at, err := strconv.ParseInt(text(args[2]), 10, 64); err == nil {
			q.mu.Lock()
			q.retries[at] = struct{}{}
			q.mu.Unlock()
		}
		return cmd
	case slices.Equal(names, []string{"scheduled", "pending"}), slices.Equal(names, []string{"retry", "pending"}):
		if !q.look(names[0] == "retry") {
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
	select {
	case k := <-t.out:
		return redis.NewCmdResult(k.message, nil)
	default:
	}
	timer := time.NewTimer(dequeueWait)
	defer timer.Stop()
	select {
	case k := <-t.out:
		return redis.NewCmdResult(k.message, nil)
	case <-timer.C:
	case <-t.quit:
	case <-ctx.Done():
	}
	return redis.NewCmdResult(nil, redis.Nil)
}

// end notes that a task has ended.
func (q *lane) end(id string) {
	q.mu.Lock()
	first := true
	for _, other := range q.lanes {
		first = first && len(other.done) == 0
	}
	if first {
		q.ended = time.Now()
	}
	q.done = append(q.done, id)
	q.mu.Unlock()
	q.wake()
}

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
