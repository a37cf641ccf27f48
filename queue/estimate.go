package queue

import "time"

// usually estimates how long something takes nearly always: the mean and four times the mean
// deviation from it, both of the latest times above all, as TCP does (RFC 6298).
type usually struct {
	n               int
	mean, deviation time.Duration
}

// A single one that takes long, such as with a new connection, counts for little. If the first
// ones do, only those that follow count.
func (u *usually) add(d time.Duration) {
	if u.n++; u.n == 1 || u.n <= firstLooks && d < u.mean*2/3 {
		u.mean, u.deviation = d, d/8
		return
	}
	d = min(d, 2*u.mean+5*time.Millisecond)
	u.deviation += ((d - u.mean).Abs() - u.deviation) / 4
	u.mean += (d - u.mean) / 8
}

func (u *usually) within() time.Duration { return u.mean + 4*u.deviation }

// excess estimates by how much longer than it can something takes on the average. A single one that
// takes much longer, such as with a new connection, counts for little.
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
	e.least += (d - e.least) / 32 // the way may have become longer
}
