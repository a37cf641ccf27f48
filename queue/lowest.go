package queue

import "time"

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
