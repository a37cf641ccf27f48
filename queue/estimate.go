package queue

import "time"

// usually estimates how long something takes nearly always: the mean and four times the mean
// deviation from it, both of the latest times above all, as TCP does (RFC 6298).
type usually struct {
	mean, deviation time.Duration
}

// A single one that takes long, such as with a new connection, counts for little.
func (u *usually) add(d time.Duration) {
	if u.mean == 0 {
		u.mean, u.deviation = d, d/8
		return
	}
	d = min(d, 2*u.mean+5*time.Millisecond)
	u.deviation += ((d - u.mean).Abs() - u.deviation) / 4
	u.mean += (d - u.mean) / 8
}

func (u *usually) within() time.Duration { return u.mean + 4*u.deviation }
