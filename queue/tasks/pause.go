package tasks

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/hibiken/asynq"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
)

// EachLane pauses or unpauses all queues of a target. asynq answers an error
// where that changes nothing.
func (s *Queues) EachLane(ctx context.Context, target string, change func(queue string) error) error {
	for _, queue := range append(s.QueuesOf(Route{target, batch.Interactive}), s.QueuesOf(Route{target, batch.Bulk})...) {
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

// TaskQueues returns the queues of actions that there are.
func (s *Queues) TaskQueues(ctx context.Context) ([]string, error) {
	all, err := s.db.Members(ctx, keys.AsynqQueues)
	if err != nil {
		return nil, fmt.Errorf("list the queues: %w", err)
	}
	queues := all[:0]
	for _, queue := range all {
		if queue != WebhookQueue {
			queues = append(queues, queue)
		}
	}
	return queues, nil
}
