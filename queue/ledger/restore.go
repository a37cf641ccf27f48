package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/crash"
	"github.com/batchd/batchd/queue/batches"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
)

// restoring has one round of repeating at a time.
type restoring struct {
	mu             sync.Mutex
	running, again bool
}

// restoreSoon repeats, in the background, what this process did lately: once now, and
// once more when steps that were under way to the server before have been answered.
func (s *Restorer) restoreSoon() {
	r := &s.restoring
	r.mu.Lock()
	defer r.mu.Unlock()
	r.again = true
	if r.running {
		return
	}
	r.running = true
	s.background.Go(func(ctx context.Context) {
		for r.next() {
			s.restoreTwice(ctx)
		}
	})
}

// next reports whether there is another round to make.
func (r *restoring) next() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running, r.again = r.again, false
	return r.running
}

func (s *Restorer) restoreTwice(ctx context.Context) {
	for range 2 {
		var restored int
		err := rdb.RetryUnavailable(ctx, func() error {
			n, err := s.restore(ctx, s.attempts.all())
			restored += n
			return err
		})
		if err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "actions of this process could not be compared with Redis, which may have forgotten some", "error", err)
		}
		if restored > 0 {
			s.log.WarnContext(ctx, "Redis went back to an earlier state, forgotten steps of this process were repeated", "actions", restored)
		}
		if s.history.settled(ctx) != nil {
			return
		}
	}
	s.OnForgotten()
	// The sweeper may be another process, which has noticed nothing.
	if err := rdb.RetryUnavailable(ctx, func() error { return s.batches.Index.AlertSweeper(ctx) }); err != nil && ctx.Err() == nil {
		s.log.WarnContext(ctx, "the sweeper was not alerted, so it may find lost work late", "error", err)
	}
	crash.At(crash.Alerted)
}

// restoreChunk is the most attempts that are repeated in one step.
const restoreChunk = 100

// Restore repeats attempts of this process that Redis may have forgotten, and returns how
// many it had. It goes on after an error, with other batches.
func (s *Restorer) restore(ctx context.Context, all []*attempt) (restored int, err error) {
	batches := make(map[string][]*attempt)
	for _, a := range all {
		batches[a.id] = append(batches[a.id], a)
	}
	var faults []error
	for id, of := range batches {
		for chunk := range slices.Chunk(of, restoreChunk) {
			n, err := s.restoreBatch(ctx, id, chunk)
			restored += n
			if err != nil {
				faults = append(faults, fmt.Errorf("repeat what was done with batch %s: %w", id, err))
			}
			if rdb.IsUnavailable(err) {
				return restored, errors.Join(faults...)
			}
		}
	}
	return restored, errors.Join(faults...)
}

func (s *Restorer) restoreBatch(ctx context.Context, id string, of []*attempt) (restored int, err error) {
	args := []any{id, keys.DoneChannel}
	for _, a := range of {
		state := a.state
		if a.group != nil {
			state = stateRunning
		}
		args = append(args, a.index, a.entry.String(), state, a.result)
	}
	// The batch's entry may be forgotten, too. The sweeper has to know of the batch before it
	// changes, since it completes what a crash interrupts.
	if err := s.batches.Index.Reopen(ctx, id, false); err != nil {
		return 0, err
	}
	answer, err := s.db.Run(ctx, Steps.Restore, keys.KeysOf(id).Step(), args...)
	if err != nil {
		return 0, err
	}
	if len(answer) != 3+len(of) {
		return 0, rdb.ErrAnswer
	}
	s.batches.Outbox.EnqueueIf(ctx, id, answer[0])
	to := tasks.Route{Target: answer[1], Lane: batch.Lane(answer[2])}
	var waiting []tasks.Task
	for i, a := range of {
		verdict := answer[3+i]
		if verdict == "restored" || verdict == "ended" {
			restored++
		}
		switch {
		case a.state != stateWaiting:
		case verdict == "restored":
			// No worker may hold its task, or the task is gone. The token makes another.
			waiting = append(waiting, s.tasks.TokenTask(to, id, a.index, a.entry.Token))
		case verdict == "known":
			// An earlier step may have restored it, and broken off before this. A task that exists stays
			// as it is: the next attempt comes no sooner.
			waiting = append(waiting, s.tasks.TasksOf(id, to, a.entry.Round, []int{a.index})...)
		}
		if a.group != nil && (verdict == "restored" || verdict == "known") {
			if err := s.groups.finish(ctx, id, a.index, a.entry.Token, a.group); err != nil && !conclusive(err) {
				return restored, err
			}
		}
	}
	if len(waiting) > 0 {
		err = s.tasks.EnqueueTasks(ctx, waiting)
	}
	return restored, err
}

