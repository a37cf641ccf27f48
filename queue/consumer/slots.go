package consumer

import (
	"time"

	"github.com/batchd/batchd/queue/throttle"
)

const (
	// finishingLimit is the most tasks of a target that have left their slots and not
	// ended: their results are on their way to Redis.
	finishingLimit = 64
	// readyFor is the longest time for which a task may be ready without a slot. It is shorter than the
	// time for which the sweeper waits before it puts back tasks that no worker has.
	readyFor = 500 * time.Millisecond
)

// slots are the slots of a target in this worker, and the tasks that the worker has in hand. The mutex of the
// target guards them: its holder calls their methods.
//
// A task in hand is in one of these states:
//
//	wanted     a poll under way asks for it; it need not exist
//	ready      taken, and without a slot. At a target with a rate it is in the pacer instead, until shortly
//	           before a send time.
//	moving     being given back, because the target is on hold or slow, or the server stops
//	running    handed to a runner. Without a rate it has a slot, until its request is answered (Slot.Leave)
//	           or it ends.
//	finishing  it has left its slot, so another task may run; its result is on its way to Redis
//
// While the mutex is free:
//
//	inHand = wanted + ready + in the pacer + moving + running
//	inBulk = the part of inHand that comes from queues of large batches
//	running <= limit, without a rate. With one, running <= inHand <= capacity, and the permits of the
//	           pacer bound the requests.
//	finishing <= maxFinishing, and 0 with a rate
//	len(held) = inHand - wanted + finishing
//	runners that are not idle = running + finishing, until the server stops
//
// So a task is counted in inHand from the poll until it leaves its slot, ends, or is given back, in
// running from when it gets a slot until the same moment, and in finishing after that until its action
// returns. The audit restores these equations if a fault breaks them.
type slots struct {
	limit     int                    // of the target
	capacity  int                    // the most tasks in hand and finishing
	pacer     *throttle.Pacer[*task] // nil for a target without a rate
	runners   *runners
	mayStart  func() bool // false while the target is on hold, and when the server stops
	onRunning func(n int) // receives each change of running

	counts
	share share
	ready []*task         // in the order in which they were taken
	held  map[*Slot]*task // every task that was taken, and has neither ended nor been given back
}

// counts are the numbers of tasks by state; see slots.
type counts struct{ inHand, inBulk, running, finishing int }

// room returns how many more tasks may be taken.
func (s *slots) room(now time.Time) int {
	if s.pacer != nil {
		return min(s.capacity-s.inHand, s.pacer.Fitting(now))
	}
	return s.limit + s.share.prefetch(now) - s.inHand
}

// bulkFree returns how many more tasks of large batches may be taken.
func (s *slots) bulkFree(now time.Time) int {
	if s.pacer != nil { // a task that waits for its send time keeps no processor busy
		return s.capacity - s.inBulk
	}
	return s.share.bulkMost(now) - s.inBulk
}

// maxFinishing returns the most tasks that have left their slots and not ended, of so many slots.
func maxFinishing(limit int) int { return min(limit, finishingLimit) }

// want counts tasks that a poll asks for.
func (s *slots) want(q *taskQueue, n int) {
	q.wanted = n
	s.count(q, n)
}

// add adds the tasks of a poll that asked for wanted tasks.
func (s *slots) add(q *taskQueue, taken []*task, wanted int) {
	q.wanted = 0
	s.count(q, len(taken)-wanted)
	for _, k := range taken {
		s.held[&k.slot] = k
		k.moving = s.pacer != nil
	}
}

// remove removes tasks that were given back.
func (s *slots) remove(q *taskQueue, rest []*task) {
	s.count(q, -len(rest))
	for _, k := range rest {
		delete(s.held, &k.slot)
	}
}

// count counts tasks in hand.
func (s *slots) count(q *taskQueue, n int) {
	s.inHand += n
	if q.bulk {
		s.inBulk += n
	}
}

// addRunning counts tasks that get slots, or leave them.
func (s *slots) addRunning(n int) {
	s.running += n
	s.onRunning(n)
}

// startReady hands ready tasks to runners while there are slots, in the order in which they were taken.
func (s *slots) startReady() {
	if !s.mayStart() {
		return // they are given back
	}
	n := max(0, min(len(s.ready), s.limit-s.running))
	for _, k := range s.ready[:n] {
		s.runners.hand(k)
	}
	s.addRunning(n)
	s.ready = s.ready[n:]
}

// start hands a task of the pacer to a runner. It reports false if tasks must not start.
func (s *slots) start(k *task) bool {
	if !s.mayStart() {
		return false
	}
	k.slot.claim = s.pacer.NewClaim(time.Now())
	s.addRunning(1)
	s.runners.hand(k)
	return true
}

// takeReady takes away the tasks that are ready.
func (s *slots) takeReady() []*task {
	ready := s.ready
	s.ready = nil
	for _, k := range ready {
		k.moving = true
	}
	return ready
}

// leave frees a slot before its task ends. It reports false if too many tasks are finishing.
func (s *slots) leave(p *Slot) bool {
	if s.finishing == maxFinishing(s.limit) {
		return false
	}
	p.left = true
	s.finishing++
	s.free(p)
	return true
}

// end removes a task that has ended.
func (s *slots) end(p *Slot) {
	delete(s.held, p)
	switch {
	case p.claim != nil:
		p.claim.End()
		s.count(p.queue, -1)
		s.addRunning(-1)
	case p.left:
		s.finishing--
	default:
		s.free(p)
	}
}

// free gives a slot to the next task.
func (s *slots) free(p *Slot) {
	now := time.Now()
	s.count(p.queue, -1)
	s.addRunning(-1)
	s.share.noteFree(now, now.Sub(p.since))
	s.startReady()
}
