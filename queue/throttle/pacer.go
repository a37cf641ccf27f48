package throttle

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/batchd/batchd/internal/batch"
)

const (
	// horizon is how far ahead send times are reserved, beside what some exchanges
	// with Redis take.
	horizon = 500 * time.Millisecond
	// latenessShare is the part of a rate's period by which a request may be written
	// later than its send time, and mostLateness its bound. The pace is slower than
	// the rate by as much, so that the rate holds for what is written: 200 requests
	// take no longer than at the rate. Where requests often miss their times, both grow, up to
	// a period's latenessCap: a request that misses its time at a fast rate waits behind all
	// that are reserved. At a slow one, whose send times are slowStep apart, it soon has another.
	latenessShare   = 200
	latenessCap     = 20
	latenessCapSlow = 50
	slowStep        = 100 * time.Millisecond
	mostLateness    = 250 * time.Millisecond
	capLateness     = time.Second
	// forgetLate is how long a tolerance is asked for after it was needed.
	forgetLate = 5 * time.Second
	// clockDrift is the part of a period by which Redis's clock may be fast, such as
	// 4 s of a day.
	clockDrift = 20_000
	// leadMost is the longest that an action is begun ahead of its send time, and
	// sendWithin how long after it was handed over a request may be written: a batch
	// that is cancelled, or at its deadline, must see nothing sent much later.
	leadMost   = 600 * time.Millisecond
	sendWithin = 950 * time.Millisecond
	// connectAhead is how long ahead of its send time a request asks for a
	// connection at the most: a new one has to be made meanwhile.
	connectAhead = 250 * time.Millisecond
	// blurOf is how many times what exchanges take longer than the fastest two servers' times
	// may differ, with one sample of the clock each.
	blurOf = 4
	// firstLooks is how often a server looks at Redis's clock when it starts.
	firstLooks = 6
	// MostAsking is the most reservations under way at a time, if an exchange takes longer
	// than askSeveral.
	MostAsking = 3
	askSeveral = 20 * time.Millisecond
	// answerAge is less than Redis keeps the answer of a reservation.
	answerAge = 5 * time.Minute
	// reservePause follows a reservation that failed, and askEvery is the longest time between two
	// reservations while there are no send times for tasks in hand.
	reservePause = 250 * time.Millisecond
	askEvery     = 2 * time.Second
)

// ErrNoSendTime says that a request was not sent because there was no send time at its
// target's rate soon enough.
var ErrNoSendTime = errors.New("no send time soon enough at the target's rate")

// SendTime is a time at which one request may be written. No other request has it.
type SendTime struct {
	Redis, Step, Late int64     // as lua/reserve.lua has them
	at, until         time.Time // of this process
}

// PacerConfig configures a [Pacer] of tasks of type T.
type PacerConfig[T any] struct {
	// Rate and Burst are those of the target. A Burst of 0 is 1.
	Rate  batch.Rate
	Burst int
	// Most is the most requests at a time.
	Most int
	// Reserve makes a reservation in one exchange, which ends by itself.
	Reserve func(r *Reservation) (*Reserved, error)
	// Hand hands a task over, so that its action is begun. It returns false if the target is held or the
	// server stops.
	Hand func(T) bool
	// GiveBack puts tasks back into their queues.
	GiveBack func([]T)
	// Held returns for how long from now the target is held, and a channel that is closed when that
	// changes.
	Held func() (time.Duration, <-chan struct{})
	// Changed is called when NotBefore and Fitting may return other values.
	Changed func()
	// Token returns a text that no other call returns.
	Token func() string
	// Async runs a function that the server waits for.
	Async func(func())
	// Sleep returns after a duration. Defaults to a timer.
	Sleep func(ctx context.Context, d time.Duration) error
}

