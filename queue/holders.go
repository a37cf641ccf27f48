package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/crash"
	"github.com/batchd/batchd/queue/rdb"
)

const (
	// holdersEvery is how often the sweeper asks the workers for the actions in flight.
	holdersEvery = 3 * time.Second
	// holdersBatches is the most batches whose actions are asked for at a time. Of more
	// batches that run it asks in turn.
	holdersBatches = 100
	// holdersActions is the most actions of a batch that are asked for at a time.
	holdersActions = 1000
	// mostLooked is the most batches of which the time of the last question is remembered.
	mostLooked = 100_000
	// mostMissing is the most workers that are remembered as missing.
	mostMissing = 1000
	// holderSure is how old an attempt is at the least whose holder is asked for it.
	holderSure = 2 * time.Second
)

// holders has the sweeper find actions that are in flight by the ledger, and that their
// workers do not have, although they are alive: Redis has forgotten what became of them. It
// asks the workers, which know.
type holders struct {
	running map[string]map[string]string // fields of batches that run, as the sweeper met them
	looked  map[string]time.Time         // when batches were last asked for, of those that were met since
	asked   time.Time
	missing map[string]time.Time // workers that hold actions and are not alive, since when
}

// note notes a batch that runs.
func (h *holders) note(id string, m map[string]string) {
	if h.running == nil {
		h.running = make(map[string]map[string]string)
	}
	if batch.Status(m["status"]) == batch.StatusRunning {
		h.running[id] = m
	}
}

// next returns the batches to ask for now, and fields of their meta hashes: those first in
// which nothing has ended, and that were not asked for, for the longest time. So their
// begins are the oldest ones. The others have their turn later.
func (h *holders) next(now time.Time, since func(id string) time.Time) map[string]map[string]string {
	if len(h.running) == 0 || now.Sub(h.asked) < holdersEvery {
		return nil
	}
	h.asked = now
	waits := func(id string) time.Time {
		if looked := h.looked[id]; looked.After(since(id)) {
			return looked
		}
		return since(id)
	}
	ids := slices.SortedFunc(maps.Keys(h.running), func(a, b string) int {
		return cmp.Or(waits(a).Compare(waits(b)), cmp.Compare(a, b))
	})
	ids = ids[:min(len(ids), holdersBatches)]
	next := make(map[string]map[string]string, len(ids))
	for _, id := range ids {
		next[id] = h.running[id]
		delete(h.running, id)
		if h.looked == nil || len(h.looked) > mostLooked {
			h.looked = make(map[string]time.Time)
		}
		h.looked[id] = now
	}
	return next
}

// putBack notes batches that were not asked for after all, unless they were met again.
func (h *holders) putBack(batches map[string]map[string]string, ids ...string) {
	for _, id := range ids {
		if _, met := h.running[id]; !met {
			h.running[id] = batches[id]
		}
	}
}

// lost notes that a worker holds actions and is not alive, and reports whether that has been
// so for as long as it takes a worker to be dead. When Redis was away, all were silent.
func (h *holders) lost(worker string, now time.Time) bool {
	since, known := h.missing[worker]
	if !known {
		if h.missing == nil {
			h.missing = make(map[string]time.Time)
		}
		h.missing[worker], since = now, now
	}
	return now.Sub(since) >= batch.DeadAfter
}

// alive forgets that workers were missing that are alive.
func (h *holders) alive(workers []string) {
	for _, worker := range workers {
		delete(h.missing, worker)
	}
	if len(h.missing) > mostMissing {
		clear(h.missing)
	}
}

// checkHolders asks the workers that are alive whether they have the actions in flight
// that they hold, and brings those of workers that are not to others. It returns how many
// these were.
func (s *Store) checkHolders(ctx context.Context) (lost int, err error) {
	batches := s.holders.next(time.Now(), func(id string) time.Time { return s.stalls.now[id].since })
	if len(batches) == 0 {
		return 0, nil
	}
	ids := slices.Collect(maps.Keys(batches))
	now, err := s.db.Now(ctx)
	if err != nil {
		s.holders.putBack(batches, ids...)
		return 0, err
	}
	alive, err := s.alive(ctx)
	if err != nil {
		s.holders.putBack(batches, ids...)
		return 0, err
	}
	s.holders.alive(alive)
	flying, unread, err := s.inFlight(ctx, ids)
	s.holders.putBack(batches, unread...)
	var faults []error // of some batches, such as those of a node that is away
	if err != nil {
		faults = append(faults, fmt.Errorf("read the actions in flight: %w", err))
	}
	asked := make(map[string]*strings.Builder) // by worker
	for id, m := range batches {
		gone := make(map[string]struct{})
		for _, a := range flying[id] {
			worker := a.entry.worker
			switch {
			case worker == "" || begunJustNow(a.entry.started, now):
			case slices.Contains(alive, worker):
				if asked[worker] == nil {
					asked[worker] = &strings.Builder{}
				}
				a.addTo(asked[worker])
			case s.holders.lost(worker, now):
				gone[worker] = struct{}{}
			}
		}
		if len(gone) == 0 {
			continue
		}
		n, err := s.recoverBatch(ctx, id, m, func(e entry) bool {
			_, lost := gone[e.worker]
			return lost
		})
		lost += n
		if err != nil {
			s.holders.putBack(batches, id)
			faults = append(faults, err)
		}
	}
	for worker, question := range asked {
		if err := s.ask(ctx, worker, question.String()); err != nil {
			faults = append(faults, err)
			break
		}
	}
	return lost, errors.Join(faults...)
}

