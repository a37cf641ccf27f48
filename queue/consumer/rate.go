package consumer

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/queue/throttle"
)

// mostAhead is the most tasks in hand beyond the places of a target with a rate:
// they wait for their send times, or their results are on the way to Redis.
const mostAhead = 4096

// capacity is the most tasks in hand.
func (l *targetConsumer) capacity() int {
	if l.pacer == nil {
		return l.Slots + l.maxFinishing()
	}
	perSecond := int(int64(l.Rate.N) * int64(time.Second) / int64(l.Rate.Per))
	return l.Slots + max(l.Burst, 1) + min(3*perSecond+1, mostAhead)
}

func (l *targetConsumer) newPacer() *throttle.Pacer[*task] {
	return throttle.NewPacer(throttle.PacerConfig[*task]{
		Rate: l.Rate, Burst: l.Burst, Most: l.Slots, Token: l.t.s.db.Token, Held: l.Held, Changed: l.wake,
		Hand: l.handOver, GiveBack: giveBackAll, Async: l.t.wg.Go,
		Reserve: func(r *throttle.Reservation) (*throttle.Reserved, error) {
			return l.t.s.gate.Reserve(context.Background(), l.Name, l.Rate, l.Burst, r)
		},
	})
}

// pollReservation is a reservation of send times that follows a poll in the same exchange, for the tasks
// that the poll takes: to reserve their send times afterwards would take another round trip.
type pollReservation struct {
	*throttle.Reservation
	l       *targetConsumer
	reserve func() (*throttle.Reserved, error)
	sent    time.Time
}

// reserveAfterPoll returns the reservation that follows a poll, or nil if there is none: the target has
// no rate, or the poll takes nothing. On a cluster the queues and the target's rate may be
// at different servers.
func (l *targetConsumer) reserveAfterPoll(parts []*part) *pollReservation {
	want := 0
	for _, p := range parts {
		want += p.Want
	}
	if l.pacer == nil || want == 0 || l.t.s.db.Cluster != nil {
		return nil
	}
	r := l.pacer.ReserveAfterPoll(want)
	if r == nil {
		return nil
	}
	for _, p := range parts {
		p.TakenKey = r.TakenKey(l.Name)
	}
	return &pollReservation{Reservation: r, l: l}
}

// add adds the reservation to the pipeline, behind the poll.
func (r *pollReservation) add(ctx context.Context, pipe redis.Pipeliner) {
	if r == nil {
		return
	}
	r.reserve = r.l.t.s.gate.ReserveAfterPoll(ctx, pipe, r.l.Name, r.l.Rate, r.l.Burst, r.Reservation)
	r.sent = time.Now()
}

// read reads the reply, after that of the poll, which took so many tasks.
func (r *pollReservation) read(received time.Time, taken int) {
	if r == nil {
		return
	}
	reply, err := r.reserve()
	r.l.pacer.PollEnded(r.Reservation, taken, reply, err, r.sent, received)
}
