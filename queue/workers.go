package queue

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/crash"
)

// workersKey lists the workers by the time of their last beat.
const workersKey = "batchd:workers"

// Beat implements [batch.Registry].
func (s *Store) Beat(ctx context.Context, worker string) ([]string, error) {
	ctx, cancel := s.within(ctx)
	defer cancel()
	last, _ := s.beats.Load(worker)
	answer, err := s.steps.beat.Run(ctx, s.rdb, []string{workersKey}, worker, millis(batch.DeadAfter), text(last)).StringSlice()
	if err != nil {
		return nil, mapError(ctx, err)
	}
	if len(answer) < 2 {
		return nil, errAnswer
	}
	s.beats.Store(worker, answer[0])
	if answer[1] == "1" {
		s.history.suspect()
	}
	return answer[2:], nil
}

// Leave implements [batch.Registry].
func (s *Store) Leave(ctx context.Context, worker string) error {
	s.beats.Delete(worker)
	ctx, cancel := s.within(ctx)
	defer cancel()
	return mapError(ctx, s.rdb.ZRem(ctx, workersKey, worker).Err())
}

// Recover implements [batch.Registry]. What a worker had begun stands in the
// ledger, so nobody has to keep a list of it: the open batches are looked
// through, which happens only when a worker died. What it had taken and not begun
// yet is put back into the queue.
func (s *Store) Recover(ctx context.Context, dead []string) (int, error) {
	found := 0
	queues := make(map[string]struct{})
	var faults []error
	// The dead workers may have left webhooks to be sent in batches that they ended last.
	if err := s.alertSweeper(ctx); err != nil {
		faults = append(faults, err)
	}
	for cursor := uint64(0); ; {
		page, next, err := s.openPage(ctx, cursor)
		if err != nil {
			return found, err
		}
		if page.fault != nil { // what could be read is recovered, and the rest by the next try
			faults = append(faults, page.fault)
		}
		for _, id := range page.order {
			m := page.fields[id]
			if status := batch.Status(m["status"]); status == "" || status.Terminal() {
				continue
			}
			for _, queue := range s.queuesOf(routeOf(m)) {
				queues[queue] = struct{}{}
			}
			n, err := s.recoverBatch(ctx, id, m, func(e entry) bool { return slices.Contains(dead, e.worker) })
			found += n
			if err != nil {
				faults = append(faults, fmt.Errorf("recover batch %s: %w", id, err))
			}
			if len(faults) > sweepFaults {
				return found, errors.Join(faults...)
			}
		}
		if cursor = next; cursor == 0 {
			break
		}
	}
	all, err := s.taskQueues(ctx) // batches that have ended may have left tasks in any
	if err != nil {
		faults = append(faults, err)
	}
	for _, queue := range all {
		queues[queue] = struct{}{}
	}
	n, err := s.adopt(ctx, slices.Collect(maps.Keys(queues)))
	found += n
	if err := errors.Join(append(faults, err)...); err != nil {
		return found, err
	}
	crash.At(crash.BeforeBurial)
	for _, worker := range dead {
		if _, err := s.run(ctx, s.steps.bury, []string{workersKey}, worker, millis(batch.DeadAfter)); err != nil {
			return found, fmt.Errorf("forget worker %s: %w", worker, err)
		}
	}
	return found, nil
}

// openPage reads a page of all open batches, of which some may come twice, and returns the
// cursor of the next one, 0 at the end.
func (s *Store) openPage(ctx context.Context, cursor uint64) (*openPage, uint64, error) {
	scan, cancel := s.within(ctx)
	defer cancel()
	entries, next, err := s.rdb.ZScan(scan, openKey, cursor, "", sweepPage).Result()
	if err != nil {
		return nil, 0, mapError(scan, err)
	}
	ids := make([]string, 0, len(entries)/2)
	for i := 0; i < len(entries); i += 2 { // each with its score
		ids = append(ids, entries[i])
	}
	return s.readPage(ctx, ids), next, nil
}

// recoverBatch enqueues anew those actions in flight of a batch whose holders are lost.
func (s *Store) recoverBatch(ctx context.Context, id string, m map[string]string, lost func(entry) bool) (int, error) {
	flying, err := s.begun(ctx, id)
	if err != nil {
		return 0, err
	}
	var tasks []newTask
	for index, e := range flying {
		if lost(e) {
			// The task that brought the action is still held by the dead worker, and
			// its id with it. The token makes another: the same one however often this
			// attempt is found.
			tasks = append(tasks, newTask{
				queue: s.queueOf(routeOf(m), id, index), kind: TaskAction, id: taskID(id, index, e.token), payload: EncodeTask(id, index),
			})
		}
	}
	for chunk := range slices.Chunk(tasks, fanOutChunk) {
		if _, err := s.enqueueTasks(ctx, chunk); err != nil {
			return 0, err
		}
		crash.At(crash.Recovering)
	}
	return len(tasks), nil
}

// entry is what the ledger says of an action that was begun.
type entry struct {
	token, worker     string
	attempts, earlier int
	first, started    time.Time
}

// begun returns the ledger's entries of the actions in flight, by index.
func (s *Store) begun(ctx context.Context, id string) (map[int]entry, error) {
	ctx, cancel := s.within(ctx)
	defer cancel()
	k := keysOf(id)
	all, err := s.rdb.Get(ctx, k.state).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, mapError(ctx, err)
	}
	var fields []string
	for i := range len(all) {
		if all[i] == 'r' {
			fields = append(fields, strconv.Itoa(i))
		}
	}
	found := make(map[int]entry, len(fields))
	for chunk := range slices.Chunk(fields, chunkActions) {
		packed, err := s.rdb.HMGet(ctx, k.ledger, chunk...).Result()
		if err != nil {
			return nil, mapError(ctx, err)
		}
		for i, v := range packed {
			if text, ok := v.(string); ok {
				found[int(atoi(chunk[i]))] = parseEntry(text)
			}
		}
	}
	return found, nil
}
