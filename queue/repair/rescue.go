package repair

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/crash"
	"github.com/batchd/batchd/queue/batches"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
)

// ConfirmDelay is the time between the two checks that a held task must fail before the sweeper or a
// recovery returns it to its queue. It is longer than a live worker needs from the poll that takes a
// task until it begins the action, or gives the task back.
const ConfirmDelay = rdb.DefaultTimeout + 500*time.Millisecond

const (
	// unstartedPage is the most held tasks that one exchange checks.
	unstartedPage = 500
	// maxUnstarted is the most held tasks of a queue, oldest first, that a check reads.
	maxUnstarted = 5000
)

// heldTask is a task that a poll has taken from its queue, so that asynq's records have it as active.
type heldTask struct{ queue, id string }

// rescueUnstarted finds tasks that asynq's records have as active although no worker runs them. It
// returns them to their queues long before their leases expire, and returns their number:
//
//   - tasks whose actions have not begun, because the worker died before the begin or missed the
//     reply to its poll. The ledger has no trace of these;
//   - tasks for an interrupted action whose worker died before it decided about the action. The
//     ledger still names the worker that began the action, which Redis has forgotten already.
//
// It also removes tasks whose actions have ended from asynq's records.
//
// A worker may be about to begin or to end a task, so rescueUnstarted checks twice, ConfirmDelay
// apart, and meanwhile asks all workers for the tasks: a live worker may hold a task for longer, such
// as while Redis refuses its begins. An error for some tasks does not stop the work on others.
func (r *rescue) rescueUnstarted(ctx context.Context, queues []string) (int, error) {
	before, err := r.unstarted(ctx, queues)
	faults := []error{err}
	if len(before) == 0 {
		return 0, err
	}
	question, err := r.askForTasks(ctx, slices.Collect(maps.Keys(before)))
	if err != nil {
		return 0, err
	}
	if err := r.timing.Sleep(ctx, ConfirmDelay); err != nil {
		return 0, err
	}
	still, err := r.unstarted(ctx, queues)
	faults = append(faults, err)
	kept, err := r.inHand(ctx, question)
	if err != nil {
		return 0, err
	}
	unbegun, ended := make(map[string][]string), make(map[string][]string)
	for k, over := range still {
		switch was, known := before[k]; {
		case !known || was != over || kept[k]:
		case over:
			ended[k.queue] = append(ended[k.queue], k.id)
		default:
			unbegun[k.queue] = append(unbegun[k.queue], k.id)
		}
	}
	found := 0
	for queue, ids := range unbegun {
		n, err := r.tasks.Requeue(ctx, queue, ids)
		found += n
		faults = append(faults, err)
		crash.At(crash.Adopting)
	}
	for queue, ids := range ended {
		faults = append(faults, r.tasks.EndTasks(ctx, queue, ids))
	}
	return found, errors.Join(faults...)
}

// unstarted returns the held tasks of queues that no worker seems to run. A task has the value true
// if its action has ended, and false if the action waits for a worker that begins it or decides about
// it. With an error, the result may lack tasks.
func (r *rescue) unstarted(ctx context.Context, queues []string) (map[heldTask]bool, error) {
	look, cancel := r.db.WithTimeout(ctx)
	defer cancel()
	pipe := r.db.Client.Pipeline()
	lists := make(map[string]*redis.StringSliceCmd, len(queues))
	for _, queue := range queues {
		if queue != tasks.WebhookQueue { // asynq recovers webhook tasks itself
			lists[queue] = pipe.LRange(look, tasks.AsynqPrefix(queue)+"active", -maxUnstarted, -1)
		}
	}
	r.db.Send(look, pipe)
	var faults []error
	var held []heldTask
	for queue, list := range lists {
		if err := list.Err(); err != nil {
			faults = append(faults, fmt.Errorf("list the held tasks: %w", rdb.MapError(look, err)))
		}
		for _, id := range list.Val() {
			held = append(held, heldTask{queue, id})
		}
	}
	found := make(map[heldTask]bool)
	for page := range slices.Chunk(held, unstartedPage) {
		faults = append(faults, r.addUnstarted(ctx, page, found))
	}
	return found, errors.Join(faults...)
}

// addUnstarted checks some held tasks against the ledger, and adds the unstarted and ended ones to a
// map; see unstarted for the values.
func (r *rescue) addUnstarted(ctx context.Context, held []heldTask, into map[heldTask]bool) error {
	ctx, cancel := r.db.WithTimeout(ctx)
	defer cancel()
	states, entries := make(map[heldTask]*redis.StringCmd, len(held)), make(map[heldTask]*redis.SliceCmd)
	pipe := r.db.Client.Pipeline()
	for _, k := range held {
		if id, index, ok := tasks.ParseTaskID(k.id); ok && keys.IsBatchID(id) {
			states[k] = pipe.GetRange(ctx, keys.KeysOf(id).State, int64(index), int64(index))
			if k.id != tasks.TaskID(id, index, "") {
				entries[k] = pipe.HMGet(ctx, keys.KeysOf(id).Ledger, strconv.Itoa(index))
			}
		}
	}
	r.db.Send(ctx, pipe)
	var fault error
	for k, state := range states {
		if err := state.Err(); err != nil {
			fault = fmt.Errorf("read the states of held tasks: %w", rdb.MapError(ctx, err))
			continue
		}
		switch state.Val() {
		case "p":
			into[k] = false
		case "r":
			if bringsInterrupted(k.id, entries[k]) {
				into[k] = false
			}
		default: // the action has ended, its batch is gone, or another action leads its group
			into[k] = true
		}
	}
	return fault
}

// bringsInterrupted reports whether Recovery made the task for the same attempt that the ledger
// still has in flight. A worker that decides about that attempt replaces its token. found is the reply
// with the ledger's entry, or nil.
func bringsInterrupted(task string, found *redis.SliceCmd) bool {
	if found == nil || len(found.Val()) == 0 {
		return false
	}
	packed, ok := found.Val()[0].(string)
	return ok && strings.HasSuffix(task, ":"+batches.ParseEntry(packed).Token)
}

// rescueEvery is how often the sweeper looks for queues with tasks that no worker runs.
const rescueEvery = 10 * time.Second

// queuesWithExpiredLeases returns the queues that have tasks with expired leases: the workers of these
// tasks have died, or have missed the reply to their poll. During an alert, it returns all queues. It
// returns none if the last check is more recent than Timing.CheckLeasesEvery.
func (s *Sweeper) queuesWithExpiredLeases(ctx context.Context) ([]string, error) {
	if time.Since(s.leasesChecked) < s.Timing.CheckLeasesEvery {
		return nil, nil
	}
	queues, err := s.tasks.TaskQueues(ctx)
	if err != nil || len(queues) == 0 {
		return nil, err
	}
	if s.schedule.alerted() {
		s.leasesChecked = time.Now()
		return queues, nil
	}
	now, err := s.db.Now(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	pipe := s.db.Client.Pipeline()
	counts := make([]*redis.IntCmd, len(queues))
	for i, queue := range queues {
		counts[i] = pipe.ZCount(ctx, tasks.AsynqPrefix(queue)+"lease", "-inf", "("+strconv.FormatInt(now.Unix(), 10))
	}
	s.db.Send(ctx, pipe)
	var found []string
	for i, count := range counts {
		if count.Err() == nil && count.Val() > 0 {
			found = append(found, queues[i])
		}
	}
	s.leasesChecked = time.Now()
	return found, nil
}

// sleep is the default of [Timing.Sleep].
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
