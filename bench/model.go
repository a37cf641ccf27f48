package main

import (
	"container/heap"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"
)

// model simulates an installation with one batch in it by events. Its time is
// simulated, and the same seed gives the same forecast.
//
// The simulation covers these parts. Actions are read and then put into a queue in
// chunks, with pauses while many wait there. Workers take many actions at a time, when
// they have free slots or will have them in a moment. A slot is free once the target
// has answered; if the target has a rate, which all workers share, it is free once the
// result is recorded. Taking, beginning and ending an action each need an exchange with
// Redis. Actions that are ready share an exchange, and at most two exchanges of a
// worker are in progress. Redis runs one command after another. All computation shares
// the cores, first come, first served. The model has no network, no cost of switching
// between processes and no failures.
type model struct {
	actions int
	workers int
	slots   int        // of each worker
	target  answerTime // how long the target takes
	rate    float64    // requests per second that the target accepts, 0 for no bound
	cores   int        // shared by all processes, including the target
	costs   costs
	seed    uint64
}

// costs are the measured costs of one action.
type costs struct {
	submit   time.Duration // until it is accepted, on an idle machine
	fanOut   time.Duration // processor time until its task is in the queue
	run      time.Duration // further processor time, of all processes
	redis    time.Duration // Redis's part of that
	exchange time.Duration // additional time of an exchange with Redis
	queued   float64       // bytes of Redis's memory for a waiting action; only shown
}

// answerTime draws a random answer time of a target.
type answerTime func(*rand.Rand) time.Duration

func fixed(d time.Duration) answerTime { return func(*rand.Rand) time.Duration { return d } }

// parseLatency reads "20ms", "exp:20ms" (exponential, with that mean), or
// "lognormal:20ms,100ms" (with that median and 99th percentile).
func parseLatency(text string) (answerTime, error) {
	kind, rest, found := strings.Cut(text, ":")
	if !found {
		kind, rest = "", text
	}
	var d []time.Duration
	for part := range strings.SplitSeq(rest, ",") {
		one, err := time.ParseDuration(part)
		if err != nil || one < 0 {
			return nil, fmt.Errorf("latency %q: %q is no duration, such as 20ms", text, part)
		}
		d = append(d, one)
	}
	switch {
	case kind == "" && len(d) == 1:
		return fixed(d[0]), nil
	case kind == "exp" && len(d) == 1:
		return func(r *rand.Rand) time.Duration { return time.Duration(r.ExpFloat64() * float64(d[0])) }, nil
	case kind == "lognormal" && len(d) == 2 && 0 < d[0] && d[0] <= d[1]:
		const z99 = 2.3263 // of the standard normal distribution
		sigma := math.Log(float64(d[1])/float64(d[0])) / z99
		return func(r *rand.Rand) time.Duration {
			return time.Duration(float64(d[0]) * math.Exp(sigma*r.NormFloat64()))
		}, nil
	default:
		return nil, fmt.Errorf("latency %s: expected 20ms, exp:20ms or lognormal:20ms,100ms", strconv.Quote(text))
	}
}

// forecast has the results of a model, and of the measurement beside it.
type forecast struct {
	rate           float64 // actions a second until the last one has ended
	mean, p50, p99 float64 // ms from the submission until an action's last attempt has ended
}

func forecastOf(took time.Duration, waits []float64) forecast {
	sum := 0.0
	for _, w := range waits {
		sum += w
	}
	n := float64(len(waits))
	return forecast{rate: n / took.Seconds(), mean: sum / n, p50: quantile(waits, 0.5), p99: quantile(waits, 0.99)}
}

// These are batchd's own constants, in the packages of queue: how many tasks are
// enqueued in one exchange, and how many must wait for a pause in between; when and how
// many tasks a worker takes, how far it prefetches, and how many results without a slot
// may wait to be recorded; how many steps of the ledger share an exchange, and how many
// exchanges are in progress.
const (
	modelChunk   = 100
	modelInQueue = 1000
	modelTaken   = 128
	modelEnough  = 12
	modelLinger  = time.Millisecond
	modelAhead   = 5 * time.Millisecond
	modelWindow  = 100 * time.Millisecond // the time over which the model measures the completion rate
	modelLeaving = 64
	modelBurst   = 10 // the share of a rate that may be used at once
	modelShared  = 256
	modelFlying  = 2
)

