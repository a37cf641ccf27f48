package throttle

import (
	"time"

	"github.com/batchd/batchd/internal/batch"
)

const (
	// latenessShare is the part of a rate's period by which a request may be written
	// later than its send time, and mostLateness the upper bound of that tolerance. The send times are
	// further apart than the rate by as much, so that the rate holds for the requests as written: 200
	// requests take no longer than at the rate. Where requests often miss their send times, the tolerance
	// grows, up to a period's latenessCap and capLateness: a request that misses its send time at a fast
	// rate waits behind all requests that have send times. At a slow rate, whose send times are more than
	// slowStep apart, the request soon gets another one, so the cap is latenessCapSlow.
	latenessShare   = 200
	latenessCap     = 20
	latenessCapSlow = 50
	slowStep        = 100 * time.Millisecond
	mostLateness    = 250 * time.Millisecond
	capLateness     = time.Second
	// forgetLate is how long a tolerance is asked for after it was needed.
	forgetLate = 5 * time.Second
	// clockDrift is the part of a period by which Redis's clock may be fast: 4 s a day.
	clockDrift = 20_000
)

// tolerance estimates by how much later than their send times requests are written, which depends on how
// late the goroutines of this machine wake. Redis adds the tolerance to the distance of the send times. It
// is not safe for concurrent use.
type tolerance struct {
	rate    batch.Rate
	needed  time.Duration // by sleepers now
	asked   time.Duration // the tolerance to ask Redis for: the largest that was needed lately
	decayed time.Time     // when decay last ran
}

func newTolerance(rate batch.Rate) tolerance {
	return tolerance{rate: rate, needed: leastTolerance(rate), asked: leastTolerance(rate)}
}

// leastTolerance returns the least tolerance of a rate.
func leastTolerance(rate batch.Rate) time.Duration {
	return min(rate.Per/latenessShare, mostLateness) + rate.Per/clockDrift
}

// mostTolerance returns the largest tolerance of a rate.
func mostTolerance(rate batch.Rate) time.Duration {
	most := rate.Per / latenessCap
	if rate.Per/time.Duration(rate.N) > slowStep {
		most = rate.Per / latenessCapSlow
	}
	return max(leastTolerance(rate), min(most, capLateness))
}

// woke takes in how much later than requested a sleeping goroutine woke. The needed tolerance grows
// quickly with delays that are frequent, and shrinks slowly.
func (t *tolerance) woke(late time.Duration) {
	floor := leastTolerance(t.rate)
	if late = late * 5 / 4; late > t.needed {
		t.needed = min(t.needed+(late-t.needed)/2, mostTolerance(t.rate))
	} else {
		t.needed = max(t.needed-(t.needed-floor)/64, floor)
	}
}

// decay adapts the tolerance to ask for to the one that is needed: up at once, and down over
// forgetLate. At a fast rate hundreds of sleepers may need less before one needs as much again.
func (t *tolerance) decay(now time.Time) {
	passed := min(now.Sub(t.decayed), forgetLate)
	t.decayed = now
	t.asked = max(t.needed, t.asked-time.Duration(float64(t.asked-t.needed)*passed.Seconds()/forgetLate.Seconds()))
}
