package consumer

import (
	"context"
	"slices"
	"time"

	"github.com/batchd/batchd/queue/tasks"
)

// task is a task that the consumer took.
type task struct {
	queue *taskQueue
	id    string
	taken time.Time
	slot  Slot

	// Guarded by the mutex of the target.
	running bool // it was handed to a runner
	moving  bool // it waits for its send time, or is being given back
	suspect bool // the last audit did not find it anywhere
}

// taskQueue is one asynq queue of a target.
type taskQueue struct {
	target       *targetConsumer
	name, prefix string
	bulk         bool               // of large batches
	message      tasks.MessageParts // of its tasks

	// Guarded by the mutex of the target.
	maybeNonEmpty bool          // there may be tasks in it
	done          []string      // tasks that have ended: the next poll removes them from asynq's records
	again         []tasks.Again // tasks that failed: the next poll moves them to the retry set
	due           time.Time     // when the forwarder moves tasks of the retry set next; zero if none are known
	forwarding    bool          // an exchange that moves them is under way
	lost          bool          // there may be tasks that were taken and that no worker has
	reporting     bool          // a goroutine reports them to the sweeper
	polling       bool          // a poll of it is under way
	wanted        int           // the tasks that this poll asks for
	failed        time.Time     // from when it may be polled again, if the last poll failed
}

func newTaskQueue(t *targetConsumer, name string, bulk bool) *taskQueue {
	return &taskQueue{target: t, name: name, prefix: tasks.AsynqPrefix(name), bulk: bulk, maybeNonEmpty: true, message: tasks.NewMessageTemplate(name, tasks.TaskAction).Around()}
}

// noteEnd records when the first unreported task ended. The caller holds the lock, and adds the task afterwards.
func (q *taskQueue) noteEnd() {
	for _, other := range q.target.queues {
		if other.unreported() > 0 {
			return
		}
	}
	q.target.ended = time.Now()
}

// unreported returns how many ended tasks are not reported yet. The caller holds the lock.
func (q *taskQueue) unreported() int { return len(q.done) + len(q.again) }

// giveBackAll puts tasks of any queues back.
func giveBackAll(rest []*task) {
	byQueue := make(map[*taskQueue][]*task)
	for _, k := range rest {
		byQueue[k.queue] = append(byQueue[k.queue], k)
	}
	for q, of := range byQueue {
		q.giveBack(of)
	}
}

// giveBack puts tasks back at the head of their queue, in the order in which they were taken.
func (q *taskQueue) giveBack(rest []*task) {
	c := q.target.consumer
	ids := make([]string, len(rest))
	for i, k := range rest {
		ids[i] = k.id
	}
	slices.Reverse(ids) // each goes to the head
	_, err := c.store.Tasks.Requeue(context.Background(), q.name, ids)
	if err != nil {
		c.store.Log.Warn("tasks not given back, they come again later", "queue", q.name, "error", err)
	}
	q.target.mu.Lock()
	q.target.slots.remove(q, rest)
	q.maybeNonEmpty = true
	if err != nil {
		q.reportLost()
	}
	q.target.mu.Unlock()
	q.target.wake()
}

// reportLost tells the sweeper that the queue may have tasks that were taken and that no worker has: a poll
// had no reply, or tasks could not be given back. Otherwise the sweeper would find them
// only after their batches made no progress for a while. The caller holds the lock.
func (q *taskQueue) reportLost() {
	q.lost = true
	if q.reporting {
		return
	}
	q.reporting = true
	c := q.target.consumer
	c.store.Background.Go(func(ctx context.Context) {
		for q.takeLost() {
			if err := c.store.Tasks.ReportLost(ctx, q.name); err != nil {
				c.store.Log.WarnContext(ctx, "tasks that were taken may come again late", "queue", q.name, "error", err)
			}
		}
	})
}

// takeLost reports whether tasks may have been lost since its last call.
func (q *taskQueue) takeLost() bool {
	q.target.mu.Lock()
	defer q.target.mu.Unlock()
	lost := q.lost
	q.lost, q.reporting = false, lost
	return lost
}
