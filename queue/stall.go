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
	stallPatience = 4 * time.Second
	// commitPatience is how long an upload may take from writing its entry to its commit.
	commitPatience = time.Minute
	// noHolder is how long an action that is begun may have no holder: a group waits like
	// that for its next attempt.
	noHolder = 15 * time.Second
	// pruneEvery is how often the sweeper forgets batches that it does not meet any more.
	pruneEvery = time.Minute
	// stallActions is the most waiting actions that are looked at in one round.
	stallActions = 5000
)

// stalls remembers, between the sweeper's rounds, since when batches stand still.
type stalls struct {
	now    map[string]stall
	queues []string  // where tasks of batches that stand still may be held by no worker
	asked  time.Time // when these were last looked through
	pruned time.Time // when batches that are not met any more were last forgotten
	most   int       // the most open batches since then
}

type stall struct {
	pending string
	since   time.Time
	met     time.Time // when the batch was last looked at, by the clock of this process
	cursor  int
	broke   bool // the last look at it took all of its time
	checked bool // it was once looked through for something lost
}

// nextRound begins a round.
func (s *stalls) nextRound() {
	if s.now == nil {
		s.now = make(map[string]stall)
	}
}

// due returns the queues that are to be looked through now: from time to time, or at once if
// work may have been lost.
func (s *stalls) due(alerted bool) (queues []string) {
	if len(s.queues) == 0 || !alerted && time.Since(s.asked) < suspectsEvery {
		return nil
	}
	queues, s.queues, s.asked = s.queues, nil, time.Now()
	return queues
}

// note notes how a batch stands, and reports whether something of it has ended since the last
// look, or whether its upload may be about to commit. Entries without a batch that are older
// are of uploads that came to nothing.
func (s *stalls) note(id string, m map[string]string, now time.Time) (changed bool) {
	was, known := s.now[id]
	if !known || was.pending != m["pending"] {
		s.now[id] = stall{pending: m["pending"], since: now, met: time.Now()}
		return true
	}
	was.met = time.Now()
	s.now[id] = was
	return m["status"] == "" && now.Sub(was.since) < commitPatience
}

// earlier returns when a batch is due, if that is to be earlier: whatever has changed last may
// be something that Redis forgot, so a batch is looked through once after each change, and
// one that is being looked through is looked at until the end.
func (s *stalls) earlier(id string, m map[string]string, due time.Time) time.Time {
	was := s.now[id]
	if was.since.IsZero() || was.cursor == 0 && (was.checked || m["throttle"] != "" || neverRan(m)) {
		return due
	}
	if first := was.since.Add(stallPatience); first.Before(due) {
		return first
	}
	return due
}

// neverRan reports whether nothing of a batch was begun yet that Redis could forget.
func neverRan(m map[string]string) bool {
	return batch.Status(m["status"]) == batch.StatusQueued && m["retried"] == ""
}

// goOn notes that the last look at a batch took all of its time.
func (s *stalls) goOn(id string) {
	was := s.now[id]
	was.broke = true
	s.now[id] = was
}

// goesOn reports whether the last look at a batch took all of its time, and notes that another
// one begins.
func (s *stalls) goesOn(id string) bool {
	was := s.now[id]
	broke := was.broke
	was.broke = false
	s.now[id] = was
	return broke
}

// forget forgets a batch that has ended.
func (s *stalls) forget(id string) { delete(s.now, id) }

// prune forgets batches that were not looked at for longer than any open one is not, with so
// many open: they were deleted, or another process has removed their entries.
func (s *stalls) prune(open int, now time.Time) {
	s.most = max(s.most, open)
	if now.Sub(s.pruned) < pruneEvery {
		return
	}
	oldest := now.Add(-2*idleFor(s.most) - pruneEvery)
	for id, was := range s.now {
		if was.met.Before(oldest) {
			delete(s.now, id)
		}
	}
	s.pruned, s.most = now, open
}

