package tasks

import (
	"context"

	"github.com/batchd/batchd/queue/keys"
)

// WakeLocal wakes the consumers of this process for a queue.
func (q *Queues) WakeLocal(queue string) {
	if q.Local != nil {
		q.Local(queue)
	}
}

// Wakeup returns the message on [keys.WorkChannel] that wakes the consumers of other processes for a queue. It
// begins with the name of this process, whose consumers ignore it.
func (q *Queues) Wakeup(queue string) string { return q.db.Name + " " + queue }

// WakeWorkers wakes the consumers of other processes for a queue. If the message is lost, they find the tasks
// when they poll the next time.
func (q *Queues) WakeWorkers(ctx context.Context, queue string) {
	if err := q.db.Client.Publish(ctx, keys.WorkChannel, q.Wakeup(queue)).Err(); err != nil {
		q.log.DebugContext(ctx, "consumers elsewhere not woken", "queue", queue, "error", err)
	}
}
