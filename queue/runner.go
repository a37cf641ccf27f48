package queue

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/queue/rdb"
)

// leaseEvery is how often the leases of tasks that are run for longer are renewed.
const leaseEvery = asynqLease / 3

// runner runs tasks of a line, one after another. It stays when there are none, so
// that while there are many its stack has grown to what an HTTP exchange needs.
type runner struct {
	now atomic.Pointer[task] // what it runs
}

// hand has a task run by a runner that is idle, or by a new one, with the lock held.
func (l *line) hand(k *task) {
	k.seated, k.moving = true, false
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
	q := k.lane
	q.mu.Lock()
	q.idle++
	q.noteEnd()
	if err == nil {
		q.done = append(q.done, k.id)
	} else {
		q.again = append(q.again, Again{ID: k.id, At: time.Now().Add(q.t.later(0, err, nil))})
	}
	k.place.endLocked()
	q.mu.Unlock()
	q.wake()
}

// runTask runs the task of an action.
func (t *taker) runTask(k *task) (err error) {
	defer func() {
		if v := recover(); v != nil {
			t.s.log.Error("panic in a task", "queue", k.lane.name, "task", k.id, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	k.place.since = time.Now()
	id, index, ok := parseTaskID(k.id)
	if !ok {
		t.s.log.Error("dropped a task that is none of ours", "queue", k.lane.name, "task", k.id)
		return nil
	}
	return t.action(id, index, &k.place)
}

// parseTaskID returns the batch and the index of the action that a task with that id
// runs; see taskID.
func parseTaskID(task string) (id string, index int, ok bool) {
	id, rest, _ := strings.Cut(task, ":")
	number, _, _ := strings.Cut(rest, ":")
	index, err := strconv.Atoi(number)
	return id, index, err == nil && index >= 0 && id != ""
}

// unrun takes away what no runner has begun, and has the runners end when they have
// nothing to do.
func (l *line) unrun() (tasks []*task) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.shut {
		return nil
	}
	l.shut = true
	close(l.out)           // the server has stopped: nothing is handed over any more
	for k := range l.out { // runners take some, too
		k.seated, k.moving = false, true
		tasks = append(tasks, k)
	}
	l.sit(-len(tasks))
	return tasks
}

// keepLeases renews the leases of what is run for longer, as asynq does it for what it
// runs itself: it would take the tasks for lost.
func (t *taker) keepLeases() {
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

func (t *taker) renewLeases(now time.Time) {
	held := make(map[*lane][]any)
	for _, l := range t.lines {
		l.mu.Lock()
		for _, r := range l.runners {
			if k := r.now.Load(); k != nil && now.Sub(k.taken) >= leaseEvery/2 {
				held[k.lane] = append(held[k.lane], k.id)
			}
		}
		l.mu.Unlock()
	}
	if len(held) == 0 {
		return
	}
	ctx, cancel := t.s.db.WithTimeout(context.Background())
	defer cancel()
	pipe := t.s.db.Client.Pipeline()
	var renewed []*redis.Cmd
	for q, ids := range held {
		for some := range slices.Chunk(ids, mostEnded) {
			args := append([]any{int(asynqLease.Seconds())}, some...)
			renewed = append(renewed, pipe.EvalSha(ctx, t.s.steps.renew.Hash(), []string{q.prefix + "lease"}, args...))
		}
	}
	t.s.db.Send(ctx, pipe)
	for _, cmd := range renewed {
		if err := t.s.db.AnswerOf(ctx, t.s.steps.renew, cmd).Err(); err != nil {
			t.s.log.Warn("leases not renewed", "error", rdb.MapError(ctx, err))
		}
	}
}
