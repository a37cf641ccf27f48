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

// restoring allows one round of restoring at a time.
type restoring struct {
	mu             sync.Mutex
	running, again bool     // a round runs; another round follows it
	after          []func() // called at the end of each round
}

// OnForgotten adds a function to those that the Restorer calls after Redis may have forgotten something.
func (r *Restorer) OnForgotten(do func()) {
	r.restoring.mu.Lock()
	defer r.restoring.mu.Unlock()
	r.restoring.after = append(r.restoring.after, do)
}

// forgot calls the functions that OnForgotten has added.
func (r *restoring) forgot() {
	r.mu.Lock()
	after := slices.Clone(r.after)
	r.mu.Unlock()
	for _, do := range after {
		do()
	}
}

// restoreSoon repeats, in the background, the last steps of this process: once now, and once more
// after Redis has replied to the steps that were under way at the change.
func (r *Restorer) restoreSoon() {
	rounds := &r.restoring
	rounds.mu.Lock()
	defer rounds.mu.Unlock()
	rounds.again = true
	if rounds.running {
		return
	}
	rounds.running = true
	r.background.Go(func(ctx context.Context) {
		for rounds.next() {
			r.restoreTwice(ctx)
		}
	})
}

// next reports whether another round follows.
func (r *restoring) next() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running, r.again = r.again, false
	return r.running
}

// restoreTwice compares all remembered attempts with Redis and restores forgotten ones, now and once
// more after settleFor. Then it alerts the sweeper, so that it looks for lost work.
func (r *Restorer) restoreTwice(ctx context.Context) {
	for range 2 {
		var restored int
		err := rdb.RetryUnavailable(ctx, func() error {
			n, err := r.restore(ctx, r.attempts.all())
			restored += n
			return err
		})
		if err != nil && ctx.Err() == nil {
			r.log.WarnContext(ctx, "actions of this process could not be compared with Redis, which may have forgotten some", "error", err)
		}
		if restored > 0 {
			r.log.WarnContext(ctx, "Redis went back to an earlier state, forgotten steps of this process were repeated", "actions", restored)
		}
		if r.history.settled(ctx) != nil {
			return
		}
	}
	// Another process may have the sweeper, and may not have noticed the change.
	if err := rdb.RetryUnavailable(ctx, func() error { return r.batches.Index.AlertSweeper(ctx) }); err != nil && ctx.Err() == nil {
		r.log.WarnContext(ctx, "the sweeper was not alerted, so it may find lost work late", "error", err)
	}
	crash.At(crash.Alerted)
	r.restoring.forgot()
}

// restoreChunk is the most attempts that one step restores.
const restoreChunk = 100

// restore repeats the steps of attempts of this process that Redis has forgotten, and returns the
// number of forgotten attempts. After an error, it continues with other batches, unless Redis is
// unavailable.
func (r *Restorer) restore(ctx context.Context, all []*attempt) (restored int, err error) {
	batches := make(map[string][]*attempt)
	for _, a := range all {
		batches[a.id] = append(batches[a.id], a)
	}
	var faults []error
	for id, of := range batches {
		for chunk := range slices.Chunk(of, restoreChunk) {
			n, err := r.restoreBatch(ctx, id, chunk)
			restored += n
			if err != nil {
				faults = append(faults, fmt.Errorf("restore actions of batch %s: %w", id, err))
			}
			if rdb.IsUnavailable(err) {
				return restored, errors.Join(faults...)
			}
		}
	}
	return restored, errors.Join(faults...)
}

// restoreBatch restores the forgotten attempts of one batch, and returns their number. It also makes
// the tasks of actions that wait again, and ends groups that this process had ended.
func (r *Restorer) restoreBatch(ctx context.Context, id string, of []*attempt) (restored int, err error) {
	args := []any{id, keys.DoneChannel}
	for _, a := range of {
		state := a.state
		if a.group != nil {
			state = stateRunning
		}
		args = append(args, a.index, a.entry.String(), state, a.result)
	}
	// Redis may have forgotten the batch's entry in the open batches, too. The sweeper needs that
	// entry before the step changes the batch, since it completes the work that a crash interrupts.
	if err := r.batches.Index.Reopen(ctx, id, false); err != nil {
		return 0, err
	}
	answer, err := r.db.Run(ctx, Steps.Restore, keys.KeysOf(id).Step(), args...)
	if err != nil {
		return 0, err
	}
	if len(answer) != 3+len(of) {
		return 0, rdb.ErrAnswer
	}
	r.batches.Outbox.EnqueueIf(ctx, id, answer[0])
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
			// A dead worker may hold the action's task, or the task is gone. With the token,
			// the new task has an id of its own.
			waiting = append(waiting, r.tasks.TokenTask(to, id, a.index, a.entry.Token))
		case verdict == "known":
			// An earlier restore may have failed before it made the task. A task that exists
			// does not change, so the next attempt comes no sooner.
			waiting = append(waiting, r.tasks.TasksOf(id, to, a.entry.Round, []int{a.index})...)
		}
		if a.group != nil && (verdict == "restored" || verdict == "known") {
			if err := r.groups.finish(ctx, id, a.index, a.entry.Token, a.group); err != nil && !conclusive(err) {
				return restored, err
			}
		}
	}
	if len(waiting) > 0 {
		err = r.tasks.EnqueueTasks(ctx, waiting)
	}
	return restored, err
}

