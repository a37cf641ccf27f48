package tasks

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/hibiken/asynq"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/rdb"
)

// Pause pauses all queues of a target, as asynq's tools do: polls take no tasks from them. Queues that
// are paused stay paused.
func (q *Queues) Pause(ctx context.Context, target string) error {
	return changeQueues(ctx, allQueues(q, target), q.inspector.PauseQueue)
}

// Resume ends the pause of all queues of a target, no matter which process or person paused them.
func (q *Queues) Resume(ctx context.Context, target string) error {
	return changeQueues(ctx, allQueues(q, target), q.inspector.UnpauseQueue)
}

// allQueues returns the queues of both lanes of a target.
func allQueues(q *Queues, target string) []string {
	return append(q.QueuesOf(Route{target, batch.Interactive}), q.QueuesOf(Route{target, batch.Bulk})...)
}

// changeQueues pauses or resumes queues. For a queue that is paused or resumed already,
// asynq returns an error, which changeQueues ignores.
func changeQueues(ctx context.Context, queues []string, change func(queue string) error) error {
	for _, queue := range queues {
		err := change(queue)
		if err == nil || errors.Is(err, asynq.ErrQueueNotFound) {
			continue
		}
		if text := err.Error(); strings.Contains(text, "already") || strings.Contains(text, "not paused") {
			continue
		}
		return fmt.Errorf("pause or resume the queue: %w", rdb.MapError(ctx, err))
	}
	return nil
}

// DeleteTask deletes a task that waits. A task that does not exist is no error; asynq refuses to delete
// one that runs.
func (q *Queues) DeleteTask(queue, id string) error {
	err := q.inspector.DeleteTask(queue, id)
	if errors.Is(err, asynq.ErrTaskNotFound) || errors.Is(err, asynq.ErrQueueNotFound) {
		return nil
	}
	return err
}
