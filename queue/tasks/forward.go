package tasks

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/queue/rdb"
)

// mostMoved is the most tasks of a queue that [Queues.Forward] or [Queues.Reap] moves in one exchange.
const mostMoved = 1000

// Forwarded is the answer for one queue to [Queues.Forward].
type Forwarded struct {
	// Moved is the number of tasks that were moved to their queue.
	Moved int
	// Waits reports whether other tasks wait for another attempt. The next one is due in Next.
	Waits bool
	Next  time.Duration
	// Err says why the answer is not known. Redis may have moved tasks all the same.
	Err error
}

// Forward moves the tasks whose retry time has come to their queues, as asynq's forwarder does but to
// the millisecond. It sends one exchange for all queues, which on a cluster should be on one node, and
// returns the answers in their order.
func (q *Queues) Forward(ctx context.Context, queues []string) []Forwarded {
	ctx, cancel := q.db.WithTimeout(ctx)
	defer cancel()
	pipe := q.db.Client.Pipeline()
	cmds := make([]*redis.Cmd, len(queues))
	for i, queue := range queues {
		prefix := AsynqPrefix(queue)
		cmds[i] = pipe.EvalSha(ctx, Steps.Forward.Hash(), []string{DueKey(queue), prefix + "retry", prefix + "pending"}, prefix+"t:", mostMoved)
	}
	q.db.Send(ctx, pipe)
	answers := make([]Forwarded, len(queues))
	for i, cmd := range cmds {
		answer, err := q.db.AnswerOf(ctx, Steps.Forward, cmd).Int64Slice()
		switch {
		case err != nil:
			answers[i].Err = rdb.MapError(ctx, err)
		case len(answer) != 2:
			answers[i].Err = rdb.ErrAnswer
		default:
			answers[i] = Forwarded{Moved: int(answer[0]), Waits: answer[1] >= 0, Next: time.Duration(answer[1]) * time.Microsecond}
		}
	}
	return answers
}
