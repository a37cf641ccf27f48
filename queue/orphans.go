package queue

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/crash"
)

// orphanPause is longer than a live worker takes from taking a task to
// beginning its action, or to giving it back because it could not.
const orphanPause = patience + 500*time.Millisecond

// orphanPage is the number of held tasks looked at in one exchange.
const orphanPage = 500

// adopt puts back what was taken from the queues and never begun, because the
// worker died in between, or was not answered: the ledger knows nothing of that, and asynq
// waits one to two minutes for such a task. It is told from a task that is about to be
// begun by looking twice. Likewise a task by which an interrupted action was
// brought to a worker that died before it decided about it: the ledger still names
// the worker before that one, which nobody looks for any more.
func (s *Store) adopt(ctx context.Context, queues []string) (int, error) {
	before := make(map[string][]string, len(queues))
	for _, queue := range queues {
		held, err := s.heldUnbegun(ctx, queue)
		if err != nil {
			return 0, err
		}
		if len(held) > 0 {
			before[queue] = slices.Collect(maps.Keys(held))
		}
	}
	if len(before) == 0 {
		return 0, nil
	}
	select {
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	case <-time.After(orphanPause):
	}
	found := 0
	for queue, ids := range before {
		still, err := s.heldUnbegun(ctx, queue)
		if err != nil {
			return found, err
		}
		ids = slices.DeleteFunc(ids, func(id string) bool {
			_, ok := still[id]
			return !ok
		})
		n, err := s.requeue(ctx, queue, ids)
		found += n
		if err != nil {
			return found, err
		}
		crash.At(crash.Adopting)
	}
	return found, nil
}

// missed has the sweeper told that the queue may have tasks that were taken and that
// nobody holds, with the lock held: a turn was not answered, or they could not be given
// back. Otherwise it would find them only once their batches have stood still for a while.
func (q *lane) missed() {
	if q.Target == "" {
		return // asynq looks after webhooks
	}
	q.lost = true
	if q.telling {
		return
	}
	q.telling = true
	s := q.t.s
	s.fanouts.wg.Go(func() {
		for q.toBeTold() {
			if err := s.noteLost(s.fanouts.ctx, q.name); err != nil {
				s.log.Warn("tasks that were taken may come again late", "queue", q.name, "error", err)
			}
		}
	})
}

// toBeTold reports whether tasks were missed since it was asked last.
func (q *lane) toBeTold() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	lost := q.lost
	q.lost, q.telling = false, lost
	return lost
}

// noteLost notes that a queue may have lost tasks. Each note is told from others, so that
// the sweeper takes back only those it has seen. It goes on until Redis takes it, or the
// store is closed, and tries once even then.
func (s *Store) noteLost(ctx context.Context, queue string) (err error) {
	note := queue + " " + s.token()
	for {
		err = s.insist(ctx, func() error {
			ctx, cancel := s.within(context.WithoutCancel(ctx))
			defer cancel()
			return mapError(ctx, s.rdb.SAdd(ctx, lostKey, note).Err())
		})
		if ctx.Err() != nil || !isUnavailable(err) {
			return err
		}
	}
}

// forgetLost takes such notes back.
func (s *Store) forgetLost(ctx context.Context, notes []string) error {
	if len(notes) == 0 {
		return nil
	}
	ctx, cancel := s.within(ctx)
	defer cancel()
	return mapError(ctx, s.rdb.SRem(ctx, lostKey, notes).Err())
}

// requeue puts tasks that were taken back to the head of their queue, and returns
// how many of them somebody held. The last one is taken first.
func (s *Store) requeue(ctx context.Context, queue string, ids []string) (int, error) {
	found := 0
	prefix := asynqPrefix(queue)
	for chunk := range slices.Chunk(ids, fanOutChunk) {
		args := []any{prefix + "t:", workChannel, s.word(queue)}
		for _, id := range chunk {
			args = append(args, id)
		}
		answer, err := s.run(ctx, s.steps.requeue, []string{prefix + "active", prefix + "lease", prefix + "pending"}, args...)
		if err != nil {
			return found, fmt.Errorf("put tasks back: %w", err)
		}
		found += int(atoi(answer[0]))
	}
	if found > 0 {
		s.wake(queue)
	}
	return found, nil
}

// heldUnbegun returns the ids of the tasks of a queue that a worker holds and
// whose actions wait to be begun, or to be decided about.
func (s *Store) heldUnbegun(ctx context.Context, queue string) (map[string]struct{}, error) {
	found := make(map[string]struct{})
	for page := 1; ; page++ {
		tasks, err := s.inspect.ListActiveTasks(queue, asynq.PageSize(orphanPage), asynq.Page(page))
		if errors.Is(err, asynq.ErrQueueNotFound) {
			return found, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list the held tasks: %w", mapError(ctx, err))
		}
		if err := s.keepUnbegun(ctx, tasks, found); err != nil {
			return nil, err
		}
		if len(tasks) < orphanPage {
			return found, nil
		}
	}
}

func (s *Store) keepUnbegun(ctx context.Context, tasks []*asynq.TaskInfo, into map[string]struct{}) error {
	if len(tasks) == 0 {
		return nil
	}
	ctx, cancel := s.within(ctx)
	defer cancel()
	states, entries := make(map[string]*redis.StringCmd, len(tasks)), make(map[string]*redis.SliceCmd)
	if _, err := s.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, t := range tasks {
			if id, index, err := DecodeTask(t.Payload); err == nil && t.Type == TaskAction {
				states[t.ID] = p.GetRange(ctx, keysOf(id).state, int64(index), int64(index))
				if t.ID != taskID(id, index, "") {
					entries[t.ID] = p.HMGet(ctx, keysOf(id).ledger, strconv.Itoa(index))
				}
			}
		}
		return nil
	}); err != nil {
		return fmt.Errorf("read the states of held tasks: %w", mapError(ctx, err))
	}
	for id, state := range states {
		if state.Val() == "p" || state.Val() == "r" && bringsInterrupted(id, entries[id]) {
			into[id] = struct{}{}
		}
	}
	return nil
}

// bringsInterrupted reports whether a task was made to bring the very attempt that
// the ledger still holds as begun; see recoverBatch. Whoever decides about that
// attempt takes its token away.
func bringsInterrupted(task string, found *redis.SliceCmd) bool {
	if found == nil || len(found.Val()) == 0 {
		return false
	}
	packed, ok := found.Val()[0].(string)
	return ok && strings.HasSuffix(task, ":"+parseEntry(packed).token)
}
