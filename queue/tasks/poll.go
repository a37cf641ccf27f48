package tasks

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
)

const (
	// AsynqLease is the time, the same as in asynq, after which a running task counts as lost unless its
	// worker renews the lease.
	AsynqLease = 30 * time.Second
	// asynqStats is how long asynq keeps the counts of a day.
	asynqStats = 90 * 24 * time.Hour
	// MostEnded is the most tasks that one exchange ends, puts back, or renews the leases of: Lua's unpack
	// accepts only some thousand arguments.
	MostEnded = 1000
)

// Poll is a poll of one queue: it ends tasks, sets tasks aside for another attempt or puts them back, and
// takes tasks. See lua/poll.lua.
type Poll struct {
	Queue string
	// Want is the most tasks to take.
	Want int
	// FIFO takes the actions of an owner's batches one batch after the other, not in turn.
	FIFO bool
	// Message has the parts of the messages of the tasks that the poll creates.
	Message MessageParts
	// Ended are the ids of the tasks that have ended.
	Ended []string
	// Again has the tasks that run again.
	Again []Again
	// Wakeup is the message that the poll publishes if it leaves tasks or puts some back. It may be empty.
	Wakeup string
	// TakenKey is a key to which the poll adds the number of tasks that it takes, for a reservation of send
	// times later in the same exchange. It may be empty.
	TakenKey string

	cmd *redis.Cmd
}

// Again is a task that runs again.
type Again struct {
	ID string
	// At is the time by the clock of this process at which the task is due.
	At time.Time
	// Wait is the time from the poll until At. Zero puts the task back at once.
	Wait time.Duration
}

// AtOnce reports whether the poll puts the task back at once.
func (k Again) AtOnce() bool { return k.Wait == 0 }

// Add adds the poll to a pipeline.
func (p *Poll) Add(ctx context.Context, pipe redis.Pipeliner) {
	p.cmd = pipe.EvalSha(ctx, Steps.Poll.Hash(), p.keys(), p.args()...)
}

// Read returns the ids of the tasks that the poll took, and whether more tasks or actions wait in the queue.
func (p *Poll) Read(ctx context.Context, db *rdb.DB) (ids []string, more bool, err error) {
	parts, err := db.AnswerOf(ctx, Steps.Poll, p.cmd).Slice()
	if err != nil {
		return nil, false, rdb.MapError(ctx, err)
	}
	if len(parts) == 0 {
		return nil, false, nil
	}
	return rdb.Texts(parts[1:]), parts[0] == int64(1), nil
}

// Failed reports whether the poll failed in the exchange that sent it.
func (p *Poll) Failed() bool { return p.cmd.Err() != nil }

func (p *Poll) keys() []string {
	prefix := AsynqPrefix(p.Queue)
	keys := []string{
		prefix + "pending", prefix + "paused", prefix + "active", prefix + "lease",
		prefix + "processed:" + time.Now().UTC().Format(time.DateOnly), prefix + "processed", prefix + "retry", DueKey(p.Queue), FairPrefix(p.Queue) + "m",
	}
	if p.TakenKey != "" {
		keys = append(keys, p.TakenKey)
	}
	return keys
}

func (p *Poll) args() []any {
	args := make([]any, 0, 12+len(p.Ended)+2*len(p.Again))
	args = append(args, AsynqPrefix(p.Queue)+"t:", int(AsynqLease.Seconds()), time.Now().Add(asynqStats).Unix(), p.Want, keys.WorkChannel, p.Wakeup, len(p.Ended),
		FairPrefix(p.Queue), p.FIFO, p.Message[0], p.Message[1], p.Message[2])
	for _, id := range p.Ended {
		args = append(args, id)
	}
	for _, k := range p.Again {
		args = append(args, k.ID, k.Wait.Microseconds())
	}
	return args
}

// EndTasks removes running tasks whose actions have ended.
func (q *Queues) EndTasks(ctx context.Context, queue string, ids []string) error {
	for chunk := range slices.Chunk(ids, MostEnded) {
		p := &Poll{Queue: queue, Ended: chunk}
		if _, err := q.db.Run(ctx, Steps.Poll, p.keys(), p.args()...); err != nil {
			return fmt.Errorf("end tasks whose actions have ended: %w", err)
		}
	}
	return nil
}
