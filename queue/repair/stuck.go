package repair

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
)

const (
	// defaultStuckAfter is the default of [Timing.StuckAfter].
	defaultStuckAfter = 4 * time.Second
	// commitTimeout is how long an upload may take from the entry in the open batches to its commit.
	commitTimeout = time.Minute
	// pruneEvery is how often the sweeper forgets batches that are no longer open.
	pruneEvery = time.Minute
	// maxStuckActions is the most waiting actions of a batch that one check looks up tasks for.
	maxStuckActions = 5000
)

// stuckBatches remembers, between the sweeper's rounds, since when each open batch has made no
// progress.
type stuckBatches struct {
	batches     map[string]stuckBatch
	queues      []string  // queues of stuck batches: some tasks in them may have no worker
	queuesAsked time.Time // when the sweeper last checked such queues
	pruned      time.Time // when the sweeper last forgot batches that are no longer open
	most        int       // the most open batches since the last prune
}

// stuckBatch is the progress of one open batch.
type stuckBatch struct {
	pending  string    // number of actions without a result, as the meta hash has it
	since    time.Time // when that number last changed, or the sweeper last checked all actions, by Redis's clock
	seen     time.Time // when the sweeper last checked the batch, by the clock of this process
	cursor   int       // the action at which the next check for lost tasks continues
	cutShort bool      // the last check ran out of time
	checked  bool      // the sweeper has once checked all actions for lost tasks
}

// nextRound prepares for a round.
func (s *stuckBatches) nextRound() {
	if s.batches == nil {
		s.batches = make(map[string]stuckBatch)
	}
}

// due returns the queues of stuck batches that the sweeper must check now: once per rescueEvery, or at
// once during an alert.
func (s *stuckBatches) due(alerted bool) (queues []string) {
	if len(s.queues) == 0 || !alerted && time.Since(s.queuesAsked) < rescueEvery {
		return nil
	}
	queues, s.queues, s.queuesAsked = s.queues, nil, time.Now()
	return queues
}

// note records the progress of a batch, and reports whether an action of it has ended since the last
// check, or whether its upload may be about to commit. An older entry without a batch comes from an
// upload that failed.
func (s *stuckBatches) note(id string, m map[string]string, now time.Time) (changed bool) {
	was, known := s.batches[id]
	if !known || was.pending != m["pending"] {
		s.batches[id] = stuckBatch{pending: m["pending"], since: now, seen: time.Now()}
		return true
	}
	was.seen = time.Now()
	s.batches[id] = was
	return m["status"] == "" && now.Sub(was.since) < commitTimeout
}

// earlier returns the time due, or an earlier time if the sweeper must check the batch for lost tasks
// by then. Redis may have forgotten the batch's last change, so the sweeper checks all actions of a
// batch once after each change. A check that has begun continues in the next rounds until its end.
func (s *stuckBatches) earlier(id string, m map[string]string, stuckAfter time.Duration, due time.Time) time.Time {
	was := s.batches[id]
	if was.since.IsZero() || was.cursor == 0 && (was.checked || m["throttle"] != "" || neverRan(m)) {
		return due
	}
	if first := was.since.Add(stuckAfter); first.Before(due) {
		return first
	}
	return due
}

// neverRan reports whether no action of a batch has begun yet, so that Redis could not forget one.
func neverRan(m map[string]string) bool {
	return batch.Status(m["status"]) == batch.StatusQueued && m["retried"] == ""
}

// cutShort records that the last check of a batch ran out of time.
func (s *stuckBatches) cutShort(id string) {
	was := s.batches[id]
	was.cutShort = true
	s.batches[id] = was
}

// wasCutShort reports whether the last check of a batch ran out of time, and resets that.
func (s *stuckBatches) wasCutShort(id string) bool {
	was := s.batches[id]
	cut := was.cutShort
	was.cutShort = false
	s.batches[id] = was
	return cut
}

// forget forgets a batch that is no longer open.
func (s *stuckBatches) forget(id string) { delete(s.batches, id) }

