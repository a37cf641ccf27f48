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
	// inHandPage is the most tasks in one question to the workers.
	inHandPage = 1000
)

// askForTasks asks all workers which of the given tasks they have in hand, and returns the token of
// the question, for inHand. The answers are complete after about the time of a message and an
// exchange.
func (r *rescue) askForTasks(ctx context.Context, tasks []heldTask) (token string, err error) {
	token = r.db.Token()
	for page := range slices.Chunk(tasks, inHandPage) {
		var question strings.Builder
		question.WriteString(token)
		for _, k := range page {
			question.WriteString("\n" + k.queue + " " + k.id)
		}
		if err := r.db.Publish(ctx, keys.TasksChannel, question.String()); err != nil {
			return "", fmt.Errorf("ask for tasks: %w", err)
		}
	}
	return token, nil
}

// inHand returns the tasks of the question that workers have in hand, by their answers so far.
func (r *rescue) inHand(ctx context.Context, token string) (map[heldTask]bool, error) {
	members, err := r.db.Members(ctx, tasks.InHandKey(token))
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
