package queue

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
)

const (
	// stallPatience is how long nothing of a batch may end before the sweeper
	// asks whether something of it was lost.
	stallPatience = 15 * time.Second
	// stallActions is the most waiting actions that are looked at in one round.
	stallActions = 5000
)

// stalls remembers, between the sweeper's rounds, since when batches stand still.
type stalls struct {
	now, before map[string]stall
	queues      []string // where tasks of batches that stand still may be held by nobody
}

type stall struct {
	pending string
	since   time.Time
	cursor  int
}

// nextRound forgets the batches that the last round did not meet.
func (s *stalls) nextRound() {
	s.now, s.before, s.queues = make(map[string]stall, len(s.now)), s.now, nil
}

// mendStall brings back what a batch that stands still may have lost: a waiting
// action's task, as with a queue that somebody emptied, the holder of an action
// in flight, or the answer that told a worker that it took a task. A batch may stand still for good reasons, too: doing this to
// it changes nothing.
func (s *Store) mendStall(ctx context.Context, id string, m map[string]string, now time.Time, swept *batch.Swept) error {
	was, known := s.stalls.before[id]
	if !known || was.pending != m["pending"] {
		was = stall{pending: m["pending"], since: now}
	}
	s.stalls.now[id] = was
	if now.Sub(was.since) < stallPatience {
		return nil
	}
	lost, cursor, err := s.enqueueWaiting(ctx, id, m, was.cursor, int(atoi(m["enqueued"])))
	swept.Lost += lost
	if err != nil {
		return err
	}
	was.cursor = cursor
	if cursor == 0 {
		was.since = now
	}
	s.stalls.now[id] = was
	alive, err := s.alive(ctx)
	if err != nil {
		return err
	}
	lost, err = s.recoverBatch(ctx, id, m, func(e entry) bool {
		return !slices.Contains(alive, e.worker) && now.Sub(e.started) > stallPatience
	})
	swept.Lost += lost
	s.stalls.queues = append(s.stalls.queues, s.queuesOf(routeOf(m))...)
	return err
}

// enqueueWaiting enqueues waiting actions from the cursor up to an index, those that have a
// task aside. It returns the next cursor, 0 at the end.
func (s *Store) enqueueWaiting(ctx context.Context, id string, m map[string]string, cursor, upTo int) (lost, next int, err error) {
	if cursor >= upTo {
		return 0, 0, nil
	}
	look, cancel := s.within(ctx)
	defer cancel()
	all, err := s.rdb.GetRange(look, keysOf(id).state, int64(cursor), int64(upTo-1)).Result()
	if err != nil {
		return 0, 0, mapError(look, err)
	}
	var waiting []int
	for i := range len(all) {
		if all[i] != 'p' {
			continue
		}
		if len(waiting) == stallActions {
			next = cursor + i
			break
		}
		waiting = append(waiting, cursor+i)
	}
	for chunk := range slices.Chunk(waiting, fanOutChunk) {
		got, err := s.enqueue(ctx, id, routeOf(m), m["round"], chunk)
		lost += got.added
		if err != nil {
			return lost, cursor, fmt.Errorf("bring back lost tasks: %w", err)
		}
	}
	return lost, next, nil
}

// enqueueAllWaiting enqueues all waiting actions in a range, those that have a task aside.
func (s *Store) enqueueAllWaiting(ctx context.Context, id string, m map[string]string, from, upTo int) error {
	for {
		_, next, err := s.enqueueWaiting(ctx, id, m, from, upTo)
		if err != nil || next == 0 {
			return err
		}
		from = next
	}
}

// alive returns the workers that are not dead.
func (s *Store) alive(ctx context.Context) ([]string, error) {
	now, err := s.now(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := s.within(ctx)
	defer cancel()
	names, err := s.rdb.ZRangeByScore(ctx, workersKey, &redis.ZRangeBy{
		Min: fmt.Sprint(now.Add(-batch.DeadAfter).UnixMilli()), Max: "+inf",
	}).Result()
	return names, mapError(ctx, err)
}