// begunJustNow reports whether an attempt is so new that its holder need not be asked for it. An
// attempt from the future began by the clock of an earlier master, which was ahead: its age is not known.
func begunJustNow(started, now time.Time) bool {
	return now.Sub(started) < holderSure && !started.After(now)
}

// ask asks a worker for actions.
func (s *Store) ask(ctx context.Context, worker, question string) error {
	return s.db.Publish(ctx, holdersChannel, worker+question)
}

// heldAction is an action that is in flight by the ledger.
type heldAction struct {
	id    string
	index int
	entry entry
}

// addTo adds the action to a question: a line of batch, index and token.
func (a heldAction) addTo(question *strings.Builder) {
	fmt.Fprintf(question, "\n%s %d %s", a.id, a.index, a.entry.token)
}

// inFlight returns the actions of batches that are in flight by the ledger. With an error,
// some of the batches could not be read.
func (s *Store) inFlight(ctx context.Context, ids []string) (found map[string][]heldAction, unread []string, err error) {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	pipe := s.db.Client.Pipeline()
	steps := make([]*redis.Cmd, len(ids))
	for i, id := range ids {
		k := keysOf(id)
		steps[i] = pipe.EvalSha(ctx, s.steps.running.Hash(), []string{k.state, k.ledger}, holdersActions)
	}
	s.db.Send(ctx, pipe)
	found = make(map[string][]heldAction, len(ids))
	for i, id := range ids {
		answer, fault := s.db.AnswerOf(ctx, s.steps.running, steps[i]).StringSlice()
		if fault != nil {
			unread, err = append(unread, id), rdb.MapError(ctx, fault)
			continue
		}
		for ; len(answer) >= 2; answer = answer[2:] {
			found[id] = append(found[id], heldAction{id, int(rdb.Atoi(answer[0])), parseEntry(answer[1])})
		}
	}
	return found, unread, err
}

// asked takes the question for actions that the workers of this process hold.
func (s *Store) asked(message string) {
	worker, lines, _ := strings.Cut(message, "\n")
	if _, here := s.beats.Load(worker); !here {
		return
	}
	var forgotten []*attempt
	unknown := make(map[string][]any) // index and token, by batch
	for line := range strings.SplitSeq(lines, "\n") {
		parts := strings.Split(line, " ")
		if len(parts) != 3 {
			continue
		}
		id, token := parts[0], parts[2]
		index, err := strconv.Atoi(parts[1])
		if err != nil {
			continue
		}
		switch a, inHand := s.attempts.known(id, index, token); {
		case inHand:
		case a != nil:
			forgotten = append(forgotten, a)
		default:
			unknown[id] = append(unknown[id], index, token)
		}
	}
	if len(forgotten)+len(unknown) == 0 {
		return
	}
	s.background.Go(func(ctx context.Context) {
		if err := s.answerFor(ctx, worker, forgotten, unknown); err != nil && ctx.Err() == nil {
			s.log.Warn("actions that redis has forgotten the end of are looked at again soon", "error", err)
		}
	})
}

// answerFor repeats what became of actions, and gives up those of which this process
// knows nothing any more: whoever takes them decides whether they are sent again.
func (s *Store) answerFor(ctx context.Context, worker string, forgotten []*attempt, unknown map[string][]any) error {
	restored, err := s.restore(ctx, forgotten)
	if restored > 0 {
		s.log.WarnContext(ctx, "redis had forgotten what became of actions, it was repeated", "actions", restored)
	}
	if err != nil {
		return err
	}
	for id, held := range unknown {
		n, err := s.disown(ctx, id, worker, held)
		if n > 0 {
			s.log.WarnContext(ctx, "redis has forgotten what became of actions, and so has this worker: others decide about them", "batch", id, "actions", n)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// disown gives up actions, index and token of each in turn, that a worker holds and does
// not have, and has each brought to whoever is free. It returns how many there were.
func (s *Store) disown(ctx context.Context, id, worker string, held []any) (int, error) {
	answer, err := s.db.Run(ctx, s.steps.disown, keysOf(id).step(), append([]any{worker}, held...)...)
	if err != nil {
		return 0, fmt.Errorf("give up actions of batch %s: %w", id, err)
	}
	if len(answer) != 2+len(held)/2 {
		return 0, rdb.ErrAnswer
	}
	crash.At(crash.Disowned)
	var tasks []newTask
	for i, given := range answer[2:] {
		if given == "1" {
			index, _ := held[2*i].(int)
			tasks = append(tasks, s.tokenTask(route{answer[0], batch.Lane(answer[1])}, id, index, rdb.Text(held[2*i+1])))
		}
	}
	if len(tasks) == 0 {
		return 0, nil
	}
	err = s.enqueueTasks(ctx, tasks)
	return len(tasks), err
}

// tokenTask is a task that brings an action whose own task has no worker, or is gone.
// The token makes another one of it: the same one however often this attempt is found.
func (s *Store) tokenTask(r route, id string, index int, token string) newTask {
	return newTask{queue: s.queueOf(r, id, index), kind: TaskAction, id: taskID(id, index, token), payload: EncodeTask(id, index)}
}
