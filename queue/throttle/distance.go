package throttle

import (
	"time"

	"github.com/batchd/batchd/internal/batch"
)

const (
	// horizon is how far ahead send times are reserved, in addition to the time of some exchanges
	// with Redis.
	horizon = 500 * time.Millisecond
	// leadMost is the longest time before its send time at which an action is begun.
	leadMost = 600 * time.Millisecond
	// blurOf is by how many times the mean delay of an exchange the times of two workers may differ,
	// if each has one sample of Redis's clock.
	blurOf = 4
)

// distance estimates how far Redis is away from this process: how long exchanges take and by how much the
// clocks differ. All lead times of a pacer follow from it. It is not safe for concurrent use.
type distance struct {
	clock    clock
	exchange exchangeTime // of an exchange, with the time that its commands wait before it
	trips    excess       // of round trips over the fastest ones
}

// observe takes in an exchange in which Redis read its clock, in µs.
func (d *distance) observe(sent, received time.Time, redis int64) {
	d.exchange.add(received.Sub(sent))
	d.trips.add(received.Sub(sent))
	d.clock.sample(sent, received, redis)
}

// trip returns how long an exchange with Redis takes nearly always.
func (d *distance) trip() time.Duration { return d.exchange.usual }

// lead returns how long before a send time a task is handed over: the exchange that begins its action
// takes a trip, and so does the exchange of the next task if the action has ended already.
func (d *distance) lead() time.Duration {
	return min(2*d.trip()+5*time.Millisecond, leadMost)
}

// ahead returns how far ahead send times are reserved, and how much of that time must be left when the
// pacer asks for the next ones: until their tasks are handed over, one exchange may have to end first, one
// takes the tasks, and one reserves their send times.
func (d *distance) ahead() (most, left time.Duration) {
	x := min(d.trip(), leadMost)
	most = horizon + 6*x
	return most, max(most/2, d.lead()+3*x)
}

// earliest returns how long from now the first send time may be that a task can use if the task was just
// taken, or is taken now: the reply arrives, and an exchange begins the action.
func (d *distance) earliest() time.Duration { return 3*d.trip()/2 + 2*time.Millisecond }

// blur returns by how much the local times of two workers may differ because the duration of their round
// trips varies. The more samples of Redis's clock there are, the better the best of them.
func (d *distance) blur(rate batch.Rate) time.Duration {
	return min(blurOf*d.trips.mean/time.Duration(max(len(d.clock.samples), 1)), mostTolerance(rate))
}

// excess estimates by how much longer than the minimum an operation takes on average. A single one that
// takes much longer, such as one with a new connection, counts for little.
type excess struct {
	n           int
	least, mean time.Duration
}

func (e *excess) add(d time.Duration) {
	if e.n++; e.n == 1 || d < e.least {
		e.least = d
	}
	over := min(d-e.least, 4*e.mean+time.Millisecond)
	e.mean += (over - e.mean) / 4
	e.least += (d - e.least) / 32 // the path may have become longer
}
