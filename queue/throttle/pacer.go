package throttle

import (
	"context"
	"slices"
	"time"

	"github.com/batchd/batchd/internal/batch"
)

// PacerConfig configures a [Pacer] of tasks of type T.
type PacerConfig[T any] struct {
	// Gate has the send times of all targets.
	Gate *Gate
	// Target is the name of the target, Rate and Burst are its own. A Burst of 0 is 1.
	Target string
	Rate   batch.Rate
	Burst  int
	// Most is the most requests at a time.
	Most int
	// Hand hands a task over, so that its action is begun. It returns false if the target is on hold or the
	// server stops.
	Hand func(T) bool
	// GiveBack puts tasks back into their queues.
	GiveBack func([]T)
	// Held returns for how long from now the target is on hold, and a channel that is closed when that
	// changes.
	Held func() (time.Duration, <-chan struct{})
	// Changed is called when NotBefore and Fitting may return other values.
	Changed func()
	// Async runs a function in a goroutine that the server waits for.
	Async func(func())

	// Tests replace these functions. reserve makes a reservation in one exchange, token returns a text that no
	// other call returns, and sleep returns after a duration, or with the cause of the context's end.
	reserve func(r *reservation) (*reserved, error)
	token   func() string
	sleep   func(ctx context.Context, d time.Duration) error
}

// Pacer makes a worker write the requests to a target with a rate at their send times.
//
// It reserves send times in Redis, for as many tasks as the worker took. They belong to no task: shortly
// before a send time the pacer hands a task over, so that the action is begun and has a connection
// at the send time, and the action that is ready first uses the earliest one. So the
// send time of an action that turns out to have ended is used by the next one. Send times that have no task
// left, and those that passed, go back to Redis, which gives them to others or ends the sequence earlier;
// lua/reserve.lua says why no window of the period sees more than N + b - 1 requests.
//
// A process that dies loses the send times that it reserved: those of half a second and six round trips to
// Redis, and at a slow rate one.
//
// A Pacer has one lock, times.mu, which also guards the send times and the claims. It is held
// neither during an exchange with Redis nor while Hand, GiveBack, Held or Changed runs.
type Pacer[T any] struct {
	cfg   PacerConfig[T]
	times *sendTimes

	// Guarded by times.mu.
	waiting      []T // taken, and not handed over
	reservations reservations
	stopping     bool
}

// NewPacer returns a pacer. The caller runs it with Run.
func NewPacer[T any](cfg PacerConfig[T]) *Pacer[T] {
	if cfg.reserve == nil {
		cfg.reserve = func(r *reservation) (*reserved, error) {
			return cfg.Gate.reserve(context.Background(), cfg.Target, cfg.Rate, cfg.Burst, r)
		}
	}
	if cfg.token == nil {
		cfg.token = cfg.Gate.db.Token
	}
	if cfg.sleep == nil {
		cfg.sleep = sleep
	}
	p := &Pacer[T]{cfg: cfg, times: newSendTimes(cfg.Rate, cfg.Burst, cfg.Most)}
	p.times.held, p.times.sleep = cfg.Held, cfg.sleep
	return p
}

// NewClaim returns the claim of a task that is handed over now.
func (p *Pacer[T]) NewClaim(now time.Time) *Claim {
	return &Claim{times: p.times, pending: true, handed: now, until: now.Add(sendWithin)}
}

// missing returns how many of the tasks in hand have no send time yet. The caller holds the lock.
func (p *Pacer[T]) missing() int {
	return max(len(p.waiting)+p.times.pending-len(p.times.free), 0)
}

// NotBefore returns the time from which on the worker may take tasks again.
func (p *Pacer[T]) NotBefore() time.Time {
	p.times.mu.Lock()
	defer p.times.mu.Unlock()
	s := &p.reservations
	_, left := p.times.distance.ahead()
	at := s.retryAt
	if from := s.next.Add(time.Duration(p.missing())*p.times.step - left); from.After(at) {
		at = from
	}
	if s.noneBefore.After(at) {
		at = s.noneBefore
	}
	return at
}

