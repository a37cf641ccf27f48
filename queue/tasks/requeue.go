package tasks

import (
	"context"
	"fmt"
	"slices"

	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
)

// Requeue puts running tasks back to the head of their queue, so that the last one is taken first, and wakes
// the workers. It returns the number of those that were running; the others are left alone.
func (q *Queues) Requeue(ctx context.Context, queue string, ids []string) (int, error) {
	found := 0
	prefix := AsynqPrefix(queue)
	for chunk := range slices.Chunk(ids, MostEnded) {
		args := []any{prefix + "t:", keys.WorkChannel, q.Wakeup(queue)}
		for _, id := range chunk {
			args = append(args, id)
		}
		answer, err := q.db.Run(ctx, Steps.Requeue, []string{prefix + "active", prefix + "lease", prefix + "pending"}, args...)
		if err != nil {
			return found, fmt.Errorf("put tasks back: %w", err)
		}
		found += int(rdb.Atoi(answer[0]))
	}
	if found > 0 {
		q.WakeLocal(queue)
	}
	return found, nil
}
