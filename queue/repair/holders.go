package repair

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/batches"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
)

const (
	// holdersEvery is how often the sweeper asks the workers which actions they have in flight.
	holdersEvery = 3 * time.Second
	// holdersBatches is the most batches that the sweeper asks for at a time. If more batches run,
	// it asks for the others later.
	holdersBatches = 100
	// holdersActions is the most actions of a batch that the sweeper asks for at a time.
	holdersActions = 1000
	// maxLastAsked is the most batches for which the sweeper remembers the time of the last question.
	maxLastAsked = 100_000
	// maxMissing is the most workers that the sweeper remembers as missing.
	maxMissing = 1000
	// minHolderAge is the age of an attempt from which the sweeper asks its worker for it.
	minHolderAge = 2 * time.Second
	// holderlessFor is how long an action in flight may have no worker: a group that a worker gave
	// back has none until its next attempt.
	holderlessFor = 15 * time.Second
)

// holders finds actions that are in flight according to the ledger although no worker runs them.
//   - The worker is alive: Redis has forgotten how the action ended. The sweeper asks the worker, which
//     remembers it.
//   - The worker is missing: it died, and Redis has forgotten its last beat.
//   - The action has no worker, since that gave the action back or disowned it, and its task is lost.
type holders struct {
	running   map[string]map[string]string // fields of running batches, by batch, as of the sweeper's last look
	lastAsked map[string]time.Time         // when the sweeper last asked for a batch
	askedAt   time.Time
	missing   map[string]time.Time // by worker that holds actions but is not alive: since when
}

// add records a batch that may have actions in flight. m has fields of its meta hash.
func (h *holders) add(id string, m map[string]string) {
	if h.running == nil {
		h.running = make(map[string]map[string]string)
	}
	if status := batch.Status(m["status"]); status == batch.StatusRunning || status == batch.StatusCancelling {
		h.running[id] = m
	}
}

// next returns the batches to ask for now, with fields of their meta hashes, or nil if the last
// question is too recent. It prefers the batches in which no action has ended, and for which the
// sweeper has not asked, for the longest time, since these have the oldest attempts. since returns
// the time of a batch's last progress.
func (h *holders) next(now time.Time, since func(id string) time.Time) map[string]map[string]string {
	if len(h.running) == 0 || now.Sub(h.askedAt) < holdersEvery {
		return nil
	}
	h.askedAt = now
	waits := func(id string) time.Time {
		if looked := h.lastAsked[id]; looked.After(since(id)) {
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
		if h.lastAsked == nil || len(h.lastAsked) > maxLastAsked {
			h.lastAsked = make(map[string]time.Time)
		}
		h.lastAsked[id] = now
	}
	return next
}

// putBack records again batches for which the sweeper could not ask, unless it has seen them since.
func (h *holders) putBack(batches map[string]map[string]string, ids ...string) {
	for _, id := range ids {
		if _, met := h.running[id]; !met {
			h.running[id] = batches[id]
		}
	}
}

// missingLong records that a worker holds actions but is not alive, and reports whether this has been
// so for batch.DeadAfter. The sweeper does not rely on the last beat alone, since no worker can beat
// while Redis is away.
func (h *holders) missingLong(worker string, now time.Time) bool {
	since, known := h.missing[worker]
	if !known {
		if h.missing == nil {
			h.missing = make(map[string]time.Time)
		}
		h.missing[worker], since = now, now
	}
	return now.Sub(since) >= batch.DeadAfter
}

// alive records that workers are alive, and so not missing.
func (h *holders) alive(workers []string) {
	for _, worker := range workers {
		delete(h.missing, worker)
	}
	if len(h.missing) > maxMissing {
		clear(h.missing)
	}
}

// checkHolders asks the live workers whether they run the actions that they hold according to the
// ledger. It makes new tasks for the actions whose workers have been missing for long, and for those
// that have had no worker for long. It returns the number of these tasks.
func (s *Sweeper) checkHolders(ctx context.Context) (lost int, err error) {
	chosen := s.holders.next(time.Now(), func(id string) time.Time { return s.stuck.batches[id].since })
	if len(chosen) == 0 {
		return 0, nil
	}
	ids := slices.Collect(maps.Keys(chosen))
	alive, now, err := s.ledger.Workers.Alive(ctx)
	if err != nil {
		s.holders.putBack(chosen, ids...)
		return 0, err
	}
	s.holders.alive(alive)
	inFlight, unread, err := s.inFlight(ctx, ids)
	s.holders.putBack(chosen, unread...)
	var faults []error // of some batches, such as those on an unavailable node
	if err != nil {
		faults = append(faults, fmt.Errorf("read the actions in flight: %w", err))
	}
	asked := make(map[string]*strings.Builder) // by worker
	for id, m := range chosen {
		found := make(map[int]batches.Entry)
		for _, a := range inFlight[id] {
			worker := a.entry.Worker
			switch {
			case worker == "":
				if now.Sub(a.entry.Started) > holderlessFor {
					found[a.index] = a.entry
				}
			case begunJustNow(a.entry.Started, now):
			case slices.Contains(alive, worker):
				if asked[worker] == nil {
					asked[worker] = &strings.Builder{}
				}
				a.addTo(asked[worker])
			case s.holders.missingLong(worker, now):
				found[a.index] = a.entry
			}
		}
		n, err := s.Recovery.requeue(ctx, id, m, found)
		lost += n
		if err != nil {
			s.holders.putBack(chosen, id)
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

// begunJustNow reports whether an attempt is so new that the sweeper need not ask its worker. An
// attempt from the future has its time from the clock of an earlier master, which was ahead, so its
// age is unknown, and the sweeper asks.
func begunJustNow(started, now time.Time) bool {
	return now.Sub(started) < minHolderAge && !started.After(now)
}

// ask asks a worker whether it runs actions. question has a line for each; see heldAction.addTo.
func (s *Sweeper) ask(ctx context.Context, worker, question string) error {
	return s.db.Publish(ctx, keys.HoldersChannel, worker+question)
}

// heldAction is an action that is in flight according to the ledger.
type heldAction struct {
	id    string
	index int
	entry batches.Entry
}

// addTo adds a line with the action's batch, index and token to a question.
func (a heldAction) addTo(question *strings.Builder) {
	fmt.Fprintf(question, "\n%s %d %s", a.id, a.index, a.entry.Token)
}

// inFlight returns the actions that are in flight according to the ledger, by batch. With an error,
// unread has the batches that it could not read.
func (s *Sweeper) inFlight(ctx context.Context, ids []string) (found map[string][]heldAction, unread []string, err error) {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	pipe := s.db.Client.Pipeline()
	steps := make([]*redis.Cmd, len(ids))
	for i, id := range ids {
		k := keys.KeysOf(id)
		steps[i] = pipe.EvalSha(ctx, Steps.Running.Hash(), []string{k.State, k.Ledger}, holdersActions)
	}
	s.db.Send(ctx, pipe)
	found = make(map[string][]heldAction, len(ids))
	for i, id := range ids {
		answer, fault := s.db.AnswerOf(ctx, Steps.Running, steps[i]).StringSlice()
		if fault != nil {
			unread, err = append(unread, id), rdb.MapError(ctx, fault)
			continue
		}
		for ; len(answer) >= 2; answer = answer[2:] {
			found[id] = append(found[id], heldAction{id, int(rdb.Atoi(answer[0])), batches.ParseEntry(answer[1])})
		}
	}
	return found, unread, err
}
