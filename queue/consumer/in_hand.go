package consumer

import (
	"context"
	"strings"
	"time"

	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
)

// inHandLasts is how long Redis keeps the answers of workers to a question for tasks.
const inHandLasts = time.Minute

// onTasksQuestion answers the sweeper's question which of some tasks this process has in hand. If the answer
// is lost, the sweeper puts the tasks back, and the ledger prevents that an action runs twice.
func (c *consumer) onTasksQuestion(message string) {
	token, lines, _ := strings.Cut(message, "\n")
	ids := make(map[string][]string) // by queue
	for line := range strings.SplitSeq(lines, "\n") {
		if queue, id, ok := strings.Cut(line, " "); ok {
			ids[queue] = append(ids[queue], id)
		}
	}
	var found []any
	for queue, of := range ids {
		q := c.queues[queue]
		if q == nil {
			continue
		}
		has := q.tasksInHand()
		for _, id := range of {
			if has[id] {
				found = append(found, queue+" "+id)
			}
		}
	}
	if len(found) == 0 {
		return
	}
	c.store.Background.Go(func(ctx context.Context) {
		if _, err := c.store.DB.Run(ctx, tasks.Steps.InHand, []string{tasks.InHandKey(token)}, append([]any{rdb.Millis(inHandLasts)}, found...)...); err != nil {
			c.store.Log.DebugContext(ctx, "question for tasks in hand not answered", "error", err)
		}
	})
}

// tasksInHand returns the ids of the queue's tasks that this process has in hand.
func (q *taskQueue) tasksInHand() map[string]bool {
	t := q.target
	t.mu.Lock()
	defer t.mu.Unlock()
	has := make(map[string]bool)
	for _, k := range t.slots.held {
		if k.queue == q {
			has[k.id] = true
		}
	}
	for _, a := range q.again { // the next poll moves these to the retry set
		has[a.ID] = true
	}
	return has
}
