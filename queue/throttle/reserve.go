package throttle

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
)

// Reservation is a call of lua/reserve.lua. Repeated with the same token it does
// nothing twice.
type Reservation struct {
	Token    string
	Most     int
	first    time.Duration // from now, before which none can be used
	Horizon  time.Duration
	Late     time.Duration
	Returned []SendTime
	blur     time.Duration // the part of late that is not for being late
	since    time.Time     // when it was first made
	asked    int           // the send times that the pacer counts on while it is under way
	along    bool          // it follows a poll in the same exchange, and is for the tasks that this takes, too
}

// Reserved is its answer: runs of send times that are a step apart.
type Reserved struct {
	Now, Next int64
	Runs      []SendRun
}

type SendRun struct {
	Time, Step, Late int64
	N                int
}

// returnAll returns the send times that are left, when no request can use them any more.
func (p *Pacer[T]) returnAll() {
	p.awaitAnswer()
	p.mu.Lock()
	repeats := p.repeats
	p.repeats = nil
	p.mu.Unlock()
	for _, repeat := range repeats {
		if time.Since(repeat.since) >= answerAge {
			continue
		}
		sent := time.Now() // it may have reserved some
		if answer, err := p.Reserve(repeat); err == nil {
			p.mu.Lock()
			p.answered(repeat, answer, sent, time.Now())
			p.mu.Unlock()
		}
	}
	p.mu.Lock()
	r := &Reservation{Token: p.Token(), Late: p.late, Horizon: horizon, Returned: latestFirst(append(p.back, p.times...))}
	p.back, p.times = nil, nil
	p.mu.Unlock()
	if len(r.Returned) > 0 {
		_, _ = p.Reserve(r) // or they are lost, as those of a worker that dies
	}
}

// awaitAnswer returns when no reservation is under way any more.
func (p *Pacer[T]) awaitAnswer() {
	for {
		p.mu.Lock()
		asking := p.asking
		p.mu.Unlock()
		if asking == 0 {
			return
		}
		<-p.wakeC // each answer ends with one
	}
}

// blur returns by how much the times of two servers may differ because the ways to Redis take
// now this long and now that, with the lock held. The more samples of its clock there are, the
// better are the best of them.
func (p *Pacer[T]) blur() time.Duration {
	return min(blurOf*p.ways.mean/time.Duration(max(len(p.clock.samples), 1)), mostLate(p.Rate))
}

// latestFirst sorts send times in the order in which they are returned.
func latestFirst(times []SendTime) []SendTime {
	slices.SortFunc(times, func(a, b SendTime) int { return cmp.Compare(b.Redis, a.Redis) })
	return times
}

// first returns how long from now the first send time may be that a task can use that is taken, or
// that was, with the lock held: the answer comes, and an exchange begins the action.
func (p *Pacer[T]) first() time.Duration { return 3*p.trip()/2 + 2*time.Millisecond }

// reservation returns one of send times that are missing, which also returns those that are
// left over, with the lock held.
func (p *Pacer[T]) reservation(missing int, now time.Time) *Reservation {
	most, _ := p.ahead()
	r := &Reservation{
		Token: p.Token(), Most: missing, first: p.first(), Horizon: most, Late: p.asks + p.blur(), blur: p.blur(), since: now,
		Returned: latestFirst(p.back),
	}
	p.back = nil
	return r
}

// start notes that a reservation is under way, with the lock held.
func (p *Pacer[T]) start(r *Reservation, asked int) {
	p.asking++
	r.asked = asked
	p.asked += asked
}

// Along returns a reservation that follows a poll in the same exchange, for the tasks in hand
// that have no send times, and for those that the poll takes, at most want. It returns nil if
// Redis is not to be asked now. The caller calls ended when it has added the tasks.
func (p *Pacer[T]) Along(want int) *Reservation {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if p.stopping || p.ways.n == 0 || now.Before(p.failed) || now.Before(p.nothing) {
		return nil // without an exchange it does not know how far ahead times must be
	}
	missing := max(p.missing()-p.asked, 0)
	r := p.reservation(missing, now)
	r.along = true
	p.start(r, missing+want)
	return r
}

// ask reserves send times that are missing, and returns others, if there is something to do
// and Redis is not being asked already, with the lock held. Of a distant Redis it does not wait
// for one answer before it asks for more.
func (p *Pacer[T]) ask(now time.Time) {
	most := 1
	if p.trip() > askSeveral {
		most = MostAsking
	}
	if p.asking >= most || now.Before(p.failed) {
		return
	}
	p.repeats = slices.DeleteFunc(p.repeats, func(r *Reservation) bool { return now.Sub(r.since) >= answerAge })
	var r *Reservation
	missing := p.missing() - p.asked
	switch {
	case len(p.repeats) > 0:
		r, p.repeats = p.repeats[0], p.repeats[1:]
	case missing > 0 && !now.Before(p.nothing), len(p.back) > 0:
		r = p.reservation(max(missing, 0), now)
		if p.unready > len(p.times)+p.asked { // an action is begun already
			r.first = 5*p.trip()/8 + time.Millisecond
		}
	default:
		return
	}
	p.start(r, r.Most)
	p.Async(func() { p.call(r) })
}

// Probe asks that often when there may be more send times, and what time it is at Redis.
func (p *Pacer[T]) Probe(times int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := time.Now(); p.asking == 0 && !p.stopping && !now.Before(p.failed) {
		p.asking = 1
		late := p.late
		p.Async(func() {
			for n := range times - 1 {
				p.look(late, n == 0)
			}
			p.call(&Reservation{Late: late, Horizon: horizon})
		})
	}
}

