package repair

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/tasks"
)

const (
	// inHandPage is the most tasks that one message asks workers for.
	inHandPage = 1000
)

// askForTasks asks all workers which of some tasks they have in hand. The answers to the
// question are complete after about the time that a message and an exchange take.
func (s *rescue) askForTasks(ctx context.Context, tasks []heldTask) (token string, err error) {
	token = s.db.Token()
	for page := range slices.Chunk(tasks, inHandPage) {
		var question strings.Builder
		question.WriteString(token)
		for _, k := range page {
			question.WriteString("\n" + k.queue + " " + k.id)
		}
		if err := s.db.Publish(ctx, keys.TasksChannel, question.String()); err != nil {
			return "", fmt.Errorf("ask for tasks: %w", err)
		}
	}
	return token, nil
}

// inHand returns the tasks that workers have in hand of those that they were asked for.
func (s *rescue) inHand(ctx context.Context, token string) (map[heldTask]bool, error) {
	members, err := s.db.Members(ctx, tasks.InHandKey(token))
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
