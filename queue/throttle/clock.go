package throttle

import (
	"time"
)

const (
	// clockSamples and clockAge bound the number and the age of the samples in an estimate of the
	// difference between two clocks: clocks drift apart.
	clockSamples = 32
	clockAge     = 30 * time.Second
	// clockSlew is the number of seconds in which the difference may change by one second after it
	// was used. It leaves half of the tolerance of send times, see latenessShare: a correction must
	// not bring send times too close together.
	clockSlew = 2 * latenessShare
)

// clock translates times of Redis's clock into times of this process.
//
// Redis reads its clock between the moment when a command is sent and the moment when
// the reply arrives, so each exchange gives two bounds of the difference between the
// clocks. The closest bounds of the last half minute are those of the fastest trips to Redis
// and back. The clock assumes that the difference is in their middle, which is exact if these
// two trips take equally long. It is not safe for concurrent use.
type clock struct {
	origin  time.Time // from which local times are counted, by the monotonic clock
	samples []clockSample
	offset  time.Duration // local time minus Redis's
	moved   time.Time     // when the offset was last changed
	used    bool          // a time was translated with the offset
	trip    time.Duration // of the fastest exchange among the samples
}

// clockSample has the bounds that an exchange gives, and the time of its reply.
type clockSample struct {
	at        time.Time
	low, high time.Duration
}

// sample takes in an exchange in which Redis read its clock, in µs.
func (c *clock) sample(sent, received time.Time, redis int64) {
	if c.origin.IsZero() {
		c.origin = sent
	}
	read := time.Duration(redis) * time.Microsecond
	s := clockSample{received, sent.Sub(c.origin) - read, received.Sub(c.origin) - read}
	low, high := c.bounds(received)
	if len(c.samples) > 0 && (s.low > high || s.high < low) {
		c.samples = c.samples[:0] // one of the clocks was set to another time
	}
	if len(c.samples) == clockSamples {
		c.samples = append(c.samples[:0], c.samples[1:]...)
	}
	c.samples = append(c.samples, s)
	c.move(received)
}

// bounds returns the closest bounds of the samples that are not too old.
func (c *clock) bounds(now time.Time) (low, high time.Duration) {
	for len(c.samples) > 1 && now.Sub(c.samples[0].at) > clockAge {
		c.samples = c.samples[1:]
	}
	for i, s := range c.samples {
		if trip := s.high - s.low; i == 0 || trip < c.trip {
			c.trip = trip
		}
		if i == 0 || s.low > low {
			low = s.low
		}
		if i == 0 || s.high < high {
			high = s.high
		}
	}
	return low, high
}

// move moves the offset towards the middle of the bounds, at the speed of clockSlew, and between them at
// once.
func (c *clock) move(now time.Time) {
	low, high := c.bounds(now)
	middle := low + (high-low)/2
	if c.used {
		most := now.Sub(c.moved) / clockSlew
		middle = min(max(middle, c.offset-most), c.offset+most)
		middle = min(max(middle, low), high)
	}
	c.offset, c.moved = middle, now
}

// local returns the local time of a time of Redis's clock, in µs. The clock must have a sample.
func (c *clock) local(redis int64) time.Time {
	c.used = true
	return c.origin.Add(time.Duration(redis)*time.Microsecond + c.offset)
}