// simulation is a running model.
type simulation struct {
	model

	rand    *rand.Rand
	now     time.Duration
	events  events
	made    int      // number of events, to keep the order of simultaneous ones
	idle    int      // cores
	jobs    []func() // jobs that wait for a core
	asked   []func() // steps that wait for Redis
	asking  bool     // Redis is busy
	waiting int      // tasks in the queue
	workers []*modelWorker
	next    time.Duration // the next send time at the target's rate
	waits   []float64
	ended   int
}

type modelWorker struct {
	free      int // free slots
	ready     int // prefetched tasks
	leaving   int // tasks that have released their slots and not ended
	left      int // slots released since the window began
	before    int // slots released in the window before
	window    time.Duration
	taking    bool
	polled    time.Duration // when it last polled
	scheduled bool          // another poll is scheduled
	steps     []func()      // steps that wait for an exchange
	exchanges int           // exchanges in progress
}

// ahead returns the number of tasks to prefetch.
func (w *modelWorker) ahead(now time.Duration) int {
	if age := now - w.window; age >= modelWindow {
		w.before = w.left
		if age >= 2*modelWindow {
			w.before = 0
		}
		w.left, w.window = 0, now
	}
	return w.before * int(modelAhead) / int(modelWindow)
}

// forecast runs the model.
func (m model) forecast() forecast {
	s := &simulation{
		model: m, idle: m.cores, next: math.MinInt64, waits: make([]float64, 0, m.actions),
		rand: rand.New(rand.NewPCG(m.seed, 0)), //nolint:gosec // a simulation must be the same each time
	}
	for range m.workers {
		s.workers = append(s.workers, &modelWorker{free: m.slots, polled: -modelLinger})
	}
	s.after(time.Duration(m.actions)*m.costs.submit, func() { s.fanOut(m.actions) })
	for s.events.Len() > 0 && s.ended < m.actions {
		e, _ := heap.Pop(&s.events).(event) // the heap has only events
		s.now = e.at
		e.do()
	}
	return forecastOf(s.now, s.waits)
}

func (s *simulation) after(d time.Duration, do func()) {
	s.made++
	heap.Push(&s.events, event{at: s.now + d, nth: s.made, do: do})
}

// compute occupies a core for a duration.
func (s *simulation) compute(d time.Duration, then func()) {
	start := func() {
		s.after(d, func() {
			s.idle++
			if len(s.jobs) > 0 {
				next := s.jobs[0]
				s.jobs = s.jobs[1:]
				s.idle--
				next()
			}
			then()
		})
	}
	if s.idle == 0 {
		s.jobs = append(s.jobs, start)
		return
	}
	s.idle--
	start()
}

// askRedis runs a step of n actions in Redis, and calls then with its reply.
func (s *simulation) askRedis(n int, then func()) {
	step := func() {
		s.compute(time.Duration(n)*s.costs.redis/3, func() {
			s.asking = false
			if len(s.asked) > 0 {
				next := s.asked[0]
				s.asked = s.asked[1:]
				s.asking = true
				next()
			}
			s.after(s.costs.exchange, then)
		})
	}
	if s.asking {
		s.asked = append(s.asked, step)
		return
	}
	s.asking = true
	step()
}

// joinExchange adds an action to an exchange.
func (s *simulation) joinExchange(w *modelWorker, then func()) {
	w.steps = append(w.steps, then)
	if w.exchanges < modelFlying {
		w.exchanges++
		s.after(0, func() { s.exchangeSteps(w) }) // other actions of this moment join the exchange
	}
}

func (s *simulation) exchangeSteps(w *modelWorker) {
	steps := w.steps[:min(len(w.steps), modelShared)]
	w.steps = w.steps[len(steps):]
	if len(steps) == 0 {
		w.exchanges--
		return
	}
	s.askRedis(len(steps), func() {
		for _, then := range steps {
			then()
		}
		s.exchangeSteps(w)
	})
}

