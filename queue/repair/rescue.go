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

// ConfirmDelay is longer than a live worker takes from taking a task to
// beginning its action, or to giving it back because it could not.
const ConfirmDelay = rdb.DefaultTimeout + 500*time.Millisecond

const (
	// unstartedPage is the number of held tasks looked at in one exchange.
	unstartedPage = 500
	// maxUnstarted is the most held tasks of a queue that are looked at, the oldest ones.
	maxUnstarted = 5000
)

// heldTask is a task that was taken from a queue and that asynq's records have as active.
type heldTask struct{ queue, id string }

// rescueUnstarted returns tasks to their queues that were taken and that no worker runs, long before
// their leases expire, and returns their number:
//
//   - tasks whose actions were not begun, because the worker died in between or did not get the
//     reply. The ledger has no trace of these;
//   - tasks for an interrupted action whose worker died before it decided about the action. The
//     ledger still names the worker before that one, which is forgotten already.
//
// It also removes tasks whose actions have ended from asynq's records.
//
// A worker may be about to begin or to end a task, so rescueUnstarted looks twice, ConfirmDelay
// apart, and meanwhile asks all workers for the tasks: a live worker may hold a task for longer, such
// as while Redis refuses its begins. An error for some tasks does not stop the work on others.
func (s *rescue) rescueUnstarted(ctx context.Context, queues []string) (int, error) {
	before, err := s.unstarted(ctx, queues)
	faults := []error{err}
	if len(before) == 0 {
		return 0, err
	}
	question, err := s.askForTasks(ctx, slices.Collect(maps.Keys(before)))
	if err != nil {
		return 0, err
	}
	if err := s.timing.Sleep(ctx, ConfirmDelay); err != nil {
		return 0, err
	}
	still, err := s.unstarted(ctx, queues)
	faults = append(faults, err)
	kept, err := s.inHand(ctx, question)
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
		n, err := s.tasks.Requeue(ctx, queue, ids)
		found += n
		faults = append(faults, err)
		crash.At(crash.Adopting)
	}
	for queue, ids := range ended {
		faults = append(faults, s.tasks.EndTasks(ctx, queue, ids))
	}
	return found, errors.Join(faults...)
}

// unstarted returns the tasks of queues that a worker holds by asynq's records, although their
// actions wait to be begun or decided about, or have ended, which it says. With an error
// there may be more.
func (s *rescue) unstarted(ctx context.Context, queues []string) (map[heldTask]bool, error) {
	look, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	pipe := s.db.Client.Pipeline()
	lists := make(map[string]*redis.StringSliceCmd, len(queues))
	for _, queue := range queues {
		if queue != tasks.WebhookQueue { // asynq looks after these
			lists[queue] = pipe.LRange(look, tasks.AsynqPrefix(queue)+"active", -maxUnstarted, -1)
		}
	}
	s.db.Send(look, pipe)
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
		faults = append(faults, s.addUnstarted(ctx, page, found))
	}
	return found, errors.Join(faults...)
}

func (s *rescue) addUnstarted(ctx context.Context, held []heldTask, into map[heldTask]bool) error {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	states, entries := make(map[heldTask]*redis.StringCmd, len(held)), make(map[heldTask]*redis.SliceCmd)
	pipe := s.db.Client.Pipeline()
	for _, k := range held {
		if id, index, ok := tasks.ParseTaskID(k.id); ok && keys.IsBatchID(id) {
			states[k] = pipe.GetRange(ctx, keys.KeysOf(id).State, int64(index), int64(index))
			if k.id != tasks.TaskID(id, index, "") {
				entries[k] = pipe.HMGet(ctx, keys.KeysOf(id).Ledger, strconv.Itoa(index))
			}
		}
	}
	s.db.Send(ctx, pipe)
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
		default: // it has ended, or is a member of a group that another action leads, or is gone
			into[k] = true
		}
	}
	return fault
}

// BringsInterrupted reports whether a task was made to bring the very attempt that
// the ledger still holds as begun; see recoverBatch. A worker that decides about that
// attempt replaces its token.
func bringsInterrupted(task string, found *redis.SliceCmd) bool {
	if found == nil || len(found.Val()) == 0 {
		return false
	}
	packed, ok := found.Val()[0].(string)
	return ok && strings.HasSuffix(task, ":"+batches.ParseEntry(packed).Token)
}

// suspectsEvery is how often the sweeper looks for queues with tasks that no worker runs.
const rescueEvery = 10 * time.Second

// suspects returns the queues that have tasks whose leases have run out, from time to time,
// and none otherwise: their workers died, or were not answered. While work may have been
// lost, these are all queues.
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

// sleep is the default of Timing.Sleep.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
