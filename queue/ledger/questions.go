package ledger

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/crash"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
)

// AnswerQuestion handles a message in which the sweeper asks a worker about the actions that the
// worker holds, according to the ledger. The message has the worker's name, then a line of batch,
// index and token for each action. If the worker belongs to this process, AnswerQuestion repeats, in
// the background, the ends of actions that have ended here, and disowns actions that this process
// does not know.
func (r *Restorer) AnswerQuestion(message string) {
	worker, lines, _ := strings.Cut(message, "\n")
	if _, here := r.workers.beats.Load(worker); !here {
		return
	}
	var forgotten []*attempt
	unknown := make(map[string][]any) // index and token, by batch
	for line := range strings.SplitSeq(lines, "\n") {
		parts := strings.Split(line, " ")
		if len(parts) != 3 {
			continue
		}
		id, token := parts[0], parts[2]
		index, err := strconv.Atoi(parts[1])
		if err != nil {
			continue
		}
		switch a, inHand := r.attempts.known(id, index, token); {
		case inHand:
		case a != nil:
			forgotten = append(forgotten, a)
		default:
			unknown[id] = append(unknown[id], index, token)
		}
	}
	if len(forgotten)+len(unknown) == 0 {
		return
	}
	r.background.Go(func(ctx context.Context) {
		if err := r.answer(ctx, worker, forgotten, unknown); err != nil && ctx.Err() == nil {
			r.log.WarnContext(ctx, "ends of actions that Redis forgot were not repeated, the sweeper asks again soon", "error", err)
		}
	})
}

// answer repeats the ends of forgotten actions, and disowns the unknown ones: the next worker that
// begins such an action decides whether to send it again.
func (r *Restorer) answer(ctx context.Context, worker string, forgotten []*attempt, unknown map[string][]any) error {
	restored, err := r.restore(ctx, forgotten)
	if restored > 0 {
		r.log.WarnContext(ctx, "Redis had forgotten the ends of actions, they were repeated", "actions", restored)
	}
	if err != nil {
		return err
	}
	for id, held := range unknown {
		n, err := r.disown(ctx, id, worker, held)
		if n > 0 {
			r.log.WarnContext(ctx, "neither Redis nor this worker knows how actions ended: another worker decides about them", "batch", id, "actions", n)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// disown gives up actions that a worker holds according to the ledger but does not run, and makes a
// task for each. held has the index and token of each action, in order. disown returns the number of
// tasks.
func (r *Restorer) disown(ctx context.Context, id, worker string, held []any) (int, error) {
	answer, err := r.db.Run(ctx, Steps.Disown, keys.KeysOf(id).Step(), append([]any{worker}, held...)...)
	if err != nil {
		return 0, fmt.Errorf("disown actions of batch %s: %w", id, err)
	}
	if len(answer) != 2+len(held)/2 {
		return 0, rdb.ErrAnswer
	}
	crash.At(crash.Disowned)
	var brought []tasks.Task
	for i, given := range answer[2:] {
		if given == "1" {
			index, _ := held[2*i].(int)
			brought = append(brought, r.tasks.TokenTask(tasks.Route{Target: answer[0], Lane: batch.Lane(answer[1])}, id, index, rdb.Text(held[2*i+1])))
		}
	}
	if len(brought) == 0 {
		return 0, nil
	}
	err = r.tasks.EnqueueTasks(ctx, brought)
	return len(brought), err
}