// conclusive reports whether an error is the ledger's final verdict on an attempt.
func conclusive(err error) bool {
	return errors.Is(err, batch.ErrStale) || errors.Is(err, batch.ErrNotFound) || errors.Is(err, batch.ErrTerminal)
}

// begunAgain compares what was begun with what this process did before, and returns nil if
// the action is to be begun once more: it was given back.
func (s *Restorer) compareBegun(ctx context.Context, a *attempt, b *batch.Begun, round string) (*batch.Begun, error) {
	before := s.attempts.before(a)
	runs, interrupted := b.Verdict == batch.Run, b.Verdict == batch.Interrupted
	switch {
	case (runs || interrupted) && before.finished() && b.Attempt <= before.entry.Attempts:
		// This process has ended the action before, and Redis has forgotten it: a later
		// attempt would count more.
		return s.repeatEnd(ctx, a, b, round, before)
	case runs:
		s.attempts.begun(a, b, round)
		return b, nil
	case interrupted && before != nil && before.state == stateWaiting && before.entry.Token == string(b.Token):
		s.attempts.notBegun(a)
		_, err := s.restore(ctx, []*attempt{before})
		return nil, err
	default:
		s.attempts.notBegun(a)
		return b, nil
	}
}

// endAs ends an action that was not sent in the attempt that has begun, with the result
// of the attempt before, which Redis has forgotten.
func (s *Restorer) repeatEnd(ctx context.Context, a *attempt, b *batch.Begun, round string, before *attempt) (*batch.Begun, error) {
	defer s.attempts.notBegun(a) // the one before is still what this process did
	as := *before
	as.entry = entryOf(b, round)
	err := rdb.RetryUnavailable(ctx, func() error {
		_, err := s.restore(ctx, []*attempt{&as})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("repeat the result of action %d of batch %s: %w", a.index, a.id, err)
	}
	s.log.WarnContext(ctx, "Redis went back to an earlier state: an action that had ended was not sent again", "batch", a.id, "index", a.index)
	return &batch.Begun{Verdict: batch.Ended}, nil
}

// entryOf is the ledger's entry of what was begun in a round of its batch.
func entryOf(b *batch.Begun, round string) batches.Entry {
	return batches.Entry{
		Token: string(b.Token), Worker: b.Worker, Round: round,
		Attempts: b.Attempt, Earlier: b.Earlier, First: b.FirstAt, Started: b.StartedAt,
	}
}

// restored repeats the begin of an attempt that is in flight here, and that the ledger
// does not know, and reports whether the step that found that can be made now.
func (s *Restorer) restored(ctx context.Context, id string, index int, token batch.Token, err error) bool {
	if !errors.Is(err, batch.ErrStale) {
		return false
	}
	a := s.attempts.findRunning(id, index, string(token))
	if a == nil {
		return false
	}
	n, err := s.restore(ctx, []*attempt{a})
	return err == nil && n > 0
}

// attemptEnded notes what became of an attempt, by the answer of the step that told the ledger.
func (s *Ledger) attemptEnded(id string, index int, token batch.Token, err error, state string, result []byte, group []any) {
	switch {
	case err == nil:
		s.attempts.end(id, index, string(token), state, result, group)
	case conclusive(err):
		s.attempts.abandon(id, index, string(token))
	}
}

// Abandon implements [batch.Ledger].
func (s *Ledger) Abandon(id string, index int, token batch.Token) {
	s.attempts.abandon(id, index, string(token))
}
