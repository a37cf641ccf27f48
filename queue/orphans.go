package queue

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
	"github.com/batchd/batchd/queue/rdb"
)

// orphanPause is longer than a live worker takes from taking a task to
// beginning its action, or to giving it back because it could not.
const orphanPause = rdb.DefaultTimeout + 500*time.Millisecond

const (
	// orphanPage is the number of held tasks looked at in one exchange.
	orphanPage = 500
	// orphanMost is the most held tasks of a queue that are looked at, the oldest ones.
	orphanMost = 5000
)

// heldTask is a task that was taken from a queue, and that asynq's books have as running.
type heldTask struct{ queue, id string }

// adopt looks after tasks that were taken from the queues and that nobody runs: asynq waits
// one to two minutes for such a task, and then has it run once more.
//
// It puts back what was never begun, because the worker died in between, or was not
// answered: the ledger knows nothing of that. Likewise a task by which an interrupted
// action was brought to a worker that died before it decided about it: the ledger still
// names the worker before that one, which nobody looks for any more. And it takes those
// from the books whose actions have ended.
//
// All of them are told from tasks that a worker is about to begin, or to end, by looking
// twice. In between the workers are asked for them: one that is alive may have a task in hand for
// longer, such as while Redis refuses its begins, and keeps it. What cannot be read keeps nothing else from being looked after. It returns how many
// tasks were put back.
func (s *Store) adopt(ctx context.Context, queues []string) (int, error) {
	before, err := s.strays(ctx, queues)
	faults := []error{err}
	if len(before) == 0 {
		return 0, err
	}
	question, err := s.askForTasks(ctx, slices.Collect(maps.Keys(before)))
	if err != nil {
		return 0, err
	}
	if err := s.pause(ctx, orphanPause); err != nil {
		return 0, err
	}
	still, err := s.strays(ctx, queues)
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
		n, err := s.requeue(ctx, queue, ids)
		found += n
		faults = append(faults, err)
		crash.At(crash.Adopting)
	}
	for queue, ids := range ended {
		faults = append(faults, s.endTasks(ctx, queue, ids))
	}
	return found, errors.Join(faults...)
}

// missed has the sweeper told that the queue may have tasks that were taken and that
// nobody holds, with the lock held: a turn was not answered, or they could not be given
// back. Otherwise it would find them only once their batches have stood still for a while.
func (q *lane) missed() {
	q.lost = true
	if q.telling {
		return
	}
	q.telling = true
	s := q.t.s
	s.background.Go(func(ctx context.Context) {
		for q.toBeTold() {
			if err := s.noteLost(ctx, q.name); err != nil {
				s.log.Warn("tasks that were taken may come again late", "queue", q.name, "error", err)
			}
		}
	})
}

// toBeTold reports whether tasks were missed since it was asked last.
func (q *lane) toBeTold() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	lost := q.lost
	q.lost, q.telling = false, lost
	return lost
}

// noteLost notes that a queue may have lost tasks. Each note is told from others, so that
// the sweeper takes back only those it has seen. It goes on until Redis takes it, or the
// store is closed, and tries once even then.
func (s *Store) noteLost(ctx context.Context, queue string) (err error) {
	note := queue + " " + s.db.Token()
	for {
		err = rdb.RetryUnavailable(ctx, func() error {
			ctx, cancel := s.db.WithTimeout(context.WithoutCancel(ctx))
			defer cancel()
			return rdb.MapError(ctx, s.db.Client.SAdd(ctx, lostKey, note).Err())
		})
		if ctx.Err() != nil || !rdb.IsUnavailable(err) {
			return err
		}
	}
}

// forgetLost takes such notes back.
func (s *Store) forgetLost(ctx context.Context, notes []string) error {
	if len(notes) == 0 {
		return nil
	}
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	return rdb.MapError(ctx, s.db.Client.SRem(ctx, lostKey, notes).Err())
}

// requeue puts tasks that were taken back to the head of their queue, and returns
// how many of them somebody held. The last one is taken first.
func (s *Store) requeue(ctx context.Context, queue string, ids []string) (int, error) {
	found := 0
	prefix := asynqPrefix(queue)
	for chunk := range slices.Chunk(ids, fanOutChunk) {
		args := []any{prefix + "t:", workChannel, s.word(queue)}
		for _, id := range chunk {
			args = append(args, id)
		}
		answer, err := s.db.Run(ctx, s.steps.requeue, []string{prefix + "active", prefix + "lease", prefix + "pending"}, args...)
		if err != nil {
			return found, fmt.Errorf("put tasks back: %w", err)
		}
		found += int(rdb.Atoi(answer[0]))
	}
	if found > 0 {
		s.wakeLocal(queue)
	}
	return found, nil
}

// strays returns the tasks of queues that a worker holds by asynq's books, although their
// actions wait to be begun or decided about, or have ended, which it says. With an error
// there may be more.
func (s *Store) strays(ctx context.Context, queues []string) (map[heldTask]bool, error) {
	look, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	pipe := s.db.Client.Pipeline()
	lists := make(map[string]*redis.StringSliceCmd, len(queues))
	for _, queue := range queues {
		if queue != WebhookQueue { // asynq looks after these
			lists[queue] = pipe.LRange(look, asynqPrefix(queue)+"active", -orphanMost, -1)
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
	for page := range slices.Chunk(held, orphanPage) {
		faults = append(faults, s.keepStrays(ctx, page, found))
	}
	return found, errors.Join(faults...)
}

func (s *Store) keepStrays(ctx context.Context, held []heldTask, into map[heldTask]bool) error {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	states, entries := make(map[heldTask]*redis.StringCmd, len(held)), make(map[heldTask]*redis.SliceCmd)
	pipe := s.db.Client.Pipeline()
	for _, k := range held {
		if id, index, ok := parseTaskID(k.id); ok && known(id) {
			states[k] = pipe.GetRange(ctx, keysOf(id).state, int64(index), int64(index))
			if k.id != taskID(id, index, "") {
				entries[k] = pipe.HMGet(ctx, keysOf(id).ledger, strconv.Itoa(index))
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

// bringsInterrupted reports whether a task was made to bring the very attempt that
// the ledger still holds as begun; see recoverBatch. Whoever decides about that
// attempt takes its token away.
func bringsInterrupted(task string, found *redis.SliceCmd) bool {
	if found == nil || len(found.Val()) == 0 {
		return false
	}
	packed, ok := found.Val()[0].(string)
	return ok && strings.HasSuffix(task, ":"+parseEntry(packed).token)
}
