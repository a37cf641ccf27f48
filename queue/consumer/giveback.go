package consumer

import (
	"context"
	"slices"
)

// giveBackAll puts tasks of any queues back.
func giveBackAll(tasks []*task) {
	byLane := make(map[*taskQueue][]*task)
	for _, k := range tasks {
		byLane[k.queue] = append(byLane[k.queue], k)
	}
	for q, tasks := range byLane {
		q.giveBack(tasks)
	}
}

// giveBack puts tasks back to where they were taken from.
func (q *taskQueue) giveBack(tasks []*task) {
	ctx, cancel := q.t.s.db.WithTimeout(context.Background())
	defer cancel()
	ids := make([]string, len(tasks))
	for i, k := range tasks {
		ids[i] = k.id
	}
	slices.Reverse(ids) // each goes to the head
	_, err := q.t.s.tasks.Requeue(ctx, q.name, ids)
	if err != nil {
		q.t.s.log.Warn("tasks not given back, they come again later", "queue", q.name, "error", err)
	}
	q.mu.Lock()
	q.count(q, -len(tasks))
	for _, k := range tasks {
		q.audit.ended(&k.slot)
	}
	q.maybeNonEmpty = true
	if err != nil {
		q.reportMissed()
	}
	q.mu.Unlock()
	q.wake()
}
