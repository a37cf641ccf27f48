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

// recoveryLease is how long a worker may recover actions of dead workers without renewing its lease.
// It is longer than the work between two renewals. It is short, because a worker that dies during the
// recovery delays the recovery by this time.
const recoveryLease = 6 * time.Second

// claim takes or extends the lease of the worker that recovers, or returns [batch.ErrRecovering] if
// another worker holds it. Every worker notices a dead worker; if all of them read every open batch,
// they would load Redis for nothing.
func (r *Recovery) claim(ctx context.Context, worker string) error {
	answer, err := r.db.Run(ctx, Steps.Elect, []string{keys.RecoveryKey}, worker, rdb.Millis(recoveryLease))
	if err == nil && answer[0] == "other" {
		err = batch.ErrRecovering
	}
	return err
}

// Recover implements [batch.Registry]. Only the ledger knows which worker began an action, so Recover
// reads all open batches. Recover also returns tasks to their queues that a dead worker took and did
// not begin.
func (r *Recovery) Recover(ctx context.Context, worker string, dead []string) (found int, err error) {
	if err := r.claim(ctx, worker); err != nil {
		return 0, err
	}
	defer func() {
		if errors.Is(err, batch.ErrRecovering) {
			return
		}
		if _, late := r.db.Run(context.WithoutCancel(ctx), Steps.Resign, []string{keys.RecoveryKey}, worker); late != nil {
			r.log.WarnContext(ctx, "lease of the recovery left to expire", "error", late)
		}
	}()
	queues := make(map[string]struct{})
	var faults []error
	// A dead worker may have ended a batch without making the task of its webhook. The sweeper
	// makes it.
	if err := r.batches.Index.AlertSweeper(ctx); err != nil {
		faults = append(faults, err)
	}
	for cursor := uint64(0); ; {
		page, next, err := r.pages.openPage(ctx, cursor)
		if err != nil {
			return found, err
		}
		if page.fault != nil { // the next try recovers the batches that this one cannot read
			faults = append(faults, page.fault)
		}
		var running []string
		for _, id := range page.ids {
			if status := batch.Status(page.fields[id]["status"]); status == "" || status.Terminal() {
				continue
			}
			running = append(running, id)
			for _, queue := range r.tasks.QueuesOf(tasks.RouteOf(page.fields[id])) {
				queues[queue] = struct{}{}
			}
		}
		for _, ids := range portions(running, func(id string) int { return int(rdb.Atoi(page.fields[id]["total"])) }, maxStates) {
			inFlight, fault := r.inFlight(ctx, ids)
			if fault != nil {
				faults = append(faults, fmt.Errorf("recover batches: %w", fault))
			}
			for id, entries := range inFlight {
				maps.DeleteFunc(entries, func(_ int, e batches.Entry) bool { return !slices.Contains(dead, e.Worker) })
				n, err := r.requeue(ctx, id, page.fields[id], entries)
				found += n
				if err != nil {
					faults = append(faults, fmt.Errorf("recover batch %s: %w", id, err))
				}
			}
			if len(faults) > maxFaults {
				return found, errors.Join(faults...)
			}
		}
		if err := r.claim(ctx, worker); err != nil {
			return found, errors.Join(append(faults, err)...)
		}
		if cursor = next; cursor == 0 {
			break
		}
	}
	all, err := r.tasks.TaskQueues(ctx) // ended batches may have left tasks in any queue
	if err != nil {
		faults = append(faults, err)
	}
	for _, queue := range all {
		queues[queue] = struct{}{}
	}
	n, err := r.rescue.rescueUnstarted(ctx, slices.Collect(maps.Keys(queues)))
	found += n
	if err := errors.Join(append(faults, err)...); err != nil {
		return found, err
	}
	crash.At(crash.BeforeBurial)
	for _, worker := range dead {
		if _, err := r.db.Run(ctx, Steps.ForgetWorker, []string{keys.WorkersKey}, worker, rdb.Millis(batch.DeadAfter)); err != nil {
			return found, fmt.Errorf("forget worker %s: %w", worker, err)
		}
	}
	return found, nil
}

// openPage reads a page of the open batches, and returns the cursor of the next page, 0 at the end.
// Several pages may have the same batch.
func (p *pages) openPage(ctx context.Context, cursor uint64) (*openPage, uint64, error) {
	scan, cancel := p.db.WithTimeout(ctx)
	defer cancel()
	entries, next, err := p.db.Client.ZScan(scan, keys.OpenKey, cursor, "", pageSize).Result()
	if err != nil {
		return nil, 0, rdb.MapError(scan, err)
	}
	ids := make([]string, 0, len(entries)/2)
	for i := 0; i < len(entries); i += 2 { // each with its score
		ids = append(ids, entries[i])
	}
	return p.readPage(ctx, ids), next, nil
}

// requeue makes a new task for each of the given actions in flight, and returns their number. m has
// fields of the batch's meta hash.
func (r *Recovery) requeue(ctx context.Context, id string, m map[string]string, lost map[int]batches.Entry) (int, error) {
	brought := make([]tasks.Task, 0, len(lost))
	for index, e := range lost {
		// By asynq's records, the dead worker still holds the action's task, so the id of that
		// task is in use. The id of the new task has the attempt's token, so every process that
		// finds this attempt makes the same task.
		brought = append(brought, r.tasks.TokenTask(tasks.RouteOf(m), id, index, e.Token))
	}
	for chunk := range slices.Chunk(brought, tasks.FanOutChunk) {
		if err := r.tasks.EnqueueTasks(ctx, chunk); err != nil {
			return 0, err
		}
		crash.At(crash.Recovering)
	}
	return len(brought), nil
}

// entriesChunk is the most ledger entries that one command reads.
const entriesChunk = 250

// maxStates bounds the number of actions whose states one exchange reads.
const maxStates = 1 << 20

// portions splits a list into parts. The sizes in a part add up to at most the limit most, unless the
// part has only one item.
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

// inFlight returns the ledger's entries of the actions in flight, by batch and index. It needs two
// exchanges for all batches. With an error, the entries of some batches are missing.
func (r *Recovery) inFlight(ctx context.Context, ids []string) (map[string]map[int]batches.Entry, error) {
	ctx, cancel := r.db.WithTimeout(ctx)
	defer cancel()
	states := make([]*redis.StringCmd, len(ids))
	pipe := r.db.Client.Pipeline()
	for i, id := range ids {
		states[i] = pipe.Get(ctx, keys.KeysOf(id).State)
	}
	r.db.Send(ctx, pipe)
	type look struct {
		id     string
		fields []string
		packed *redis.SliceCmd
	}
	var looks []look
	var fault error
	pipe = r.db.Client.Pipeline()
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
		r.db.Send(ctx, pipe)
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