// mendStall brings back what a batch that stands still may have lost: a waiting
// action's task, as with a queue that somebody emptied, the holder of an action
// in flight, or the answer that told a worker that it took a task. A batch may stand still for good reasons, too: doing this to
// it changes nothing.
func (s *Store) mendStall(ctx context.Context, id string, m map[string]string, now time.Time, swept *batch.Swept) error {
	was := s.stalls.now[id]
	if now.Sub(was.since) < stallPatience {
		return nil
	}
	lost, cursor, err := s.enqueueWaiting(ctx, id, m, was.cursor, int(atoi(m["enqueued"])), true)
	swept.Lost += lost
	if lost > 0 { // others may have lost something, too
		s.schedule.lookAtAll()
	}
	was.cursor = cursor
	if err != nil {
		s.stalls.now[id] = was // the next look goes on from here
		return err
	}
	if cursor == 0 {
		was.since, was.checked = now, true
	}
	s.stalls.now[id] = was
	// Groups that were given back, and actions that their workers gave up, have no holder;
	// see checkHolders for those that have one.
	lost, err = s.recoverBatch(ctx, id, m, func(e entry) bool { return e.worker == "" && now.Sub(e.started) > noHolder })
	swept.Lost += lost
	s.stalls.queues = append(s.stalls.queues, s.queuesOf(routeOf(m))...)
	return err
}

// enqueueWaiting enqueues waiting actions from the cursor up to an index, those that have a
// task aside: if almost all of them should have one, it asks for those first, which costs
// less. It returns the next cursor, 0 at the end; with an error, that of what it did not come to.
func (s *Store) enqueueWaiting(ctx context.Context, id string, m map[string]string, cursor, upTo int, ask bool) (lost, next int, err error) {
	if cursor >= upTo {
		return 0, 0, nil
	}
	look, cancel := s.withTimeout(ctx)
	defer cancel()
	all, err := s.rdb.GetRange(look, keysOf(id).state, int64(cursor), int64(upTo-1)).Result()
	if err != nil {
		return 0, cursor, mapError(look, err)
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
		if ask {
			all, err := s.haveTasks(ctx, s.tasksOf(id, routeOf(m), m["round"], chunk))
			if err != nil {
				return lost, chunk[0], fmt.Errorf("look for lost tasks: %w", err)
			}
			if all {
				continue
			}
		}
		got, err := s.enqueue(ctx, id, routeOf(m), m["round"], chunk)
		lost += got.added
		if err != nil {
			return lost, chunk[0], fmt.Errorf("bring back lost tasks: %w", err)
		}
	}
	return lost, next, nil
}

// enqueueAllWaiting enqueues all waiting actions in a range, those that have a task aside.
func (s *Store) enqueueAllWaiting(ctx context.Context, id string, m map[string]string, from, upTo int) error {
	for {
		_, next, err := s.enqueueWaiting(ctx, id, m, from, upTo, false)
		if err != nil || next == 0 {
			return err
		}
		from = next
	}
}

// haveTasks reports whether all of some tasks exist.
func (s *Store) haveTasks(ctx context.Context, tasks []newTask) (bool, error) {
	ctx, cancel := s.withTimeout(ctx)
	defer cancel()
	keys := make(map[string][]string) // by queue, since those of a queue are on one node
	for _, t := range tasks {
		keys[t.queue] = append(keys[t.queue], asynqPrefix(t.queue)+"t:"+t.id)
	}
	pipe := s.rdb.Pipeline()
	counts := make([]*redis.IntCmd, 0, len(keys))
	for _, of := range keys {
		counts = append(counts, pipe.Exists(ctx, of...))
	}
	s.send(ctx, pipe)
	found := 0
	for _, count := range counts {
		if err := count.Err(); err != nil {
			return false, mapError(ctx, err)
		}
		found += int(count.Val())
	}
	return found == len(tasks), nil
}

// alive returns the workers that are not dead.
func (s *Store) alive(ctx context.Context) ([]string, error) {
	now, err := s.now(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := s.withTimeout(ctx)
	defer cancel()
	names, err := s.rdb.ZRangeByScore(ctx, workersKey, &redis.ZRangeBy{
		Min: fmt.Sprint(now.Add(-batch.DeadAfter).UnixMilli()), Max: "+inf",
	}).Result()
	return names, mapError(ctx, err)
}
