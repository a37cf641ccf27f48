package throttle

import (
	"time"
)

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
