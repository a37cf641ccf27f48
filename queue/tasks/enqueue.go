package tasks

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
)

// Task is a task for [Queues.EnqueueTasks].
type Task struct {
	Queue   string
	Kind    string // [TaskAction] or [TaskWebhook]
	ID      string
	Payload []byte
}

// TasksOf returns the tasks of the actions with some indexes, in one round of a batch.
func (q *Queues) TasksOf(id string, r Route, round string, indexes []int) []Task {
	tasks := make([]Task, len(indexes))
	for i, index := range indexes {
		tasks[i] = Task{Queue: q.QueueOf(r, id, index), Kind: TaskAction, ID: TaskID(id, index, round), Payload: EncodeTask(id, index)}
	}
	return tasks
}

// TokenTask returns a task for an action whose own task is gone, or is held by a dead worker. Its id has the
// token of the attempt in place of the round, so the action gets one such task for each attempt.
func (q *Queues) TokenTask(r Route, id string, index int, token string) Task {
	return Task{Queue: q.QueueOf(r, id, index), Kind: TaskAction, ID: TaskID(id, index, token), Payload: EncodeTask(id, index)}
}

// EnqueueTasks enqueues tasks in one exchange, and wakes the workers. No two of the tasks may have the same
// id. A task whose id is taken in Redis is left out.
func (q *Queues) EnqueueTasks(ctx context.Context, tasks []Task) error {
	ctx, cancel := q.db.WithTimeout(ctx)
	defer cancel()
	pipe := q.db.Client.Pipeline()
	sent := newQueueSteps(Steps.Enqueue)
	now := time.Now().UnixNano()
	for queue, messages := range messagesOf(tasks) {
		wakeup := ""
		if queue != WebhookQueue { // asynq's server polls this queue by itself
			wakeup = q.Wakeup(queue)
		}
		args := append([]any{AsynqPrefix(queue) + "t:", now, keys.WorkChannel, wakeup}, messages...)
		sent.add(ctx, pipe, queue, []string{AsynqPrefix(queue) + "pending"}, args)
	}
	if err := sent.send(ctx, q, pipe); err != nil {
		return fmt.Errorf("enqueue tasks: %w", err)
	}
	return nil
}

// send sends the pipeline with the steps, wakes this process's consumers of the queues, and returns the
// errors of all steps.
func (qs *QueueSteps) send(ctx context.Context, q *Queues, pipe redis.Pipeliner) error {
	q.db.Send(ctx, pipe)
	defer func() {
		for queue := range qs.Cmds {
			q.WakeLocal(queue) // even if only the answer was lost
		}
	}()
	return qs.Read(ctx, q.db)
}

// messagesOf returns for each queue the id and the message of each task, one after the other.
func messagesOf(tasks []Task) map[string][]any {
	templates, messages := make(map[string]*MessageTemplate), make(map[string][]any) // by queue
	for i := range tasks {
		t := &tasks[i]
		template := templates[t.Queue]
		if template == nil || template.kind != t.Kind {
			template = NewMessageTemplate(t.Queue, t.Kind)
			templates[t.Queue] = template
		}
		messages[t.Queue] = append(messages[t.Queue], t.ID, template.Message(t.ID, t.Payload))
	}
	return messages
}

// QueueSteps are the commands of a pipeline that run one step on some queues and add the queues to asynq's
// list, without which asynq's tools do not show them.
type QueueSteps struct {
	step      *rdb.Step
	Cmds      map[string]*redis.Cmd // those of the step, by queue
	announced []*redis.IntCmd
}

func newQueueSteps(step *rdb.Step) *QueueSteps {
	return &QueueSteps{step: step, Cmds: make(map[string]*redis.Cmd)}
}

func (qs *QueueSteps) add(ctx context.Context, pipe redis.Pipeliner, queue string, names []string, args []any) {
	qs.announced = append(qs.announced, pipe.SAdd(ctx, keys.AsynqQueues, queue))
	qs.Cmds[queue] = pipe.EvalSha(ctx, qs.step.Hash(), names, args...)
}

// Read reads the answers, and returns the errors of all queues. It sends a step again by its text if the
// server does not know the step.
func (qs *QueueSteps) Read(ctx context.Context, db *rdb.DB) error {
	var faults []error
	for _, cmd := range qs.announced {
		if err := cmd.Err(); err != nil {
			faults = append(faults, fmt.Errorf("announce a queue: %w", rdb.MapError(ctx, err)))
		}
	}
	for queue, cmd := range qs.Cmds {
		if err := db.AnswerOf(ctx, qs.step, cmd).Err(); err != nil {
			faults = append(faults, fmt.Errorf("queue %s: %w", queue, rdb.MapError(ctx, err)))
		}
	}
	return errors.Join(faults...)
}
