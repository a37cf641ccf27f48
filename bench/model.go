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

// model is an installation with one batch in it, simulated by events. Time in it
// is simulated, and the same seed gives the same forecast.
//
// What it knows: actions are read and then put into a queue in chunks, with pauses
// while many wait there; workers take them, many at a time, as they have places or
// will have them in a moment; a place is free once the target has answered, or, at a
// target's rate, of which all workers have places, once that is recorded; taking,
// beginning and ending an action is an exchange with Redis each, which those that are
// ready share, two of them under way at a time; Redis does one after another; and
// whatever is computed shares the cores, first come, first served. It knows no
// network, no cost of switching between processes and no failures.
type model struct {
	actions int
	workers int
	places  int        // of each worker
	target  answerTime // how long the target takes
	rate    float64    // requests a second that the target takes at most, 0 for any
	cores   int        // shared by everything, the target included
	costs   costs
	seed    uint64
}

// costs are measured. All are of one action.
type costs struct {
	submit   time.Duration // until it is accepted, when there is nothing else to do
	fanOut   time.Duration // processor time until its task is in the queue
	run      time.Duration // processor time from then on, of everything on the cores
	redis    time.Duration // Redis's part of that
	exchange time.Duration // what an exchange with Redis takes beside
	queued   float64       // bytes of Redis's memory while it is in the queue; only shown
}

// answerTime draws how long a target takes.
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

// forecast is what comes of a model, and what is measured beside it.
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

// These are batchd's own: how many tasks are enqueued in one exchange, and how many
// wait when it pauses in between; when a worker takes which number of them, how far
// ahead of its places, and how many may be on their way to be recorded without one; and
// how many steps of the ledger share an exchange, of which how many are under way
// (package queue).
const (
	modelChunk   = 100
	modelInQueue = 1000
	modelTaken   = 128
	modelEnough  = 12
	modelLinger  = time.Millisecond
	modelAhead   = 5 * time.Millisecond
	modelWindow  = 100 * time.Millisecond // over which the model computes it
	modelLeaving = 64
	modelBurst   = 10 // the share of a rate that may be used at once
	modelShared  = 256
	modelFlying  = 2
)

// simulation is a model that runs.
type simulation struct {
	model

	rand    *rand.Rand
	now     time.Duration
	events  events
	made    int      // events, to keep those of one moment in order
	idle    int      // cores
	jobs    []func() // that wait for one
	asked   []func() // that wait for Redis
	asking  bool     // Redis is at work
	waiting int      // tasks in the queue
	workers []*modelWorker
	next    time.Duration // the next place at the target's rate
	waits   []float64
	ended   int
}

type modelWorker struct {
	free    int // places
	ready   int // tasks taken ahead of their places
	leaving int // tasks that have left their places and not ended
	left    int // tasks that left theirs since the window began
	before  int // and in the window before
	window  time.Duration
	taking  bool
	turned  time.Duration // when it last took tasks
	due     bool          // it will look again by itself
	riding  []func()      // steps that wait for an exchange
	flying  int           // exchanges under way
}

// ahead returns how many tasks it takes ahead of their places.
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
		s.workers = append(s.workers, &modelWorker{free: m.places, turned: -modelLinger})
	}
	s.after(time.Duration(m.actions)*m.costs.submit, func() { s.fanOut(m.actions) })
	for s.events.Len() > 0 && s.ended < m.actions {
		e, _ := heap.Pop(&s.events).(event) // there are no others
		s.now = e.at
		e.do()
	}
	return forecastOf(s.now, s.waits)
}

func (s *simulation) after(d time.Duration, do func()) {
	s.made++
	heap.Push(&s.events, event{at: s.now + d, nth: s.made, do: do})
}

// compute occupies a core for that long.
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

// askRedis has Redis do a step of n actions, and returns its answer.
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

// ride has an action take part in an exchange.
func (s *simulation) ride(w *modelWorker, then func()) {
	w.riding = append(w.riding, then)
	if w.flying < modelFlying {
		w.flying++
		s.after(0, func() { s.fly(w) }) // those of this moment come along
	}
}

func (s *simulation) fly(w *modelWorker) {
	rides := w.riding[:min(len(w.riding), modelShared)]
	w.riding = w.riding[len(rides):]
	if len(rides) == 0 {
		w.flying--
		return
	}
	s.askRedis(len(rides), func() {
		for _, then := range rides {
			then()
		}
		s.fly(w)
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
			s.turn(s.workers[i])
		}
		if left > n {
			s.after(pause, func() { s.fanOut(left - n) })
		}
	})
}

// turn has a worker take as many tasks as it has places for, or will have in a moment,
// if that is due.
func (s *simulation) turn(w *modelWorker) {
	ahead := 0
	if s.rate == 0 {
		ahead = min(s.places, w.ahead(s.now))
	}
	free := w.free + ahead - w.ready
	if w.taking || free <= 0 || s.waiting == 0 {
		return
	}
	if rest := w.turned + modelLinger - s.now; free < min(modelEnough, s.places/4+1) && rest > 0 {
		if !w.due {
			w.due = true
			s.after(rest, func() {
				w.due = false
				s.turn(w)
			})
		}
		return
	}
	n := min(free, s.waiting, modelTaken)
	w.taking, w.turned = true, s.now
	s.waiting -= n
	s.askRedis(n, func() {
		w.ready += n
		w.taking = false
		s.seat(w)
		s.turn(w)
	})
}

// seat has what was taken begin as there are places.
func (s *simulation) seat(w *modelWorker) {
	for w.ready > 0 && w.free > 0 {
		w.ready--
		w.free--
		s.after(s.place(), func() { s.begin(w) })
	}
}

// vacate gives a place to the next task.
func (s *simulation) vacate(w *modelWorker) {
	w.ahead(s.now)
	w.left++
	w.free++
	s.seat(w)
	s.turn(w)
}

// place returns how long it is until the next place at the target's rate.
func (s *simulation) place() time.Duration {
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
	s.ride(w, func() {
		s.compute((s.costs.run-s.costs.redis)/2, func() {
			s.after(s.target(s.rand), func() { s.end(w) })
		})
	})
}

func (s *simulation) end(w *modelWorker) {
	s.compute((s.costs.run-s.costs.redis)/2, func() {
		s.waits = append(s.waits, float64(s.now)/float64(time.Millisecond))
		leaves := s.rate == 0 && w.leaving < min(s.places, modelLeaving)
		if leaves {
			w.leaving++
			s.vacate(w)
		}
		s.ride(w, func() {
			s.ended++
			if leaves {
				w.leaving--
			} else {
				s.vacate(w)
			}
		})
	})
}

// event is something that happens at a moment.
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
	made, _ := x.(event) // there are no others
	*e = append(*e, made)
}

// Pop implements [heap.Interface].
func (e *events) Pop() any {
	last := len(*e) - 1
	popped := (*e)[last]
	*e = (*e)[:last]
	return popped
}