// Fitting returns about how many tasks would get send times if the worker took them now.
func (p *Pacer[T]) Fitting(now time.Time) int {
	p.times.mu.Lock()
	defer p.times.mu.Unlock()
	most, _ := p.times.distance.ahead()
	n, start := p.times.burst, p.times.distance.earliest()
	if next := p.reservations.next.Sub(now); next > start {
		n, start = 1, next
	}
	n += int(max(most-start, 0) / p.times.step)
	return max(n-p.missing(), 0)
}

// Add adds tasks that the worker took from their queues.
func (p *Pacer[T]) Add(tasks []T) {
	p.times.mu.Lock()
	p.waiting = append(p.waiting, tasks...)
	p.times.mu.Unlock()
	p.times.wake()
}

// Run hands tasks over until quit is closed. When closed is closed it returns all send times to Redis, and
// returns.
func (p *Pacer[T]) Run(quit, closed <-chan struct{}) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	p.Probe(firstLooks)
	for {
		held, changed := p.cfg.Held()
		select {
		case <-quit:
			p.stop()
			quit = nil
		default:
		}
		due, wait := p.due(time.Now(), held > 0)
		for i, k := range due {
			if !p.cfg.Hand(k) {
				p.unhand(due[i:])
				break
			}
		}
		timer.Reset(wait)
		select {
		case <-p.times.wakeC:
		case <-timer.C:
		case <-changed:
		case <-quit:
		case <-closed:
			p.returnAll()
			return
		}
	}
}

// stop prevents that further tasks are handed over.
func (p *Pacer[T]) stop() {
	p.times.mu.Lock()
	p.stopping = true
	p.times.mu.Unlock()
}

// unhand gives back tasks that were about to be handed over.
func (p *Pacer[T]) unhand(tasks []T) {
	p.times.mu.Lock()
	p.times.pending -= len(tasks)
	p.times.mu.Unlock()
	p.cfg.GiveBack(tasks)
	p.times.wake()
}

// due returns the tasks to hand over now, and how long it may be until there are more. It reserves
// send times that are missing, and returns surplus ones.
func (p *Pacer[T]) due(now time.Time, held bool) (due []T, wait time.Duration) {
	p.times.mu.Lock()
	defer p.times.mu.Unlock()
	s := p.times
	s.expire(now)
	s.tolerance.decay(now)
	if held || p.stopping {
		p.drop(len(p.waiting))
	}
	lead := s.distance.lead()
	soon := 0
	for soon < len(s.free) && s.free[soon].at.Sub(now) <= lead {
		soon++
	}
	n := max(0, min(soon-s.pending, len(p.waiting)))
	due, p.waiting = slices.Clone(p.waiting[:n]), p.waiting[n:]
	s.pending += n
	if over := len(s.free) - s.pending - len(p.waiting); over > 0 {
		s.unused = append(s.unused, s.free[len(s.free)-over:]...)
		s.free = s.free[:len(s.free)-over]
	}
	p.reserve(now)
	wait = time.Hour
	if len(p.waiting) > 0 && s.pending < len(s.free) {
		wait = s.free[s.pending].at.Sub(now) - lead
	}
	if s.pending > len(s.free) || len(s.unused) > 0 || len(p.reservations.unanswered) > 0 {
		for _, at := range []time.Time{p.reservations.retryAt, p.reservations.noneBefore} {
			if left := at.Sub(now); left > 0 {
				wait = min(wait, left)
			}
		}
	}
	return due, wait
}

// drop gives back the last n of the waiting tasks. The caller holds the lock.
func (p *Pacer[T]) drop(n int) {
	if n <= 0 {
		return
	}
	rest := p.waiting[len(p.waiting)-n:]
	p.waiting = slices.Clip(p.waiting[:len(p.waiting)-n])
	p.cfg.Async(func() { p.cfg.GiveBack(rest) })
}

// dropTimeless gives back the waiting tasks that have no send times and for which no reservation is under
// way. The caller holds the lock.
func (p *Pacer[T]) dropTimeless() {
	p.drop(len(p.waiting) - max(len(p.times.free)+p.reservations.expected-p.times.pending, 0))
}

// Unhanded stops the pacer and returns the tasks that it has not handed over.
func (p *Pacer[T]) Unhanded() []T {
	p.times.mu.Lock()
	defer p.times.mu.Unlock()
	p.stopping = true
	tasks := p.waiting
	p.waiting = nil
	return tasks
}

// sleep returns after a duration, or with the cause of the context's end.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return context.Cause(ctx)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
