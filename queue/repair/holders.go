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
	// holdersEvery is how often the sweeper asks the workers for the actions in flight.
	holdersEvery = 3 * time.Second
	// holdersBatches is the most batches whose actions are asked for at a time. Of more
	// batches that run it asks in turn.
	holdersBatches = 100
	// holdersActions is the most actions of a batch that are asked for at a time.
	holdersActions = 1000
	// mostLooked is the most batches of which the time of the last question is remembered.
	maxLastAsked = 100_000
	// mostMissing is the most workers that are remembered as missing.
	maxMissing = 1000
	// holderSure is how old an attempt is at the least whose holder is asked for it.
	minHolderAge = 2 * time.Second
)

// holders has the sweeper find actions that are in flight by the ledger, and that their
// workers do not have, although they are alive: Redis has forgotten what became of them. It
// asks the workers, which know.
type holders struct {
	running   map[string]map[string]string // fields of batches that run, as the sweeper met them
	lastAsked map[string]time.Time         // when batches were last asked for, of those that were met since
	askedAt   time.Time
	missing   map[string]time.Time // workers that hold actions and are not alive, since when
}

// Note notes a batch that runs.
func (h *holders) add(id string, m map[string]string) {
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

// alive forgets that workers were missing that are alive.
func (h *holders) alive(workers []string) {
	for _, worker := range workers {
		delete(h.missing, worker)
	}
	if len(h.missing) > maxMissing {
		clear(h.missing)
	}
}

// CheckHolders asks the workers that are alive whether they have the actions in flight
// that they hold, and brings those of workers that are not to others. It returns how many
// these were.
func (s *Sweeper) checkHolders(ctx context.Context) (lost int, err error) {
	chosen := s.holders.next(time.Now(), func(id string) time.Time { return s.stuck.batches[id].since })
	if len(chosen) == 0 {
		return 0, nil
	}
	ids := slices.Collect(maps.Keys(chosen))
	now, err := s.db.Now(ctx)
	if err != nil {
		s.holders.putBack(chosen, ids...)
		return 0, err
	}
	alive, err := s.ledger.Workers.Alive(ctx)
	if err != nil {
		s.holders.putBack(chosen, ids...)
		return 0, err
	}
	s.holders.alive(alive)
	flying, unread, err := s.inFlight(ctx, ids)
	s.holders.putBack(chosen, unread...)
	var faults []error // of some batches, such as those of a node that is away
	if err != nil {
		faults = append(faults, fmt.Errorf("read the actions in flight: %w", err))
	}
	asked := make(map[string]*strings.Builder) // by worker
	for id, m := range chosen {
		gone := make(map[string]struct{})
		for _, a := range flying[id] {
			worker := a.entry.Worker
			switch {
			case worker == "" || begunJustNow(a.entry.Started, now):
			case slices.Contains(alive, worker):
				if asked[worker] == nil {
					asked[worker] = &strings.Builder{}
				}
				a.addTo(asked[worker])
			case s.holders.missingLong(worker, now):
				gone[worker] = struct{}{}
			}
		}
		if len(gone) == 0 {
			continue
		}
		n, err := s.Recovery.recoverBatch(ctx, id, m, func(e batches.Entry) bool {
			_, lost := gone[e.Worker]
			return lost
		})
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

// begunJustNow reports whether an attempt is so new that its holder need not be asked for it. An
// attempt from the future began by the clock of an earlier master, which was ahead: its age is not known.
func begunJustNow(started, now time.Time) bool {
	return now.Sub(started) < minHolderAge && !started.After(now)
}

// ask asks a worker for actions.
func (s *Sweeper) ask(ctx context.Context, worker, question string) error {
	return s.db.Publish(ctx, keys.HoldersChannel, worker+question)
}

// heldAction is an action that is in flight by the ledger.
type heldAction struct {
	id    string
	index int
	entry batches.Entry
}

// addTo adds the action to a question: a line of batch, index and token.
func (a heldAction) addTo(question *strings.Builder) {
	fmt.Fprintf(question, "\n%s %d %s", a.id, a.index, a.entry.Token)
}

// inFlight returns the actions of batches that are in flight by the ledger. With an error,
// some of the batches could not be read.
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
