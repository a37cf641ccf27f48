package consumer

import (
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/batchd/batchd/queue/tasks"
)

// runners run the tasks of a target, each one after another. A runner stays when there are no tasks, so that
// its stack keeps the size that an HTTP exchange needs. The mutex of the target guards them: its holder calls
// their methods.
type runners struct {
	consumer *consumer
	out      chan *task // tasks that were handed over; it has room for all
	all      []*runner
	idle     int // runners without a task, in the sense that each task in out has a runner already
	stopped  bool
}

// runner is a goroutine that runs tasks.
type runner struct {
	now atomic.Pointer[task] // the task that it runs
}

// hand hands a task to a runner that is idle, or to a new one.
func (r *runners) hand(k *task) {
	k.running, k.moving = true, false
	r.out <- k
	switch {
	case r.consumer.action == nil: // a test receives from out
	case r.idle > 0:
		r.idle--
	default:
		n := &runner{}
		r.all = append(r.all, n)
		r.consumer.runners.Go(func() { n.run(r) })
	}
}

func (n *runner) run(r *runners) {
	for k := range r.out {
		n.now.Store(k)
		err := r.consumer.runTask(k)
		n.now.Store(nil)
		k.ran(err)
	}
}

// tasks returns the tasks that run.
func (r *runners) tasks() (running []*task) {
	for _, n := range r.all {
		if k := n.now.Load(); k != nil {
			running = append(running, k)
		}
	}
	return running
}

// stop takes away the tasks that no runner has begun, and ends each runner when it is idle. The consumer must
// have stopped: nothing is handed over any more.
func (r *runners) stop() (rest []*task) {
	if r.stopped {
		return nil
	}
	r.stopped = true
	close(r.out)
	for k := range r.out { // runners may receive some meanwhile
		k.running, k.moving = false, true
		rest = append(rest, k)
	}
	return rest
}

// ran takes in how a task ended, of a runner that is idle then.
func (k *task) ran(err error) {
	q, t := k.queue, k.queue.target
	t.mu.Lock()
	t.runners.idle++
	q.noteEnd()
	if err == nil {
		q.done = append(q.done, k.id)
	} else {
		q.again = append(q.again, tasks.Again{ID: k.id, At: time.Now().Add(t.consumer.retryDelay(0, err, nil))})
	}
	t.slots.end(&k.slot)
	t.mu.Unlock()
	t.wake()
}

// runTask runs the action of a task.
func (c *consumer) runTask(k *task) (err error) {
	defer func() {
		if v := recover(); v != nil {
			c.store.Log.Error("panic in a task", "queue", k.queue.name, "task", k.id, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	k.slot.since = time.Now()
	id, index, ok := tasks.ParseTaskID(k.id)
	if !ok {
		c.store.Log.Error("dropped a task that is none of ours", "queue", k.queue.name, "task", k.id)
		return nil
	}
	return c.action(id, index, &k.slot)
}