// prune forgets batches that the sweeper has not checked for longer than the interval of any open
// batch: a client has deleted them, or another process has removed their entries. open is the number
// of open batches.
func (s *stuckBatches) prune(open int, now time.Time) {
	s.most = max(s.most, open)
	if now.Sub(s.pruned) < pruneEvery {
		return
	}
	oldest := now.Add(-2*idleFor(s.most) - pruneEvery)
	for id, was := range s.batches {
		if was.seen.Before(oldest) {
			delete(s.batches, id)
		}
	}
	s.pruned, s.most = now, open
}

// repairStuck repairs a batch that makes no progress. The batch may have lost the task of a waiting
// action, such as when an operator empties a queue, or the reply to the poll that took a task. A batch
// whose queues wait for other batches has lost nothing, however long it waits. For the actions in
// flight, see checkHolders.
func (s *Sweeper) repairStuck(ctx context.Context, id string, m map[string]string, now time.Time, swept *batch.Swept) error {
	was := s.stuck.batches[id]
	if now.Sub(was.since) < s.Timing.StuckAfter {
		return nil
	}
	lost, cursor, err := s.OfferLost(ctx, id, m, was.cursor, int(rdb.Atoi(m["enqueued"])))
	swept.Lost += lost
	if lost > 0 { // other batches may have lost tasks, too
		s.schedule.lookAtAll()
	}
	was.cursor = cursor
	if err != nil {
		s.stuck.batches[id] = was // the next check continues from here
		return err
	}
	if cursor == 0 {
		was.since, was.checked = now, true
	}
	s.stuck.batches[id] = was
	s.stuck.queues = append(s.stuck.queues, s.tasks.QueuesOf(tasks.RouteOf(m))...)
	return nil
}

// OfferLost offers waiting actions again that have no task and do not wait for one. It checks the
// actions from index cursor up to index upTo, without upTo. It returns the number of offered actions
// and the next cursor, 0 at the end. With an error, next is the given cursor, and the caller can repeat
// the call.
func (s *Sweeper) OfferLost(ctx context.Context, id string, m map[string]string, cursor, upTo int) (lost, next int, err error) {
	if cursor >= upTo {
		return 0, 0, nil
	}
	f := tasks.FlowOf(id, m)
	waits, err := s.tasks.WaitsIn(ctx, f)
	if err != nil {
		return 0, cursor, err
	}
	if !slices.Contains(slices.Collect(maps.Values(waits)), false) {
		return 0, 0, nil // all queues of the batch still wait for their turn
	}
	waiting, err := s.fanout.WaitingActions(ctx, id, cursor, upTo)
	if err != nil {
		return 0, cursor, err
	}
	waiting = slices.DeleteFunc(waiting, func(i int) bool { return waits[s.tasks.QueueOf(f.Route, id, i)] })
	if len(waiting) > maxStuckActions {
		next = waiting[maxStuckActions]
		waiting = waiting[:maxStuckActions]
	}
	var without []int
	for chunk := range slices.Chunk(waiting, tasks.FanOutChunk) {
		missing, err := s.withoutTasks(ctx, f, chunk)
		if err != nil {
			return 0, cursor, fmt.Errorf("look for lost tasks: %w", err)
		}
		without = append(without, missing...)
	}
	if len(without) == 0 {
		return 0, next, nil
	}
	if err := s.tasks.Offer(ctx, f, tasks.RangesOf(without)); err != nil {
		return 0, cursor, fmt.Errorf("bring back lost tasks: %w", err)
	}
	s.fanout.RetractIfEnded(ctx, f)
	return len(without), next, nil
}

// withoutTasks returns those of the given actions that have no task.
func (s *Sweeper) withoutTasks(ctx context.Context, f tasks.Flow, indexes []int) (missing []int, err error) {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	pipe := s.db.Client.Pipeline()
	found := make([]*redis.IntCmd, len(indexes))
	for i, index := range indexes {
		found[i] = pipe.Exists(ctx, tasks.AsynqPrefix(s.tasks.QueueOf(f.Route, f.ID, index))+"t:"+tasks.TaskID(f.ID, index, f.Round))
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
