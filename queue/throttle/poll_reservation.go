package throttle

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"
)

// PollReservation is a reservation of send times that follows a poll in the same exchange, for the tasks
// that the poll takes: to reserve their send times afterwards would take another round trip. Add and Read do
// nothing if it is nil.
type PollReservation[T any] struct {
	*reservation
	pacer *Pacer[T]
	reply func() (*reserved, error)
	sent  time.Time
}

// ReserveAfterPoll returns a reservation that follows a poll, which takes at most want tasks. It returns
// nil if the pacer must not call Redis now, or does not know yet how far Redis is away.
func (p *Pacer[T]) ReserveAfterPoll(want int) *PollReservation[T] {
	r := p.reserveAfterPoll(want)
	if r == nil {
		return nil
	}
	return &PollReservation[T]{reservation: r, pacer: p}
}

// TakenKey returns the key in which the poll has to store the number of tasks that it takes.
func (r *PollReservation[T]) TakenKey() string { return r.takenKey(r.pacer.cfg.Target) }

// Add adds the reservation to the pipeline, behind the poll.
func (r *PollReservation[T]) Add(ctx context.Context, pipe redis.Pipeliner) {
	if r == nil {
		return
	}
	c := &r.pacer.cfg
	r.reply = c.Gate.reserveIn(ctx, pipe, c.Target, c.Rate, c.Burst, r.reservation)
	r.sent = time.Now()
}

// Read reads the reply, which was received at that time. The caller has read the reply to the poll, and has
// added the tasks that the poll took with [Pacer.Add].
func (r *PollReservation[T]) Read(received time.Time, taken int) {
	if r == nil {
		return
	}
	reply, err := r.reply()
	r.pacer.pollEnded(r.reservation, taken, reply, err, r.sent, received)
}
