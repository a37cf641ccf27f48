package throttle

import (
	"context"
	"time"

	"github.com/batchd/batchd/internal/batch"
)

// SendTime and SendRun are parts of reservations and of replies to them.
type (
	SendTime    = sendTime
	SendRun     = sendRun
	Reservation = reservation
	Reserved    = reserved
)

// Reserve makes a reservation.
func (g *Gate) Reserve(ctx context.Context, target string, rate batch.Rate, burst int, r *Reservation) (*Reserved, error) {
	return g.reserve(ctx, target, rate, burst, r)
}

// NewReservation returns a reservation with a tolerance of 50 ms.
func NewReservation(token string, most int, horizon time.Duration, returned ...sendTime) *Reservation {
	return &reservation{token: token, most: most, horizon: horizon, late: 50 * time.Millisecond, returned: returned}
}

// Now, Next and Runs return the fields of a reply, and Times all its send times.
func (r *Reserved) Now() int64      { return r.now }
func (r *Reserved) Next() int64     { return r.next }
func (r *Reserved) Runs() []sendRun { return r.runs }
func (r *Reserved) Times() (times []sendTime) {
	for _, run := range r.runs {
		for i := range run.N {
			times = append(times, run.at(i))
		}
	}
	return times
}

// Time returns the time in Redis's clock, in µs.
func (t sendTime) Time() int64 { return t.redis }
