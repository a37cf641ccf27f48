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
	"github.com/batchd/batchd/queue/rdb"
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

// restore repeats the steps of attempts of this process that Redis has forgotten, and returns the
// number of forgotten attempts. It also makes the tasks of actions that wait again, and ends groups
// that this process had ended. After an error, it continues with other batches, unless Redis is
// unavailable.
//
// Other processes wait only for settleFor before they may send the actions. So the steps of many
// batches share an exchange, and everything else follows after the steps of all batches.
func (r *Restorer) restore(ctx context.Context, all []*attempt) (restored int, err error) {
	var faults []error
	var known []*batchPart // those that Redis has replied to
	for _, parts := range exchangesOf(all) {
		fault := r.restoreParts(ctx, parts)
		for _, p := range parts {
			if p.answer != nil {
				known = append(known, p)
				restored += p.restored()
			}
		}
		if fault != nil {
			faults = append(faults, fault)
		}
		if rdb.IsUnavailable(fault) {
			break
		}
	}
	if err := r.completeParts(ctx, known); err != nil {
		faults = append(faults, err)
	}
	return restored, errors.Join(faults...)
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
