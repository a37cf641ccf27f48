package consumer

import (
	"math/rand/v2"
	"time"
)

const (
	// prefetchFor is about how long before a slot becomes free a task may be taken for it.
	prefetchFor = 5 * time.Millisecond
	// interactiveShare is the part of the slots, in tenths, that goes to the tasks of small batches while
	// tasks of large ones wait, too.
	interactiveShare = 9
	// fewTaken is the least number of tasks for which one of several queues is polled.
	fewTaken = 16
	// smallLast is how long the policy expects more small batches after one came. Meanwhile
	// large batches get, at a target that is fast, busySlots for each millisecond that
	// a task takes at the least, or fewBulk.
	smallLast = 500 * time.Millisecond
	busySlots = 24
	fewBulk   = 8
)

// share is the policy that divides the slots of a target: how many tasks of large batches may
// be in hand beside small ones, how many tasks are taken before they have slots, and how many
// tasks a poll asks each queue for. It knows neither Redis nor locks. Which owner's action comes next
// within a queue is decided where the actions wait; see lua/fair.lua of package tasks.
type share struct {
	slots   int       // of the target, in this process
	small   time.Time // when tasks of small batches were last taken
	fastest lowest    // the shortest time that a task had its slot
	left    recent    // how many tasks leave their slots
}

// noteFree takes in that a task left its slot after that time.
func (s *share) noteFree(now time.Time, took time.Duration) {
	s.fastest.add(now, took)
	s.left.add(now)
}

// prefetch returns how many tasks may be taken before they have slots: as many as leave their slots within
// prefetchFor. Otherwise these slots would be free for as long as an exchange with Redis takes.
func (s *share) prefetch(now time.Time) int {
	return min(s.slots, s.left.in(now, prefetchFor))
}

// bulkMost returns the most tasks of large batches in hand. While small batches come, too, they are
// as many as keep the processors busy: more of them would only wait for one another. A slow
// target keeps the processors busy with few tasks, so large batches get all of its slots.
func (s *share) bulkMost(now time.Time) int {
	most := s.slots + s.prefetch(now)
	if now.Sub(s.small) < smallLast {
		most = min(most, max(fewBulk, int(s.fastest.of(now)*busySlots/time.Millisecond)))
	}
	return most
}

// queueState is what the policy knows of a queue.
type queueState struct {
	bulk  bool // of large batches
	waits bool // it may have tasks
	most  int  // the most tasks to take from it in one exchange
}

// divide returns how many tasks to ask each queue for, of the free slots and of those that large
// batches may have. Where both kinds wait, small batches get interactiveShare of the slots. A
// queue is asked for fewTaken at the least, since each costs a step of its own, so queues of the same kind
// take turns at random.
func divide(free, bulkFree int, queues []queueState, random random) []int {
	var kinds [2][]int
	for i, q := range queues {
		if q.waits && q.bulk {
			kinds[1] = append(kinds[1], i)
		} else if q.waits {
			kinds[0] = append(kinds[0], i)
		}
	}
	part := [2]int{free, min(free, max(bulkFree, 0))}
	if len(kinds[0]) > 0 && len(kinds[1]) > 0 {
		most := free - free*interactiveShare/10
		if random.IntN(10) < free*interactiveShare%10 {
			most--
		}
		part[1] = min(part[1], most)
		part[0] = free - part[1]
	}
	wants := make([]int, len(queues))
	for kind, of := range kinds {
		random.Shuffle(len(of), func(i, j int) { of[i], of[j] = of[j], of[i] })
		for n, i := range of {
			wants[i] = min(max(part[kind]/(len(of)-n), fewTaken), part[kind], queues[i].most)
			part[kind] -= wants[i]
		}
	}
	return wants
}

// random decides between queues that are equal.
type random interface {
	IntN(n int) int
	Shuffle(n int, swap func(i, j int))
}

// processRandom is the source of the process.
type processRandom struct{}

func (processRandom) IntN(n int) int { return rand.IntN(n) } //nolint:gosec // fairness, no secret

func (processRandom) Shuffle(n int, swap func(i, j int)) { rand.Shuffle(n, swap) } //nolint:gosec // an order, no secret

// rolling is what was seen in the current span of time, and in the span before it.
type rolling[T any] struct {
	since     time.Time // when the current span began
	now, last T
}

// roll begins a new span if the current one is over.
func (r *rolling[T]) roll(now time.Time, span time.Duration) {
	if age := now.Sub(r.since); age >= span {
		var none T
		r.last = r.now
		if age >= 2*span {
			r.last = none
		}
		r.now, r.since = none, now
	}
}

// lowest is the lowest of the durations in the last one to two seconds.
type lowest struct{ rolling[time.Duration] }

func (m *lowest) add(now time.Time, d time.Duration) {
	m.roll(now, time.Second)
	if m.now == 0 || d < m.now {
		m.now = d
	}
}

// of returns the lowest duration, or an hour if there was none.
func (m *lowest) of(now time.Time) time.Duration {
	m.roll(now, time.Second)
	low := time.Hour
	for _, d := range []time.Duration{m.now, m.last} {
		if d > 0 {
			low = min(low, d)
		}
	}
	return low
}

// recent counts events, to estimate how many happen in a short time.
type recent struct{ rolling[int] }

// window is the time in which recent counts.
const window = 100 * time.Millisecond

func (r *recent) add(now time.Time) {
	r.roll(now, window)
	r.now++
}

// in returns about how many events happen in that time.
func (r *recent) in(now time.Time, d time.Duration) int {
	r.roll(now, window)
	return r.last * int(d) / int(window)
}
