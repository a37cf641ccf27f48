package queue

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/batchd/batchd/queue/rdb"
)

const (
	// inHandPage is the most tasks that one message asks workers for.
	inHandPage = 1000
	// inHandLasts is how long the answers of workers are kept.
	inHandLasts = time.Minute
)

// inHandKey has the tasks that workers said to have in hand when they were asked with a token.
func inHandKey(token string) string { return "batchd:inhand:" + token }

// askForTasks asks all workers which of some tasks they have in hand. The answers to the
// question are complete after about the time that a message and an exchange take.
func (s *Store) askForTasks(ctx context.Context, tasks []heldTask) (token string, err error) {
	token = s.db.Token()
	for page := range slices.Chunk(tasks, inHandPage) {
		var question strings.Builder
		question.WriteString(token)
		for _, k := range page {
			question.WriteString("\n" + k.queue + " " + k.id)
		}
		if err := s.db.Publish(ctx, tasksChannel, question.String()); err != nil {
			return "", fmt.Errorf("ask for tasks: %w", err)
		}
	}
	return token, nil
}

// inHand returns the tasks that workers have in hand of those that they were asked for.
func (s *Store) inHand(ctx context.Context, token string) (map[heldTask]bool, error) {
	members, err := s.db.Members(ctx, inHandKey(token))
	if err != nil {
		return nil, fmt.Errorf("read which tasks workers have: %w", err)
	}
	found := make(map[heldTask]bool, len(members))
	for _, member := range members {
		queue, id, _ := strings.Cut(member, " ")
		found[heldTask{queue, id}] = true
	}
	return found, nil
}

// askedForTasks answers the question which of some tasks this process has in hand. Without an
// answer they come again, and the ledger decides about them.
func (t *taker) askedForTasks(message string) {
	token, lines, _ := strings.Cut(message, "\n")
	ids := make(map[string][]string) // by queue
	for line := range strings.SplitSeq(lines, "\n") {
		if queue, id, ok := strings.Cut(line, " "); ok {
			ids[queue] = append(ids[queue], id)
		}
	}
	var found []any
	for queue, of := range ids {
		q := t.lanes[queue]
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
		pipe.SAdd(ctx, inHandKey(token), found...)
		pipe.PExpire(ctx, inHandKey(token), inHandLasts)
		if _, err := pipe.Exec(ctx); err != nil {
			s.log.Debug("question for tasks in hand not answered", "error", rdb.MapError(ctx, err))
		}
	})
}

// tasksInHand returns the tasks of a queue that this process has in hand.
func (q *lane) tasksInHand() map[string]bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	has := make(map[string]bool)
	for _, k := range q.audit.held {
		if k.lane == q {
			has[k.id] = true
		}
	}
	for _, a := range q.again { // it is still to be told when these come again
		has[a.ID] = true
	}
	return has
}
