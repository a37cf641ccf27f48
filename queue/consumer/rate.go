package consumer

import (
	"time"

	"github.com/batchd/batchd/queue/throttle"
)

// mostAhead is the most tasks in hand beyond the slots of a target with a rate:
// they wait for their send times, or their results are on the way to Redis.
const mostAhead = 4096

// capacity returns the most tasks in hand and finishing.
func capacity(t Target) int {
	if t.Rate.N == 0 {
		return t.Slots + maxFinishing(t.Slots)
	}
	perSecond := int(int64(t.Rate.N) * int64(time.Second) / int64(t.Rate.Per))
	return t.Slots + max(t.Burst, 1) + min(3*perSecond+1, mostAhead)
}

func (t *targetConsumer) newPacer() *throttle.Pacer[*task] {
	return throttle.NewPacer(throttle.PacerConfig[*task]{
		Gate: t.consumer.store.Gate, Target: t.Name, Rate: t.Rate, Burst: t.Burst, Most: t.Slots,
		Held: t.Held, Changed: t.wake, Hand: t.handOver, GiveBack: giveBackAll, Async: t.consumer.wg.Go,
	})
}

// handOver hands a task whose send time is near to a runner. It reports false if the target is
// on hold or the server stops.
func (t *targetConsumer) handOver(k *task) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.slots.start(k)
}

// reserveAfterPoll returns a reservation for the tasks that polls take, or nil if there is none: the target
// has no rate, or the polls take nothing. On a cluster the queues and the target's rate may be
// on different servers.
func (t *targetConsumer) reserveAfterPoll(polls []*queuePoll) *throttle.PollReservation[*task] {
	want := 0
	for _, p := range polls {
		want += p.Want
	}
	if t.pacer == nil || want == 0 || t.consumer.store.DB.Cluster != nil {
		return nil
	}
	r := t.pacer.ReserveAfterPoll(want)
	if r != nil {
		for _, p := range polls {
			p.TakenKey = r.TakenKey()
		}
	}
	return r
}
