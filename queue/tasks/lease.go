package tasks

import (
	"context"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
)

// Reaped is the answer for one queue to [Queues.Reap].
type Reaped struct {
	// PutBack is the number of tasks that were put back.
	PutBack int
	// Err says why the answer is not known. Redis may have put tasks back all the same.
	Err error
}

// Reap puts tasks whose leases expired at least grace ago back to the heads of their queues, and wakes
// the workers elsewhere. It sends one exchange for all queues, which on a cluster should be on one
// node, and returns the answers in their order.
func (q *Queues) Reap(ctx context.Context, queues []string, grace time.Duration) []Reaped {
	ctx, cancel := q.db.WithTimeout(ctx)
	defer cancel()
	pipe := q.db.Client.Pipeline()
	cmds := make([]*redis.Cmd, len(queues))
	for i, queue := range queues {
		prefix := AsynqPrefix(queue)
		cmds[i] = pipe.EvalSha(ctx, Steps.Reap.Hash(), []string{prefix + "active", prefix + "lease", prefix + "pending"},
			prefix+"t:", int(grace.Seconds()), mostMoved, keys.WorkChannel, q.Wakeup(queue))
	}
	q.db.Send(ctx, pipe)
	answers := make([]Reaped, len(queues))
	for i, cmd := range cmds {
		n, err := q.db.AnswerOf(ctx, Steps.Reap, cmd).Int()
		answers[i] = Reaped{PutBack: n, Err: rdb.MapError(ctx, err)}
	}
	return answers
}

// RenewLeases extends the leases of tasks that still run, which it takes by queue, in one exchange. It
// returns one error for each command that failed.
func (q *Queues) RenewLeases(ctx context.Context, ids map[string][]string) []error {
	ctx, cancel := q.db.WithTimeout(ctx)
	defer cancel()
	pipe := q.db.Client.Pipeline()
	var cmds []*redis.Cmd
	for queue, held := range ids {
		for chunk := range slices.Chunk(held, MostEnded) {
			args := make([]any, 0, 1+len(chunk))
			args = append(args, int(AsynqLease.Seconds()))
			for _, id := range chunk {
				args = append(args, id)
			}
			cmds = append(cmds, pipe.EvalSha(ctx, Steps.Renew.Hash(), []string{AsynqPrefix(queue) + "lease"}, args...))
		}
	}
	q.db.Send(ctx, pipe)
	var faults []error
	for _, cmd := range cmds {
		if err := q.db.AnswerOf(ctx, Steps.Renew, cmd).Err(); err != nil {
			faults = append(faults, rdb.MapError(ctx, err))
		}
	}
	return faults
}
