package repair

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/batches"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
)

const (
	// stuckAfter is how long nothing of a batch may end before the sweeper
	// asks whether something of it was lost.
	defaultStuckAfter = 4 * time.Second
	// commitTimeout is how long an upload may take from writing its entry to its commit.
	commitTimeout = time.Minute
	// noHolder is how long an action that is begun may have no holder: a group waits like
	// that for its next attempt.
	holderlessFor = 15 * time.Second
	// pruneEvery is how often the sweeper forgets batches that it does not meet any more.
	pruneEvery = time.Minute
	// maxStuckActions is the most waiting actions that are looked at in one round.
	maxStuckActions = 5000
)

// stuckBatches remembers, between the sweeper's rounds, since when batches make no progress.
type stuckBatches struct {
	batches     map[string]stuckBatch
	queues      []string  // of batches that make no progress, whose tasks may have no worker
	queuesAsked time.Time // when these were last looked through
	pruned      time.Time // when batches that are not met any more were last forgotten
	most        int       // the most open batches since then
}

type stuckBatch struct {
	pending  string
	since    time.Time
	seen     time.Time // when the batch was last looked at, by the clock of this process
	cursor   int
	cutShort bool // the last look at it took all of its time
	checked  bool // it was once looked through for something lost
}

// nextRound begins a round.
func (s *stuckBatches) nextRound() {
	if s.batches == nil {
		s.batches = make(map[string]stuckBatch)
	}
}

// due returns the queues that are to be looked through now: from time to time, or at once if
// work may have been lost.
func (s *stuckBatches) due(alerted bool) (queues []string) {
	if len(s.queues) == 0 || !alerted && time.Since(s.queuesAsked) < rescueEvery {
		return nil
	}
	queues, s.queues, s.queuesAsked = s.queues, nil, time.Now()
	return queues
}

// note records the progress of a batch, and reports whether something of it has ended since the last
// look, or whether its upload may be about to commit. Entries without a batch that are older
// are of uploads that came to nothing.
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

// earlier returns when a batch is due, if that is to be earlier: whatever has changed last may
// be something that Redis forgot, so a batch is looked through once after each change, and
// one that is being looked through is looked at until the end.
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

// neverRan reports whether nothing of a batch was begun yet that Redis could forget.
func neverRan(m map[string]string) bool {
	return batch.Status(m["status"]) == batch.StatusQueued && m["retried"] == ""
}

// cutShort notes that the last look at a batch took all of its time.
func (s *stuckBatches) cutShort(id string) {
	was := s.batches[id]
	was.cutShort = true
	s.batches[id] = was
}

// wasCutShort reports whether the last look at a batch took all of its time, and notes that another
// one begins.
func (s *stuckBatches) wasCutShort(id string) bool {
	was := s.batches[id]
	broke := was.cutShort
	was.cutShort = false
	s.batches[id] = was
	return broke
}

// forget forgets a batch that has ended.
func (s *stuckBatches) forget(id string) { delete(s.batches, id) }

// prune forgets batches that were not looked at for longer than any open one is not, with so
// many open: they were deleted, or another process has removed their entries.
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

// repairStuck brings back what a batch that makes no progress may have lost: the task of a waiting
// action, as if an operator emptied a queue, the holder of an action in flight, or the reply by which a
// worker took a task. A batch that waits for its turn has lost nothing, however long that takes.
func (s *Sweeper) repairStuck(ctx context.Context, id string, m map[string]string, now time.Time, swept *batch.Swept) error {
	was := s.stuck.batches[id]
	if now.Sub(was.since) < s.Timing.StuckAfter {
		return nil
	}
	lost, cursor, err := s.OfferLost(ctx, id, m, was.cursor, int(rdb.Atoi(m["enqueued"])))
	swept.Lost += lost
	if lost > 0 { // others may have lost something, too
		s.schedule.lookAtAll()
	}
	was.cursor = cursor
	if err != nil {
		s.stuck.batches[id] = was // the next look goes on from here
		return err
	}
	if cursor == 0 {
		was.since, was.checked = now, true
	}
	s.stuck.batches[id] = was
	// Groups that were given back, and actions that their workers gave up, have no holder;
	// see checkHolders for those that have one.
	lost, err = s.Recovery.recoverBatch(ctx, id, m, func(e batches.Entry) bool { return e.Worker == "" && now.Sub(e.Started) > holderlessFor })
	swept.Lost += lost
	s.stuck.queues = append(s.stuck.queues, s.tasks.QueuesOf(tasks.RouteOf(m))...)
	return err
}

// OfferLost offers those waiting actions again that neither have a task nor wait for one, from the
// cursor up to an index. It returns how many it found and the next cursor, 0 at the end; with an error,
// the cursor of the first action that it did not look at.
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
		return 0, 0, nil // for its turn
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

// withoutTasks returns those of some actions that have no task.
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
