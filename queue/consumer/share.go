package consumer

import (
	"math/rand/v2"
	"time"
)

// share is the policy by which the slots of a target are divided: how many tasks of large batches may
// be in hand beside small ones, how many tasks are taken before they have slots, and how many
// tasks a poll asks each queue for. It knows neither Redis nor locks. Which owner's action is next
// within a queue is decided where the actions wait; see lua/fair.lua.
type share struct {
	slots   int       // of the target, in this process
	small   time.Time // when tasks of small batches were last taken
	fastest lowest    // how long a task takes at the least
	left    recent    // how many tasks leave their slots
}

// prefetch returns how many tasks may be taken before they have slots: as many as leave theirs within
// prefetchFor. Otherwise these slots would be free for as long as an exchange with Redis takes.
func (s *share) prefetch(now time.Time) int {
	return min(s.slots, s.left.in(now, prefetchFor))
}

// bulkMost returns the most tasks of large batches in hand. While small batches come, too, they are
// as many as keep the processors busy: all tasks that are in hand there wait for one another. A
// target that takes its time keeps the processors busy with fewer, so it has all its slots.
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
	most  int  // of it taken in one exchange
}

// divide returns how many tasks to ask each queue for, of the free slots and of those that large
// batches may have. Where both kinds wait, small batches get interactiveShare of the slots. A
// queue is asked for fewTaken at the least, since each costs a step of its own, so the queues of a kind
// take turns by lot.
func divide(free, bulkFree int, queues []queueState, lots lots) []int {
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
		if lots.IntN(10) < free*interactiveShare%10 {
			most--
		}
		part[1] = min(part[1], most)
		part[0] = free - part[1]
	}
	wants := make([]int, len(queues))
	for kind, of := range kinds {
		lots.Shuffle(len(of), func(i, j int) { of[i], of[j] = of[j], of[i] })
		for n, i := range of {
			wants[i] = min(max(part[kind]/(len(of)-n), fewTaken), part[kind], queues[i].most)
			part[kind] -= wants[i]
		}
	}
	return wants
}

// lots decides between queues that are alike.
type lots interface {
	IntN(n int) int
	Shuffle(n int, swap func(i, j int))
}

// anyLot is the source of the process.
type anyLot struct{}

func (anyLot) IntN(n int) int { return rand.IntN(n) } //nolint:gosec // a lot, no secret

func (anyLot) Shuffle(n int, swap func(i, j int)) { rand.Shuffle(n, swap) } //nolint:gosec // an order, no secret
