package consumer

import (
	"time"
)

// lowest is the lowest of the durations in the last one to two seconds.
type lowest struct {
	since     time.Time
	now, last time.Duration
}

func (m *lowest) add(now time.Time, d time.Duration) {
	m.turn(now)
	if m.now == 0 || d < m.now {
		m.now = d
	}
}

// of returns the lowest, or an hour if there was none.
func (m *lowest) of(now time.Time) time.Duration {
	m.turn(now)
	low := time.Hour
	for _, d := range []time.Duration{m.now, m.last} {
		if d > 0 {
			low = min(low, d)
		}
	}
	return low
}

func (m *lowest) turn(now time.Time) {
	if age := now.Sub(m.since); age >= time.Second {
		m.last = m.now
		if age >= 2*time.Second {
			m.last = 0
		}
		m.now, m.since = 0, now
	}
}

// recent counts what happens, to tell how much does in a moment.
type recent struct {
	since     time.Time
	now, last int
}

// window is what is looked back at.
const window = 100 * time.Millisecond

func (r *recent) add(now time.Time) {
	r.turn(now)
	r.now++
}

// in returns about how often it happens in that time.
func (r *recent) in(now time.Time, d time.Duration) int {
	r.turn(now)
	return r.last * int(d) / int(window)
}

func (r *recent) turn(now time.Time) {
	if age := now.Sub(r.since); age >= window {
		r.last = r.now
		if age >= 2*window {
			r.last = 0
		}
		r.now, r.since = 0, now
	}
}