// Pacer has the requests to a target with a rate written at their send times.
//
// Send times come from Redis, for as many tasks as were taken. They belong to no task: shortly
// before a send time a task is handed over, so that its action is begun and has a connection
// when the time comes, and whichever action is ready then uses the earliest. So the
// time of an action that turns out to have ended is used by the next one. Times that
// no task is left for, and times that passed, are returned to Redis, where they are
// given to others, or end the sequence earlier; see lua/reserve.lua for why no window
// of the period sees more than N + b - 1 requests.
//
// A process that dies loses the times that it reserved: those of half a second and six round trips to
// Redis, and at a slow rate one.
type Pacer[T any] struct {
	PacerConfig[T]

	wakeC chan struct{}

	mu       sync.Mutex
	clock    clock
	times    []SendTime  // reserved and not claimed, by time
	claimed  []*Claim[T] // requests that have send times, by time
	waiting  []T         // taken, and not handed over
	unready  int         // handed over, and without a send time
	claims   chan struct{}
	back     []SendTime     // to be returned
	asking   int            // reservations under way
	asked    int            // the send times that these ask for
	repeats  []*Reservation // were not answered
	answers  int64          // Redis's time of the latest answer
	next     time.Time      // when more send times may be had; zero if it is not known
	nothing  time.Time      // until when it is not worth to ask for some
	failed   time.Time      // until when Redis is not asked
	step     time.Duration  // between two send times
	late     time.Duration  // the tolerance that sleepers need now, see woke
	asks     time.Duration  // the tolerance to ask for: the most that was needed lately
	forgot   time.Time      // when asks last changed
	exchange exchangeTime   // how long an exchange with Redis takes, with what it waits for
	ways     excess         // of the ways to Redis and back
	stopping bool
	permits  chan struct{} // held by requests from their connections to their answers
}

// floorLateness returns the least tolerance of a rate.
func floorLateness(rate batch.Rate) time.Duration {
	return min(rate.Per/latenessShare, mostLateness) + rate.Per/clockDrift
}

// mostLate returns the most tolerance of a rate.
func mostLate(rate batch.Rate) time.Duration {
	most := rate.Per / latenessCap
	if rate.Per/time.Duration(rate.N) > slowStep {
		most = rate.Per / latenessCapSlow
	}
	return max(floorLateness(rate), min(most, capLateness))
}

// NewPacer returns a pacer. The caller runs it.
func NewPacer[T any](cfg PacerConfig[T]) *Pacer[T] {
	p := &Pacer[T]{PacerConfig: cfg, wakeC: make(chan struct{}, 1), claims: make(chan struct{}), permits: make(chan struct{}, cfg.Most)}
	if p.Sleep == nil {
		p.Sleep = sleep
	}
	p.Burst = max(p.Burst, 1)
	p.late = floorLateness(p.Rate)
	p.asks = p.late
	p.step = (p.Rate.Per + p.late) / time.Duration(p.Rate.N)
	return p
}

// lead returns how long before its send time a task is handed over: the exchange by
// which its action is begun takes that long, and another one's if it has ended.
func (p *Pacer[T]) lead() time.Duration {
	return min(2*p.trip()+5*time.Millisecond, leadMost)
}

// trip returns how long an exchange with Redis takes nearly always.
func (p *Pacer[T]) trip() time.Duration { return p.exchange.usual }

// ahead returns how far ahead send times are reserved, and how much of that must be
// left when the next ones are asked for: until their tasks are handed over, one exchange may
// have to end first, one takes them, and one reserves.
func (p *Pacer[T]) ahead() (most, left time.Duration) {
	x := min(p.trip(), leadMost)
	most = horizon + 6*x
	return most, max(most/2, p.lead()+3*x)
}

// missing returns how many of the tasks in hand have no send time yet, with the lock held.
func (p *Pacer[T]) missing() int {
	return max(len(p.waiting)+p.unready-len(p.times), 0)
}

// NotBefore returns when tasks may be taken again.
func (p *Pacer[T]) NotBefore() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, left := p.ahead()
	at := p.failed
	if from := p.next.Add(time.Duration(p.missing())*p.step - left); from.After(at) {
		at = from
	}
	if p.nothing.After(at) {
		at = p.nothing
	}
	return at
}

// Fitting returns about how many tasks get send times that are taken now.
func (p *Pacer[T]) Fitting(now time.Time) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	most, _ := p.ahead()
	n, start := p.Burst, p.first()
	if next := p.next.Sub(now); next > start {
		n, start = 1, next
	}
	n += int(max(most-start, 0) / p.step)
	return max(n-p.missing(), 0)
}

// Add takes tasks that were taken from their queues.
func (p *Pacer[T]) Add(tasks []T) {
	p.mu.Lock()
	p.waiting = append(p.waiting, tasks...)
	p.mu.Unlock()
	p.wake()
}

func (p *Pacer[T]) wake() {
	select {
	case p.wakeC <- struct{}{}:
	default: // it has one that it did not see yet
	}
}

