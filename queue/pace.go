package queue

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/batchd/batchd/internal/batch"
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

func (l *line) newPacer() *pacer {
	p := &pacer{
		rate: l.Rate, burst: l.Burst, most: l.Places, token: l.t.s.token, held: l.Held, changed: l.wake,
		hand: l.handOver, giveBack: giveBackAll, async: l.t.wg.Go,
		reserve: func(r *reservation) (*reserved, error) {
			return l.t.s.reserve(context.Background(), l.Target, l.Rate, l.Burst, r)
		},
	}
	p.init()
	return p
}

// reserve makes a reservation of send times at a target's rate.
func (s *Store) reserve(ctx context.Context, target string, rate batch.Rate, burst int, r *reservation) (*reserved, error) {
	key := gateKey(target)
	args := make([]any, 0, 7+3*len(r.returned))
	args = append(args, rate.Per.Microseconds(), rate.N, max(burst, 1), r.most, r.first.Microseconds(), r.horizon.Microseconds(), r.late.Microseconds())
	for _, t := range r.returned {
		args = append(args, t.redis, t.step, t.late)
	}
	answer, err := s.run(ctx, s.steps.reserve, []string{key, key + ":returned", key + ":" + r.token}, args...)
	if err != nil {
		return nil, fmt.Errorf("reserve send times at target %s: %w", target, err)
	}
	return parseReserved(answer)
}

// parseReserved reads an answer of lua/reserve.lua.
func parseReserved(answer []string) (*reserved, error) {
	if len(answer) != 2 {
		return nil, errAnswer
	}
	fields := strings.Fields(answer[1])
	numbers := make([]int64, len(fields))
	for i, f := range fields {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("read send times: %w", errAnswer)
		}
		numbers[i] = n
	}
	if len(numbers)%4 != 1 {
		return nil, fmt.Errorf("read send times: %w", errAnswer)
	}
	r := &reserved{now: atoi(answer[0]), next: numbers[0]}
	for run := numbers[1:]; len(run) > 0; run = run[4:] {
		r.runs = append(r.runs, sendRun{run[0], run[1], run[2], int(run[3])})
	}
	return r, nil
}
