package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/queue/rdb"
)

// newTask is a task to be enqueued.
type newTask struct {
	queue, kind, id string
	payload         []byte
}

func (s *Store) tasksOf(id string, r route, round string, indexes []int) []newTask {
	tasks := make([]newTask, len(indexes))
	for i, index := range indexes {
		tasks[i] = newTask{queue: s.queueOf(r, id, index), kind: TaskAction, id: taskID(id, index, round), payload: EncodeTask(id, index)}
	}
	return tasks
}

// enqueueTasks enqueues tasks, no two of which have the same id, in one exchange,
// and wakes the workers.
func (s *Store) enqueueTasks(ctx context.Context, tasks []newTask) error {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	pipe := s.db.Client.Pipeline()
	sent := newQueueSteps(s.steps.enqueue)
	now := time.Now().UnixNano()
	for queue, messages := range messagesOf(tasks) {
		wakeup := ""
		if queue != WebhookQueue { // asynq looks for webhooks by itself
			wakeup = s.word(queue)
		}
		args := append([]any{asynqPrefix(queue) + "t:", now, workChannel, wakeup}, messages...)
		sent.add(ctx, pipe, queue, []string{asynqPrefix(queue) + "pending"}, args)
	}
	s.db.Send(ctx, pipe)
	defer func() {
		for queue := range sent.cmds {
			s.wakeLocal(queue) // even if only the answer was lost
		}
	}()
	if err := sent.read(ctx, s.db); err != nil {
		return fmt.Errorf("enqueue tasks: %w", err)
	}
	return nil
}

// messagesOf returns ids and messages of tasks in turn, by queue.
func messagesOf(tasks []newTask) map[string][]any {
	templates, messages := make(map[string]*messageTemplate), make(map[string][]any) // by queue
	for i := range tasks {
		t := &tasks[i]
		template := templates[t.queue]
		if template == nil || template.kind != t.kind {
			template = newMessageTemplate(t.queue, t.kind)
			templates[t.queue] = template
		}
		messages[t.queue] = append(messages[t.queue], t.id, template.message(t.id, t.payload))
	}
	return messages
}

// queueSteps are the commands of a pipeline that run a step on some queues, and announce these to
// asynq, which lists no task of a queue that it does not know.
type queueSteps struct {
	step      *rdb.Step
	cmds      map[string]*redis.Cmd // of the step, by queue
	announced []*redis.IntCmd
}

func newQueueSteps(step *rdb.Step) *queueSteps {
	return &queueSteps{step: step, cmds: make(map[string]*redis.Cmd)}
}

func (q *queueSteps) add(ctx context.Context, pipe redis.Pipeliner, queue string, keys []string, args []any) {
	q.announced = append(q.announced, pipe.SAdd(ctx, asynqQueues, queue))
	q.cmds[queue] = pipe.EvalSha(ctx, q.step.Hash(), keys, args...)
}

// read reads the answers, and sends a step again by its text if a server does not know it.
func (q *queueSteps) read(ctx context.Context, db *rdb.DB) error {
	var faults []error
	for _, cmd := range q.announced {
		if err := cmd.Err(); err != nil {
			faults = append(faults, fmt.Errorf("announce a queue: %w", rdb.MapError(ctx, err)))
		}
	}
	for queue, cmd := range q.cmds {
		if err := db.AnswerOf(ctx, q.step, cmd).Err(); err != nil {
			faults = append(faults, fmt.Errorf("queue %s: %w", queue, rdb.MapError(ctx, err)))
		}
	}
	return errors.Join(faults...)
}

// word is the wakeup message for a queue that has tasks. Consumers of this process ignore it: see heard.
func (s *Store) word(queue string) string { return s.db.Name + " " + queue }

// tellWorkers wakes consumers elsewhere for a queue. If the message is lost, they find the tasks when they poll.
func (s *Store) tellWorkers(ctx context.Context, queue string) {
	if err := s.db.Client.Publish(ctx, workChannel, s.word(queue)).Err(); err != nil {
		s.log.DebugContext(ctx, "consumers elsewhere not woken", "queue", queue, "error", err)
	}
}