// look asks what time it is at Redis, and finds out how late sleepers wake here.
func (p *Pacer[T]) look(late time.Duration, first bool) {
	start := time.Now()
	const nap = time.Millisecond
	if p.Sleep(context.Background(), nap) != nil {
		return
	}
	sent := time.Now()
	slept := sent.Sub(start)
	answer, err := p.Reserve(&Reservation{Late: late, Horizon: horizon})
	received := time.Now()
	if err != nil {
		return // so will be what follows
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !first { // that one made a connection, and taught Redis the step
		p.exchange.add(received.Sub(sent))
		p.ways.add(received.Sub(sent))
	}
	p.clock.sample(sent, received, answer.Now)
	p.woke(slept - nap)
}

// call makes a reservation.
func (p *Pacer[T]) call(r *Reservation) {
	sent := time.Now()
	answer, err := p.Reserve(r)
	p.Ended(r, answer, err, sent, time.Now())
}

// Ended takes in how a reservation ended.
func (p *Pacer[T]) Ended(r *Reservation, answer *Reserved, err error, sent, received time.Time) {
	p.mu.Lock()
	p.asking--
	p.asked -= r.asked
	r.along = false // if it is repeated, it is for the tasks that were taken
	if err != nil {
		p.failed = received.Add(reservePause)
		if r.Token != "" {
			p.repeats = append(p.repeats, r)
		}
		p.dropTimeless()
	} else {
		p.answered(r, answer, sent, received)
	}
	p.mu.Unlock()
	p.Changed()
	p.wake()
}

// answered takes in the answer to a reservation, with the lock held.
func (p *Pacer[T]) answered(r *Reservation, answer *Reserved, sent, received time.Time) {
	p.exchange.add(received.Sub(sent))
	p.ways.add(received.Sub(sent))
	p.clock.sample(sent, received, answer.Now)
	n := 0
	for _, run := range answer.Runs {
		p.step = time.Duration(run.Step) * time.Microsecond
		for i := range run.N {
			t := SendTime{Redis: run.Time + int64(i)*run.Step, Step: run.Step, Late: run.Late}
			t.at = p.clock.local(t.Redis)
			// Part of the tolerance is for the writing itself.
			may := max(time.Duration(run.Late)*time.Microsecond-r.blur, 0)
			t.until = t.at.Add(time.Duration(p.Burst-1)*p.step + may - may/8)
			p.times = append(p.times, t)
		}
		n += run.N
	}
	slices.SortStableFunc(p.times, func(a, b SendTime) int { return cmp.Compare(a.Redis, b.Redis) })
	if answer.Now >= p.answers { // of several under way, the one that Redis answered last counts
		p.answers = answer.Now
		p.next = p.clock.local(answer.Next)
		p.nothing = time.Time{}
	}
	if n < r.Most { // some have to come again, nearer to their time
		_, left := p.ahead()
		p.nothing = received.Add(min(max(p.next.Sub(received)-left, time.Millisecond), askEvery))
		p.dropTimeless()
	}
	p.signal()
}

// Reserve makes a reservation of send times at a target's rate.
func (s *Gate) Reserve(ctx context.Context, target string, rate batch.Rate, burst int, r *Reservation) (*Reserved, error) {
	keys, args := r.Call(target, rate, burst)
	answer, err := s.db.Run(ctx, Steps.Reserve, keys, args...)
	if err != nil {
		return nil, fmt.Errorf("reserve send times at target %s: %w", target, err)
	}
	return ParseReserved(answer)
}

// Call returns the keys and the arguments of lua/reserve.lua.
func (r *Reservation) Call(target string, rate batch.Rate, burst int) (names []string, args []any) {
	key := keys.GateKey(target)
	names = []string{key, key + ":returned", key + ":" + r.Token}
	if r.along {
		names = append(names, r.TakenKey(target))
	}
	args = make([]any, 0, 7+3*len(r.Returned))
	args = append(args, rate.Per.Microseconds(), rate.N, max(burst, 1), r.Most, r.first.Microseconds(), r.Horizon.Microseconds(), r.Late.Microseconds())
	for _, t := range r.Returned {
		args = append(args, t.Redis, t.Step, t.Late)
	}
	return names, args
}

// TakenKey has the number of tasks that the poll before the reservation took.
func (r *Reservation) TakenKey(target string) string {
	return keys.GateKey(target) + ":" + r.Token + ":taken"
}

// ParseReserved reads an answer of lua/reserve.lua.
func ParseReserved(answer []string) (*Reserved, error) {
	if len(answer) != 2 {
		return nil, rdb.ErrAnswer
	}
	fields := strings.Fields(answer[1])
	numbers := make([]int64, len(fields))
	for i, f := range fields {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("read send times: %w", rdb.ErrAnswer)
		}
		numbers[i] = n
	}
	if len(numbers)%4 != 1 {
		return nil, fmt.Errorf("read send times: %w", rdb.ErrAnswer)
	}
	r := &Reserved{Now: rdb.Atoi(answer[0]), Next: numbers[0]}
	for run := numbers[1:]; len(run) > 0; run = run[4:] {
		r.Runs = append(r.Runs, SendRun{run[0], run[1], run[2], int(run[3])})
	}
	return r, nil
}
