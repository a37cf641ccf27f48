package consumer

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/batchd/batchd/queue/tasks"
)

// leaseEvery is how often the leases of tasks that are run for longer are renewed.
const leaseEvery = tasks.AsynqLease / 3

// runner runs tasks of a line, one after another. It stays when there are none, so
// that while there are many its stack has grown to what an HTTP exchange needs.
type runner struct {
	now atomic.Pointer[task] // what it runs
}

// hand has a task run by a runner that is idle, or by a new one, with the lock held.
func (l *targetConsumer) hand(k *task) {
	k.running, k.moving = true, false
	l.out <- k
	switch {
	case l.t.action == nil: // a test takes it from there
	case l.idle > 0:
		l.idle--
	default:
		r := &runner{}
		l.runners = append(l.runners, r)
		l.t.runners.Go(func() {
			for k := range l.out {
				r.now.Store(k)
				err := l.t.runTask(k)
				r.now.Store(nil)
				k.ran(err)
			}
		})
	}
}

// ran notes that a task was run, by a runner that then is idle.
func (k *task) ran(err error) {
	q := k.queue
	q.mu.Lock()
	q.idle++
	q.noteEnd()
	if err == nil {
		q.done = append(q.done, k.id)
	} else {
		q.again = append(q.again, tasks.Again{ID: k.id, At: time.Now().Add(q.t.later(0, err, nil))})
	}
	k.slot.endLocked()
	q.mu.Unlock()
	q.wake()
}

// runTask runs the task of an action.
func (t *consumer) runTask(k *task) (err error) {
	defer func() {
		if v := recover(); v != nil {
			t.s.log.Error("panic in a task", "queue", k.queue.name, "task", k.id, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	k.slot.since = time.Now()
	id, index, ok := tasks.ParseTaskID(k.id)
	if !ok {
		t.s.log.Error("dropped a task that is none of ours", "queue", k.queue.name, "task", k.id)
		return nil
	}
	return t.action(id, index, &k.slot)
}

// unrun takes away what no runner has begun, and has the runners end when they have
// nothing to do.
func (l *targetConsumer) unrun() (tasks []*task) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.shut {
		return nil
	}
	l.shut = true
	close(l.out)           // the server has stopped: nothing is handed over any more
	for k := range l.out { // runners take some, too
		k.running, k.moving = false, true
		tasks = append(tasks, k)
	}
	l.addRunning(-len(tasks))
	return tasks
}

// keepLeases renews the leases of what is run for longer, as asynq does it for what it
// runs itself: it would take the tasks for lost.
func (t *consumer) keepLeases() {
	tick := time.NewTicker(leaseEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			t.renewLeases(time.Now())
		case <-t.closed:
			return
		}
	}
}

func (t *consumer) renewLeases(now time.Time) {
	held := make(map[string][]string) // ids by queue
	for _, l := range t.targets {
		l.mu.Lock()
		for _, r := range l.runners {
			if k := r.now.Load(); k != nil && now.Sub(k.taken) >= leaseEvery/2 {
				held[k.queue.name] = append(held[k.queue.name], k.id)
			}
		}
		l.mu.Unlock()
	}
	if len(held) == 0 {
		return
	}
	for _, err := range t.s.tasks.RenewLeases(context.Background(), held) {
		t.s.log.Warn("leases not renewed", "error", err)
	}
}
