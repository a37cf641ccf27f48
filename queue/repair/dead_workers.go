package repair

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
	"github.com/batchd/batchd/queue/batches"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
)

// recoveryLease is how long a worker takes over the actions of dead workers without
// renewing its claim. It is longer than the work between two renewals, and short, because a
// process that dies meanwhile delays the recovery by it.
const recoveryLease = 6 * time.Second

// ClaimRecovery takes or extends the lease of the worker that recovers. Every worker learns
// of a death, and all of them reading every open batch would load Redis for nothing.
func (s *Recovery) claim(ctx context.Context, worker string) error {
	answer, err := s.db.Run(ctx, Steps.Elect, []string{keys.RecoveryKey}, worker, rdb.Millis(recoveryLease))
	if err == nil && answer[0] == "other" {
		err = batch.ErrRecovering
	}
	return err
}

// Recover implements [batch.Registry]. The ledger says which worker began an action, so the
// process looks through the open batches, which it does only when a worker died. Tasks that
// a dead worker took and did not begin return to their queue.
func (s *Recovery) Recover(ctx context.Context, worker string, dead []string) (found int, err error) {
	if err := s.claim(ctx, worker); err != nil {
		return 0, err
	}
	defer func() {
		if errors.Is(err, batch.ErrRecovering) {
			return
		}
		if _, late := s.db.Run(context.WithoutCancel(ctx), Steps.Resign, []string{keys.RecoveryKey}, worker); late != nil {
			s.log.WarnContext(ctx, "lease of the recovery left to expire", "error", late)
		}
	}()
	queues := make(map[string]struct{})
	var faults []error
	// The dead workers may have left webhooks to be sent in batches that they ended last.
	if err := s.batches.Index.AlertSweeper(ctx); err != nil {
		faults = append(faults, err)
	}
	for cursor := uint64(0); ; {
		page, next, err := s.pages.openPage(ctx, cursor)
		if err != nil {
			return found, err
		}
		if page.fault != nil { // what could be read is recovered, and the rest by the next try
			faults = append(faults, page.fault)
		}
		var running []string
		for _, id := range page.ids {
			if status := batch.Status(page.fields[id]["status"]); status == "" || status.Terminal() {
				continue
			}
			running = append(running, id)
			for _, queue := range s.tasks.QueuesOf(tasks.RouteOf(page.fields[id])) {
				queues[queue] = struct{}{}
			}
		}
		for _, ids := range portions(running, func(id string) int { return int(rdb.Atoi(page.fields[id]["total"])) }, maxStates) {
			flying, fault := s.inFlight(ctx, ids)
			if fault != nil {
				faults = append(faults, fmt.Errorf("recover batches: %w", fault))
			}
			for id, entries := range flying {
				n, err := s.requeueLost(ctx, id, page.fields[id], entries, func(e batches.Entry) bool { return slices.Contains(dead, e.Worker) })
				found += n
				if err != nil {
					faults = append(faults, fmt.Errorf("recover batch %s: %w", id, err))
				}
			}
			if len(faults) > maxFaults {
				return found, errors.Join(faults...)
			}
		}
		if err := s.claim(ctx, worker); err != nil {
			return found, errors.Join(append(faults, err)...)
		}
		if cursor = next; cursor == 0 {
			break
		}
	}
	all, err := s.tasks.TaskQueues(ctx) // batches that have ended may have left tasks in any
	if err != nil {
		faults = append(faults, err)
	}
	for _, queue := range all {
		queues[queue] = struct{}{}
	}
	n, err := s.rescue.rescueUnstarted(ctx, slices.Collect(maps.Keys(queues)))
	found += n
	if err := errors.Join(append(faults, err)...); err != nil {
		return found, err
	}
	crash.At(crash.BeforeBurial)
	for _, worker := range dead {
		if _, err := s.db.Run(ctx, Steps.ForgetWorker, []string{keys.WorkersKey}, worker, rdb.Millis(batch.DeadAfter)); err != nil {
			return found, fmt.Errorf("forget worker %s: %w", worker, err)
		}
	}
	return found, nil
}

