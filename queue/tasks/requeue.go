package tasks

import (
	"context"
	"fmt"
	"slices"

	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
)

// Requeue puts tasks that were taken back to the head of their queue, and returns
// how many of them somebody held. The last one is taken first.
func (s *Queues) Requeue(ctx context.Context, queue string, ids []string) (int, error) {
	found := 0
	prefix := AsynqPrefix(queue)
	for chunk := range slices.Chunk(ids, FanOutChunk) {
		args := []any{prefix + "t:", keys.WorkChannel, s.Wakeup(queue)}
		for _, id := range chunk {
			args = append(args, id)
		}
		answer, err := s.db.Run(ctx, Steps.Requeue, []string{prefix + "active", prefix + "lease", prefix + "pending"}, args...)
		if err != nil {
			return found, fmt.Errorf("put tasks back: %w", err)
		}
		found += int(rdb.Atoi(answer[0]))
	}
	if found > 0 {
		s.WakeLocal(queue)
	}
	return found, nil
}