// conclusive reports whether an error is the ledger's final verdict on an attempt, so that a repeat
// of the step would fail again.
func conclusive(err error) bool {
	return errors.Is(err, batch.ErrStale) || errors.Is(err, batch.ErrNotFound) || errors.Is(err, batch.ErrTerminal)
}

// compareBegun compares a begun action with the previous attempt of this process. If that attempt
// has ended and Redis has forgotten its end, compareBegun repeats the end. It returns nil if the
// caller must begin the action again, because the previous attempt had released it.
func (r *Restorer) compareBegun(ctx context.Context, a *attempt, b *batch.Begun, round string) (*batch.Begun, error) {
	before := r.attempts.before(a)
	runs, interrupted := b.Verdict == batch.Run, b.Verdict == batch.Interrupted
	switch {
	case (runs || interrupted) && before.finished() && b.Attempt <= before.entry.Attempts:
		// This process has ended the action before, and Redis has forgotten that end: an
		// attempt after it would have a higher number.
		return r.repeatEnd(ctx, a, b, round, before)
	case runs:
		r.attempts.begun(a, b, round)
		return b, nil
	case interrupted && before != nil && before.state == stateWaiting && before.entry.Token == string(b.Token):
		r.attempts.notBegun(a)
		_, err := r.restore(ctx, []*attempt{before})
		return nil, err
	default:
		r.attempts.notBegun(a)
		return b, nil
	}
}

// repeatEnd ends an action with the result of the previous attempt, which Redis has forgotten. The
// process does not send the action in the attempt that has just begun.
func (r *Restorer) repeatEnd(ctx context.Context, a *attempt, b *batch.Begun, round string, before *attempt) (*batch.Begun, error) {
	defer r.attempts.notBegun(a) // the process continues to remember the previous attempt
	as := *before
	as.entry = entryOf(b, round)
	err := rdb.RetryUnavailable(ctx, func() error {
		_, err := r.restore(ctx, []*attempt{&as})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("repeat the result of action %d of batch %s: %w", a.index, a.id, err)
	}
	r.log.WarnContext(ctx, "Redis went back to an earlier state: an action that had ended was not sent again", "batch", a.id, "index", a.index)
	return &batch.Begun{Verdict: batch.Ended}, nil
}

// entryOf returns the ledger's entry of an action that has begun in a round of its batch.
func entryOf(b *batch.Begun, round string) batches.Entry {
	return batches.Entry{
		Token: string(b.Token), Worker: b.Worker, Round: round,
		Attempts: b.Attempt, Earlier: b.Earlier, First: b.FirstAt, Started: b.StartedAt,
	}
}

// restored handles the error of a step on an attempt. If the ledger does not know the attempt, but
// this process runs it, restored repeats its begin. It reports whether the caller can repeat its
// step now.
func (r *Restorer) restored(ctx context.Context, id string, index int, token batch.Token, err error) bool {
	if !errors.Is(err, batch.ErrStale) {
		return false
	}
	a := r.attempts.findRunning(id, index, string(token))
	if a == nil {
		return false
	}
	n, err := r.restore(ctx, []*attempt{a})
	return err == nil && n > 0
}

// attemptEnded records the end of an attempt after the step that wrote the end to the ledger. err is
// the error of that step. After an inconclusive error, the process still remembers the attempt as
// running.
func (l *Ledger) attemptEnded(id string, index int, token batch.Token, err error, state string, result []byte, group []any) {
	switch {
	case err == nil:
		l.attempts.end(id, index, string(token), state, result, group)
	case conclusive(err):
		l.attempts.abandon(id, index, string(token))
	}
}

// Abandon implements [batch.Ledger].
func (l *Ledger) Abandon(id string, index int, token batch.Token) {
	l.attempts.abandon(id, index, string(token))
}