// fanOut puts the remaining tasks into the queue, chunk by chunk.
func (s *simulation) fanOut(left int) {
	n := min(left, modelChunk)
	began := s.now
	s.compute(time.Duration(n)*s.costs.fanOut, func() {
		s.waiting += n
		pause := time.Duration(0)
		if s.waiting >= modelInQueue {
			pause = 2 * (s.now - began)
		}
		for _, i := range s.rand.Perm(len(s.workers)) {
			s.poll(s.workers[i])
		}
		if left > n {
			s.after(pause, func() { s.fanOut(left - n) })
		}
	})
}

// poll makes a worker take as many tasks as it has free slots, now or in a moment, if a
// poll is due.
func (s *simulation) poll(w *modelWorker) {
	ahead := 0
	if s.rate == 0 {
		ahead = min(s.slots, w.ahead(s.now))
	}
	free := w.free + ahead - w.ready
	if w.taking || free <= 0 || s.waiting == 0 {
		return
	}
	if rest := w.polled + modelLinger - s.now; free < min(modelEnough, s.slots/4+1) && rest > 0 {
		if !w.scheduled {
			w.scheduled = true
			s.after(rest, func() {
				w.scheduled = false
				s.poll(w)
			})
		}
		return
	}
	n := min(free, s.waiting, modelTaken)
	w.taking, w.polled = true, s.now
	s.waiting -= n
	s.askRedis(n, func() {
		w.ready += n
		w.taking = false
		s.startReady(w)
		s.poll(w)
	})
}

// startReady starts prefetched tasks while there are free slots.
func (s *simulation) startReady(w *modelWorker) {
	for w.ready > 0 && w.free > 0 {
		w.ready--
		w.free--
		s.after(s.untilSendTime(), func() { s.begin(w) })
	}
}

// releaseSlot gives a slot to the next task.
func (s *simulation) releaseSlot(w *modelWorker) {
	w.ahead(s.now)
	w.left++
	w.free++
	s.startReady(w)
	s.poll(w)
}

// untilSendTime returns the time until the next send time at the target's rate.
func (s *simulation) untilSendTime() time.Duration {
	if s.rate == 0 {
		return 0
	}
	interval := time.Duration(float64(time.Second) / s.rate)
	burst := max(int(s.rate)/modelBurst, 1)
	at := max(s.next, s.now-time.Duration(burst-1)*interval)
	s.next = at + interval
	return max(at-s.now, 0)
}

func (s *simulation) begin(w *modelWorker) {
	s.joinExchange(w, func() {
		s.compute((s.costs.run-s.costs.redis)/2, func() {
			s.after(s.target(s.rand), func() { s.end(w) })
		})
	})
}

func (s *simulation) end(w *modelWorker) {
	s.compute((s.costs.run-s.costs.redis)/2, func() {
		s.waits = append(s.waits, float64(s.now)/float64(time.Millisecond))
		leaves := s.rate == 0 && w.leaving < min(s.slots, modelLeaving)
		if leaves {
			w.leaving++
			s.releaseSlot(w)
		}
		s.joinExchange(w, func() {
			s.ended++
			if leaves {
				w.leaving--
			} else {
				s.releaseSlot(w)
			}
		})
	})
}

// event is an event at a simulated time.
type event struct {
	at  time.Duration
	nth int
	do  func()
}

type events []event

// Len implements [heap.Interface].
func (e *events) Len() int { return len(*e) }

// Less implements [heap.Interface].
func (e *events) Less(i, j int) bool {
	a, b := &(*e)[i], &(*e)[j]
	return a.at < b.at || a.at == b.at && a.nth < b.nth
}

// Swap implements [heap.Interface].
func (e *events) Swap(i, j int) { (*e)[i], (*e)[j] = (*e)[j], (*e)[i] }

// Push implements [heap.Interface].
func (e *events) Push(x any) {
	made, _ := x.(event) // the heap has only events
	*e = append(*e, made)
}

// Pop implements [heap.Interface].
func (e *events) Pop() any {
	last := len(*e) - 1
	popped := (*e)[last]
	*e = (*e)[:last]
	return popped
}
