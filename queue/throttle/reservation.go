package throttle

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
)

// reservation is a call of lua/reserve.lua, which reserves send times and takes back others. A repeated
// call with the same token changes nothing and has the same reply.
type reservation struct {
	token     string
	most      int           // the most send times to reserve
	earliest  time.Duration // from now, before which no send time can be used
	horizon   time.Duration // from now, after which no send time is reserved
	late      time.Duration // the tolerance
	blur      time.Duration // the part of late that is not for being late
	returned  []sendTime    // latest first
	since     time.Time     // when the call was first made
	expected  int           // the send times that the pacer expects of it
	afterPoll bool          // it follows a poll in the same exchange, and is also for the tasks that the poll takes
	want      int           // the most tasks that the poll takes
}

// reserved is the reply to a reservation.
type reserved struct {
	now, next int64 // Redis's time, and the earliest time of a further send time, in µs
	runs      []sendRun
}

// sendRun is a run of N send times, a Step apart. Time, Step, and Late, the tolerance of each, are in µs of
// Redis's clock.
type sendRun struct {
	Time, Step, Late int64
	N                int
}

// at returns the send time with an index, without the times of this process.
func (r sendRun) at(i int) sendTime {
	return sendTime{redis: r.Time + int64(i)*r.Step, step: r.Step, late: r.Late}
}

// reserve makes a reservation of send times at a target's rate, in an exchange of its own.
func (g *Gate) reserve(ctx context.Context, target string, rate batch.Rate, burst int, r *reservation) (*reserved, error) {
	keys, args := r.call(target, rate, burst)
	reply, err := g.db.Run(ctx, Steps.Reserve, keys, args...)
	if err != nil {
		return nil, fmt.Errorf("reserve send times at target %s: %w", target, err)
	}
	return parseReserved(reply)
}

// reserveIn adds a reservation to a pipeline. When the pipeline was sent, read returns the reply.
func (g *Gate) reserveIn(ctx context.Context, pipe redis.Pipeliner, target string, rate batch.Rate, burst int, r *reservation) (read func() (*reserved, error)) {
	keys, args := r.call(target, rate, burst)
	cmd := pipe.EvalSha(ctx, Steps.Reserve.Hash(), keys, args...)
	return func() (*reserved, error) {
		parts, err := g.db.AnswerOf(ctx, Steps.Reserve, cmd).Slice()
		if err != nil {
			return nil, rdb.MapError(ctx, err)
		}
		return parseReserved(rdb.Texts(parts))
	}
}

// call returns the keys and the arguments of lua/reserve.lua.
func (r *reservation) call(target string, rate batch.Rate, burst int) (names []string, args []any) {
	key := keys.GateKey(target)
	names = []string{key, key + ":returned", key + ":" + r.token}
	if r.afterPoll {
		names = append(names, r.takenKey(target))
	}
	args = make([]any, 0, 7+3*len(r.returned))
	args = append(args, rate.Per.Microseconds(), rate.N, max(burst, 1), r.most, r.earliest.Microseconds(), r.horizon.Microseconds(), r.late.Microseconds())
	for _, t := range r.returned {
		args = append(args, t.redis, t.step, t.late)
	}
	return names, args
}

// takenKey returns the key in which the poll before the reservation stores the number of tasks that it
// took.
func (r *reservation) takenKey(target string) string {
	return keys.GateKey(target) + ":" + r.token + ":taken"
}

// parseReserved parses a reply of lua/reserve.lua.
func parseReserved(reply []string) (*reserved, error) {
	if len(reply) != 2 {
		return nil, rdb.ErrAnswer
	}
	fields := strings.Fields(reply[1])
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
	r := &reserved{now: rdb.Atoi(reply[0]), next: numbers[0]}
	for run := numbers[1:]; len(run) > 0; run = run[4:] {
		r.runs = append(r.runs, sendRun{run[0], run[1], run[2], int(run[3])})
	}
	return r, nil
}
