package consumer

import (
	"context"
	"strings"
	"time"

	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
)

const (
	// inHandLasts is how long the answers of workers are kept.
	inHandLasts = time.Minute
)

// askedForTasks answers the question which of some tasks this process has in hand. Without an
// answer they come again, and the ledger decides about them.
func (t *consumer) askedForTasks(message string) {
	token, lines, _ := strings.Cut(message, "\n")
	ids := make(map[string][]string) // by queue
	for line := range strings.SplitSeq(lines, "\n") {
		if queue, id, ok := strings.Cut(line, " "); ok {
			ids[queue] = append(ids[queue], id)
		}
	}
	var found []any
	for queue, of := range ids {
		q := t.queues[queue]
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
	s := t.s
	s.background.Go(func(ctx context.Context) {
		ctx, cancel := s.db.WithTimeout(ctx)
		defer cancel()
		pipe := s.db.Client.Pipeline()
		pipe.SAdd(ctx, tasks.InHandKey(token), found...)
		pipe.PExpire(ctx, tasks.InHandKey(token), inHandLasts)
		if _, err := pipe.Exec(ctx); err != nil {
			s.log.Debug("question for tasks in hand not answered", "error", rdb.MapError(ctx, err))
		}
	})
}

// tasksInHand returns the tasks of a queue that this process has in hand.
func (q *taskQueue) tasksInHand() map[string]bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	has := make(map[string]bool)
	for _, k := range q.audit.held {
		if k.queue == q {
			has[k.id] = true
		}
	}
	for _, a := range q.again { // it is still to be told when these come again
		has[a.ID] = true
	}
	return has
}
