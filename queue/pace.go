package queue

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/rdb"
)

// mostAhead is the most tasks in hand beyond the places of a target with a rate:
// they wait for their send times, or their results are on the way to Redis.
const mostAhead = 4096

// capacity is the most tasks in hand.
func (l *line) capacity() int {
	if l.pacer == nil {
		return l.Places + l.leavers()
	}
	perSecond := int(int64(l.Rate.N) * int64(time.Second) / int64(l.Rate.Per))
	return l.Places + max(l.Burst, 1) + min(3*perSecond+1, mostAhead)
}

func (l *line) newPacer() *pacer[*task] {
	return newPacer(PacerConfig[*task]{
		Rate: l.Rate, Burst: l.Burst, Most: l.Places, Token: l.t.s.db.Token, Held: l.Held, Changed: l.wake,
		Hand: l.handOver, GiveBack: giveBackAll, Async: l.t.wg.Go,
		Reserve: func(r *reservation) (*reserved, error) {
			return l.t.s.reserve(context.Background(), l.Target, l.Rate, l.Burst, r)
		},
	})
}

// reserve makes a reservation of send times at a target's rate.
func (s *Store) reserve(ctx context.Context, target string, rate batch.Rate, burst int, r *reservation) (*reserved, error) {
	keys, args := r.call(target, rate, burst)
	answer, err := s.db.Run(ctx, s.steps.reserve, keys, args...)
	if err != nil {
		return nil, fmt.Errorf("reserve send times at target %s: %w", target, err)
	}
	return parseReserved(answer)
}

// call returns the keys and the arguments of lua/reserve.lua.
func (r *reservation) call(target string, rate batch.Rate, burst int) (keys []string, args []any) {
	key := gateKey(target)
	keys = []string{key, key + ":returned", key + ":" + r.token}
	if r.along {
		keys = append(keys, r.takenKey(target))
	}
	args = make([]any, 0, 7+3*len(r.returned))
	args = append(args, rate.Per.Microseconds(), rate.N, max(burst, 1), r.most, r.first.Microseconds(), r.horizon.Microseconds(), r.late.Microseconds())
	for _, t := range r.returned {
		args = append(args, t.redis, t.step, t.late)
	}
	return keys, args
}

// takenKey has the number of tasks that the poll before the reservation took.
func (r *reservation) takenKey(target string) string {
	return gateKey(target) + ":" + r.token + ":taken"
}

// pollReservation is a reservation that follows a poll in the same exchange, for the tasks that this
// takes: to reserve their send times afterwards would take another round trip.
type pollReservation struct {
	*reservation
	l    *line
	want int
	cmd  *redis.Cmd
	sent time.Time
}

// reserveAlong returns the reservation that follows a poll, or nil if there is none: the target has
// no rate, or the poll takes nothing. On a cluster the queues and the target's rate may be
// at different servers.
func (l *line) reserveAlong(parts []*part) *pollReservation {
	want := 0
	for _, p := range parts {
		want += p.Want
	}
	if l.pacer == nil || want == 0 || l.t.s.db.Cluster != nil {
		return nil
	}
	r := l.pacer.along(want)
	if r == nil {
		return nil
	}
	for _, p := range parts {
		p.TakenKey = r.takenKey(l.Target)
	}
	return &pollReservation{reservation: r, l: l, want: want}
}

// add adds it to the pipeline, behind the poll.
func (r *pollReservation) add(ctx context.Context, pipe redis.Pipeliner) {
	if r == nil {
		return
	}
	keys, args := r.call(r.l.Target, r.l.Rate, r.l.Burst)
	r.cmd = pipe.EvalSha(ctx, r.l.t.s.steps.reserve.Hash(), keys, args...)
	r.sent = time.Now()
}

// read reads the answer, when the poll's was read, which brought so many tasks.
func (r *pollReservation) read(ctx context.Context, received time.Time, taken int) {
	if r == nil {
		return
	}
	var answer *reserved
	parts, err := r.l.t.s.db.AnswerOf(ctx, r.l.t.s.steps.reserve, r.cmd).Slice()
	if err = rdb.MapError(ctx, err); err == nil {
		answer, err = parseReserved(rdb.Texts(parts))
	}
	if err != nil {
		taken = r.want // it may have reserved as many
	}
	r.most += taken
	r.l.pacer.ended(r.reservation, answer, err, r.sent, received)
}

// parseReserved reads an answer of lua/reserve.lua.
func parseReserved(answer []string) (*reserved, error) {
	if len(answer) != 2 {
		return nil, rdb.ErrAnswer
	}
	fields := strings.Fields(answer[1])
	numbers := make([]int64, len(fields))
	for i, f := range fields {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("read send times: %w", rdb.ErrAnswer)
		}
		numbers[i] = n
	}
	if len(numbers)%4 != 1 {
		return nil, fmt.Errorf("read send times: %w", rdb.ErrAnswer)
	}
	r := &reserved{now: rdb.Atoi(answer[0]), next: numbers[0]}
	for run := numbers[1:]; len(run) > 0; run = run[4:] {
		r.runs = append(r.runs, sendRun{run[0], run[1], run[2], int(run[3])})
	}
	return r, nil
}