// Run hands over tasks until the server has ended.
func (p *Pacer[T]) Run(quit, closed <-chan struct{}) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	p.Probe(firstLooks)
	for {
		held, changed := p.Held()
		select {
		case <-quit:
			p.stop()
			quit = nil
		default:
		}
		due, wait := p.due(time.Now(), held > 0)
		for i, k := range due {
			if !p.Hand(k) {
				p.unhand(due[i:])
				break
			}
		}
		timer.Reset(wait)
		select {
		case <-p.wakeC:
		case <-timer.C:
		case <-changed:
		case <-quit:
		case <-closed:
			p.returnAll()
			return
		}
	}
}

// stop has nothing handed over any more.
func (p *Pacer[T]) stop() {
	p.mu.Lock()
	p.stopping = true
	p.mu.Unlock()
}

// unhand gives back tasks that were about to be handed over.
func (p *Pacer[T]) unhand(tasks []T) {
	p.mu.Lock()
	p.unready -= len(tasks)
	p.mu.Unlock()
	p.GiveBack(tasks)
	p.wake()
}

// due returns the tasks to hand over now, and how long it may be until there are more. It asks for
// send times that are missing, and returns those that are left over.
func (p *Pacer[T]) due(now time.Time, held bool) (due []T, wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expire(now)
	p.tolerate(now)
	if held || p.stopping {
		p.drop(len(p.waiting))
	}
	lead := p.lead()
	soon := 0
	for soon < len(p.times) && p.times[soon].at.Sub(now) <= lead {
		soon++
	}
	n := max(0, min(soon-p.unready, len(p.waiting)))
	due, p.waiting = slices.Clone(p.waiting[:n]), p.waiting[n:]
	p.unready += n
	if over := len(p.times) - p.unready - len(p.waiting); over > 0 {
		p.back = append(p.back, p.times[len(p.times)-over:]...)
		p.times = p.times[:len(p.times)-over]
	}
	p.ask(now)
	wait = time.Hour
	if len(p.waiting) > 0 && p.unready < len(p.times) {
		wait = p.times[p.unready].at.Sub(now) - lead
	}
	if p.unready > len(p.times) || len(p.back) > 0 || len(p.repeats) > 0 {
		for _, at := range []time.Time{p.failed, p.nothing} {
			if left := at.Sub(now); left > 0 {
				wait = min(wait, left)
			}
		}
	}
	return due, wait
}

// tolerate has the tolerance to ask for follow the one that is needed, with the lock held: up at once, and
// down over forgetLate. At a fast rate hundreds of sleepers in between need less, and the next one as
// much again.
func (p *Pacer[T]) tolerate(now time.Time) {
	passed := min(now.Sub(p.forgot), forgetLate)
	p.forgot = now
	p.asks = max(p.late, p.asks-time.Duration(float64(p.asks-p.late)*passed.Seconds()/forgetLate.Seconds()))
}

// drop gives back the last n of the tasks that wait, with the lock held.
func (p *Pacer[T]) drop(n int) {
	if n <= 0 {
		return
	}
	rest := p.waiting[len(p.waiting)-n:]
	p.waiting = slices.Clip(p.waiting[:len(p.waiting)-n])
	p.Async(func() { p.GiveBack(rest) })
}

// dropTimeless gives back the tasks that have no send times and that none are asked for, with
// the lock held.
func (p *Pacer[T]) dropTimeless() {
	p.drop(len(p.waiting) - max(len(p.times)+p.asked-p.unready, 0))
}

// expire drops send times that have passed, with the lock held.
func (p *Pacer[T]) expire(now time.Time) {
	n := 0
	for n < len(p.times) && now.After(p.times[n].until) {
		n++
	}
	if n > 0 && p.step > p.trip() {
		n = len(p.times) // others are had sooner than the next one of these
	}
	p.back = append(p.back, p.times[:n]...)
	p.times = p.times[n:]
}

// signal wakes those who wait for a send time, with the lock held.
func (p *Pacer[T]) signal() {
	close(p.claims)
	p.claims = make(chan struct{})
}

// ConnectAhead returns how long before its send time a request asks for a connection. Not
// more than a quarter of the connections wait for send times.
func (p *Pacer[T]) ConnectAhead() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return min(max(p.step*time.Duration(p.Most)/4, time.Millisecond), connectAhead)
}

func (p *Pacer[T]) LeadNow() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lead()
}

// Unhanded takes away the tasks that were not handed over.
func (p *Pacer[T]) Unhanded() []T {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopping = true
	tasks := p.waiting
	p.waiting = nil
	return tasks
}
