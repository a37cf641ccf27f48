package queue

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/rdb"
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

// mendStall brings back what a batch that makes no progress may have lost: the task of a waiting
// action, as if an operator emptied a queue, the holder of an action in flight, or the reply by which a
// worker took a task. A batch that waits for its turn has lost nothing, however long that takes.
func (s *Store) mendStall(ctx context.Context, id string, m map[string]string, now time.Time, swept *batch.Swept) error {
	was := s.stalls.now[id]
	if now.Sub(was.since) < stallPatience {
		return nil
	}
	lost, cursor, err := s.offerLost(ctx, id, m, was.cursor, int(rdb.Atoi(m["enqueued"])))
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

// offerLost offers those waiting actions again that neither have a task nor wait for one, from the
// cursor up to an index. It returns how many it found and the next cursor, 0 at the end; with an error,
// the cursor of the first action that it did not look at.
func (s *Store) offerLost(ctx context.Context, id string, m map[string]string, cursor, upTo int) (lost, next int, err error) {
	if cursor >= upTo {
		return 0, 0, nil
	}
	f := flowOf(id, m)
	waits, err := s.waitsIn(ctx, f)
	if err != nil {
		return 0, cursor, err
	}
	if !slices.Contains(slices.Collect(maps.Values(waits)), false) {
		return 0, 0, nil // for its turn
	}
	waiting, err := s.waitingActions(ctx, id, cursor, upTo)
	if err != nil {
		return 0, cursor, err
	}
	waiting = slices.DeleteFunc(waiting, func(i int) bool { return waits[s.queueOf(f.route, id, i)] })
	if len(waiting) > stallActions {
		next = waiting[stallActions]
		waiting = waiting[:stallActions]
	}
	var without []int
	for chunk := range slices.Chunk(waiting, fanOutChunk) {
		missing, err := s.withoutTasks(ctx, f, chunk)
		if err != nil {
			return 0, cursor, fmt.Errorf("look for lost tasks: %w", err)
		}
		without = append(without, missing...)
	}
	if len(without) == 0 {
		return 0, next, nil
	}
	if err := s.offer(ctx, f, rangesOf(without)); err != nil {
		return 0, cursor, fmt.Errorf("bring back lost tasks: %w", err)
	}
	s.retractIfEnded(ctx, f)
	return len(without), next, nil
}

// offerWaiting offers all waiting actions in a range of indexes.
func (s *Store) offerWaiting(ctx context.Context, f flow, from, upTo int) error {
	waiting, err := s.waitingActions(ctx, f.id, from, upTo)
	if err != nil || len(waiting) == 0 {
		return err
	}
	if err := s.offer(ctx, f, rangesOf(waiting)); err != nil {
		return err
	}
	s.retractIfEnded(ctx, f)
	return nil
}

// waitingActions returns the indexes of the actions in a range that are waiting.
func (s *Store) waitingActions(ctx context.Context, id string, from, upTo int) ([]int, error) {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	states, err := s.db.Client.GetRange(ctx, keysOf(id).state, int64(from), int64(upTo-1)).Result()
	if err != nil {
		return nil, fmt.Errorf("read the states of actions: %w", rdb.MapError(ctx, err))
	}
	var waiting []int
	for i := range len(states) {
		if states[i] == 'p' {
			waiting = append(waiting, from+i)
		}
	}
	return waiting, nil
}

// withoutTasks returns those of some actions that have no task.
func (s *Store) withoutTasks(ctx context.Context, f flow, indexes []int) (missing []int, err error) {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	pipe := s.db.Client.Pipeline()
	found := make([]*redis.IntCmd, len(indexes))
	for i, index := range indexes {
		found[i] = pipe.Exists(ctx, asynqPrefix(s.queueOf(f.route, f.id, index))+"t:"+taskID(f.id, index, f.round))
	}
	s.db.Send(ctx, pipe)
	for i, cmd := range found {
		if err := cmd.Err(); err != nil {
			return nil, rdb.MapError(ctx, err)
		}
		if cmd.Val() == 0 {
			missing = append(missing, indexes[i])
		}
	}
	return missing, nil
}

// alive returns the workers that are not dead.
func (s *Store) alive(ctx context.Context) ([]string, error) {
	now, err := s.db.Now(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	names, err := s.db.Client.ZRangeByScore(ctx, workersKey, &redis.ZRangeBy{
		Min: fmt.Sprint(now.Add(-batch.DeadAfter).UnixMilli()), Max: "+inf",
	}).Result()
	return names, rdb.MapError(ctx, err)
}
