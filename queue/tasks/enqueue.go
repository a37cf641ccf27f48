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

// NewTask is a task to be enqueued.
type NewTask struct {
	Queue, Kind, ID string
	Payload         []byte
}

func (s *Queues) TasksOf(id string, r Route, round string, indexes []int) []NewTask {
	tasks := make([]NewTask, len(indexes))
	for i, index := range indexes {
		tasks[i] = NewTask{Queue: s.QueueOf(r, id, index), Kind: TaskAction, ID: TaskID(id, index, round), Payload: EncodeTask(id, index)}
	}
	return tasks
}

// EnqueueTasks enqueues tasks, no two of which have the same id, in one exchange,
// and wakes the workers.
func (s *Queues) EnqueueTasks(ctx context.Context, tasks []NewTask) error {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	pipe := s.db.Client.Pipeline()
	sent := newQueueSteps(Steps.Enqueue)
	now := time.Now().UnixNano()
	for queue, messages := range messagesOf(tasks) {
		wakeup := ""
		if queue != WebhookQueue { // asynq looks for webhooks by itself
			wakeup = s.Wakeup(queue)
		}
		args := append([]any{AsynqPrefix(queue) + "t:", now, keys.WorkChannel, wakeup}, messages...)
		sent.add(ctx, pipe, queue, []string{AsynqPrefix(queue) + "pending"}, args)
	}
	s.db.Send(ctx, pipe)
	defer func() {
		for queue := range sent.Cmds {
			s.WakeLocal(queue) // even if only the answer was lost
		}
	}()
	if err := sent.Read(ctx, s.db); err != nil {
		return fmt.Errorf("enqueue tasks: %w", err)
	}
	return nil
}

// messagesOf returns ids and messages of tasks in turn, by queue.
func messagesOf(tasks []NewTask) map[string][]any {
	templates, messages := make(map[string]*messageTemplate), make(map[string][]any) // by queue
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

// QueueSteps are the commands of a pipeline that run a step on some queues, and announce these to
// asynq, which lists no task of a queue that it does not know.
type QueueSteps struct {
	step      *rdb.Step
	Cmds      map[string]*redis.Cmd // of the step, by queue
	announced []*redis.IntCmd
}

func newQueueSteps(step *rdb.Step) *QueueSteps {
	return &QueueSteps{step: step, Cmds: make(map[string]*redis.Cmd)}
}

func (q *QueueSteps) add(ctx context.Context, pipe redis.Pipeliner, queue string, names []string, args []any) {
	q.announced = append(q.announced, pipe.SAdd(ctx, keys.AsynqQueues, queue))
	q.Cmds[queue] = pipe.EvalSha(ctx, q.step.Hash(), names, args...)
}

// Read reads the answers, and sends a step again by its text if a server does not know it.
func (q *QueueSteps) Read(ctx context.Context, db *rdb.DB) error {
	var faults []error
	for _, cmd := range q.announced {
		if err := cmd.Err(); err != nil {
			faults = append(faults, fmt.Errorf("announce a queue: %w", rdb.MapError(ctx, err)))
		}
	}
	for queue, cmd := range q.Cmds {
		if err := db.AnswerOf(ctx, q.step, cmd).Err(); err != nil {
			faults = append(faults, fmt.Errorf("queue %s: %w", queue, rdb.MapError(ctx, err)))
		}
	}
	return errors.Join(faults...)
}

// Wakeup is the wakeup message for a queue that has tasks. Consumers of this process ignore it: see heard.
func (s *Queues) Wakeup(queue string) string { return s.db.Name + " " + queue }

// WakeWorkers wakes consumers elsewhere for a queue. If the message is lost, they find the tasks when they poll.
func (s *Queues) WakeWorkers(ctx context.Context, queue string) {
	if err := s.db.Client.Publish(ctx, keys.WorkChannel, s.Wakeup(queue)).Err(); err != nil {
		s.log.DebugContext(ctx, "consumers elsewhere not woken", "queue", queue, "error", err)
	}
}

// TokenTask is a task that brings an action whose own task has no worker, or is gone.
// The token makes another one of it: the same one however often this attempt is found.
func (s *Queues) TokenTask(r Route, id string, index int, token string) NewTask {
	return NewTask{Queue: s.QueueOf(r, id, index), Kind: TaskAction, ID: TaskID(id, index, token), Payload: EncodeTask(id, index)}
}

// WakeLocal tells the consumers of this process that a queue has tasks.
func (s *Queues) WakeLocal(queue string) {
	if s.Local != nil {
		s.Local(queue)
	}
}