// openPage reads a page of all open batches, of which some may come twice, and returns the
// cursor of the next one, 0 at the end.
func (s *pages) openPage(ctx context.Context, cursor uint64) (*openPage, uint64, error) {
	scan, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	entries, next, err := s.db.Client.ZScan(scan, keys.OpenKey, cursor, "", pageSize).Result()
	if err != nil {
		return nil, 0, rdb.MapError(scan, err)
	}
	ids := make([]string, 0, len(entries)/2)
	for i := 0; i < len(entries); i += 2 { // each with its score
		ids = append(ids, entries[i])
	}
	return s.readPage(ctx, ids), next, nil
}

// recoverBatch enqueues those actions in flight of a batch again whose holders are lost.
func (s *Recovery) recoverBatch(ctx context.Context, id string, m map[string]string, lost func(batches.Entry) bool) (int, error) {
	flying, err := s.inFlight(ctx, []string{id})
	if err != nil {
		return 0, err
	}
	return s.requeueLost(ctx, id, m, flying[id], lost)
}

// bringLost enqueues those of the actions in flight again whose holders are lost.
func (s *Recovery) requeueLost(ctx context.Context, id string, m map[string]string, flying map[int]batches.Entry, lost func(batches.Entry) bool) (int, error) {
	var brought []tasks.Task
	for index, e := range flying {
		if lost(e) {
			// The task that brought the action is still held by the dead worker, and
			// its id with it. The token makes another: the same one however often this
			// attempt is found.
			brought = append(brought, tasks.Task{
				Queue: s.tasks.QueueOf(tasks.RouteOf(m), id, index), Kind: tasks.TaskAction, ID: tasks.TaskID(id, index, e.Token), Payload: tasks.EncodeTask(id, index),
			})
		}
	}
	for chunk := range slices.Chunk(brought, tasks.FanOutChunk) {
		if err := s.tasks.EnqueueTasks(ctx, chunk); err != nil {
			return 0, err
		}
		crash.At(crash.Recovering)
	}
	return len(brought), nil
}

// entriesChunk is the most ledger entries that one command reads.
const entriesChunk = 250

// mostStates bounds the actions of the batches whose states are read in one exchange.
const maxStates = 1 << 20

// portions splits a list into parts whose sizes add up to at most so much, or that have one item.
func portions[T any](items []T, size func(T) int, most int) (parts [][]T) {
	sum, start := 0, 0
	for i, item := range items {
		n := size(item)
		if i > start && sum+n > most {
			parts, sum, start = append(parts, items[start:i]), 0, i
		}
		sum += n
	}
	if start < len(items) {
		parts = append(parts, items[start:])
	}
	return parts
}

// begunIn returns the ledger's entries of the actions in flight, by batch and index, in two
// exchanges for all batches. With an error, those of some batches are missing.
func (s *Recovery) inFlight(ctx context.Context, ids []string) (map[string]map[int]batches.Entry, error) {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	states := make([]*redis.StringCmd, len(ids))
	pipe := s.db.Client.Pipeline()
	for i, id := range ids {
		states[i] = pipe.Get(ctx, keys.KeysOf(id).State)
	}
	s.db.Send(ctx, pipe)
	type look struct {
		id     string
		fields []string
		packed *redis.SliceCmd
	}
	var looks []look
	var fault error
	pipe = s.db.Client.Pipeline()
	for i, id := range ids {
		all, err := states[i].Result()
		if err != nil && !errors.Is(err, redis.Nil) {
			fault = rdb.MapError(ctx, err)
			continue
		}
		var fields []string
		for index := range len(all) {
			if all[index] == 'r' {
				fields = append(fields, strconv.Itoa(index))
			}
		}
		for chunk := range slices.Chunk(fields, entriesChunk) {
			looks = append(looks, look{id, chunk, pipe.HMGet(ctx, keys.KeysOf(id).Ledger, chunk...)})
		}
	}
	if len(looks) > 0 {
		s.db.Send(ctx, pipe)
	}
	found := make(map[string]map[int]batches.Entry)
	unread := make(map[string]struct{})
	for _, l := range looks {
		packed, err := l.packed.Result()
		if err != nil {
			fault = rdb.MapError(ctx, err)
			unread[l.id] = struct{}{}
			continue
		}
		if found[l.id] == nil {
			found[l.id] = make(map[int]batches.Entry, len(l.fields))
		}
		for i, v := range packed {
			if text, ok := v.(string); ok {
				found[l.id][int(rdb.Atoi(l.fields[i]))] = batches.ParseEntry(text)
			}
		}
	}
	for id := range unread {
		delete(found, id)
	}
	return found, fault
}
