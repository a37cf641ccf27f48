package worker

import (
	"context"
	"errors"
	"time"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/crash"
	"github.com/batchd/batchd/queue/consumer"
)

const (
	// maxGroupPause is the longest pause between two attempts during which a group
	// keeps its slot. For a longer pause the group returns its slot.
	maxGroupPause = time.Minute
	// groupTurn is how long a group keeps its slot.
	groupTurn = 30 * time.Minute
)

// saga runs one group. It sends the requests of the group one at a time, and records
// each one in the group's record before it sends it. After a crash, the worker that
// takes the group over therefore knows which requests may have been sent, and completes
// the group: all of its members count, or none, or the results name the members that
// may count.
type saga struct {
	w      *Worker
	id     string
	begun  *batch.Begun
	g      *batch.Group
	target batch.Target
	known  bool // the target is configured
	since  time.Time
	// undos are the undos loaded so far, by position. The saga can send them even after
	// the batch was erased.
	undos map[int]*batch.Action
	// slot is that of the group's task. The first request uses the send time of that
	// task.
	slot  *consumer.Slot
	first bool
	// staged is the result of a member that the next write of the record includes.
	staged *batch.Result
	// erased: the batch is gone, and with it the record.
	erased bool
}

// runGroup runs a group that this worker holds, from the step in its record.
func (w *Worker) runGroup(ctx context.Context, id string, begun *batch.Begun, slot *consumer.Slot) error {
	s := &saga{w: w, id: id, begun: begun, g: begun.Group, since: time.Now(), slot: slot, first: true, undos: make(map[int]*batch.Action)}
	s.g.Paused = false
	s.target, s.known = w.targets[begun.Target]
	err := s.run(ctx)
	if later := (*laterError)(nil); errors.As(err, &later) {
		return err
	}
	return w.settled(ctx, id, s.g.Leader(), err)
}

func (s *saga) run(ctx context.Context) error {
	switch {
	case s.g.Step == "" && s.target.Transactions != nil:
		s.next(batch.GroupBegin, 0)
	case s.g.Step == "":
		s.next(batch.GroupMember, 0)
	case s.g.Sent:
		s.w.log.InfoContext(ctx, "group was interrupted", "batch", s.id, "group", s.g.Leader(), "step", s.g.Step, "at", s.g.At)
		s.recover(ctx)
	}
	for s.g.Step != batch.GroupEnd {
		if ctx.Err() != nil || time.Since(s.since) > groupTurn {
			return s.pause(ctx, 0)
		}
		x, err := s.exchange(ctx)
		if err != nil {
			return err
		}
		delay, again := s.repeats(x)
		if !again {
			s.g.Sent = false
			s.decide(ctx, x)
			crash.At(crash.GroupDecided)
			continue
		}
		if err := s.wait(ctx, delay); err != nil {
			return err
		}
	}
	return s.conclude(ctx)
}

// exchange is an attempt at the group's present step.
type exchange struct {
	action *batch.Action // nil if there was nothing to send
	resp   *batch.Response
}

// exchange records the request of the present step and then sends it.
func (s *saga) exchange(ctx context.Context) (*exchange, error) {
	action, refusal := s.request(ctx)
	if refusal != nil {
		return &exchange{action: action, resp: notSent(s.begun, refusal)}, nil
	}
	if action == nil {
		return &exchange{resp: &batch.Response{Unsent: true, Result: batch.Result{Outcome: batch.Succeeded}}}, nil
	}
	if err := s.pass(ctx); err != nil {
		return nil, err
	}
	s.g.Attempt++
	s.g.Sent = true
	now, err := s.note(ctx)
	if err != nil {
		return nil, err
	}
	if s.erased && s.forward() {
		s.g.Sent = false
		return &exchange{action: action, resp: notSent(s.begun, &batch.Failure{Code: batch.CodeCancelled, Message: "the batch was erased"})}, nil
	}
	s.g.StartedAt = now
	if s.g.FirstAt.IsZero() {
		s.g.FirstAt = now
	}
	crash.At(crash.GroupNoted)
	index := s.g.Members[s.g.At].Index
	resp, unsent := s.w.send(ctx, &batch.Request{Target: s.begun.Target, Owner: s.begun.Owner, BatchID: s.id, Index: index, Action: action, Call: s.calls(), Transaction: s.g.Transaction, Now: s.g.StartedAt}, s.slot)
	if unsent != nil { // the group comes back with another send time
		s.g.Attempt--
		s.g.Sent = false
		return nil, s.pause(ctx, 0)
	}
	crash.At(crash.GroupAnswered)
	s.w.observe(ctx, s.target.Name, resp)
	s.w.metrics.attempt(s.begun.Target, resp)
	s.w.log.DebugContext(ctx, "attempt", "batch", s.id, "index", index, "target", s.begun.Target, "step", s.g.Step, "attempt", s.g.Attempt,
		"outcome", resp.Result.Outcome.String(), "status", resp.Result.Status, "duration", resp.Result.Duration, "repeat", resp.Repeat)
	if resp.Result.Error != nil && !resp.Unsent {
		s.g.InDoubt = true
	}
	return &exchange{action: action, resp: resp}, nil
}

// pass lets the group wait for its target, as every request does. The first request
// does not wait: its task already came at the right time.
func (s *saga) pass(ctx context.Context) error {
	g := s.w.gates[s.target.Name]
	if !s.first {
		if held, _ := g.held(); s.slot.Paced() || held > 0 { // the wait may take a while, and nothing is in flight during it
			if _, err := s.note(ctx); err != nil {
				return err
			}
		}
		if g.wait(ctx) != nil {
			return s.pause(ctx, storeAway)
		}
	}
	s.first = false
	if s.slot.ApproachEarly(ctx) != nil {
		return s.pause(ctx, 0)
	}
	return nil
}

// calls reports whether the present step is a call from the target's configuration.
func (s *saga) calls() bool {
	switch s.g.Step {
	case batch.GroupBegin, batch.GroupCommit, batch.GroupRollback:
		return true
	case batch.GroupMember, batch.GroupUndo, batch.GroupEnd:
	}
	return false
}

// forward reports whether the group can still succeed as a whole.
func (s *saga) forward() bool {
	switch s.g.Step {
	case batch.GroupBegin, batch.GroupMember, batch.GroupCommit:
		return true
	case batch.GroupRollback, batch.GroupUndo, batch.GroupEnd:
	}
	return false
}

// repeats decides whether the saga repeats the present step after an attempt, and after
// which delay.
func (s *saga) repeats(x *exchange) (time.Duration, bool) {
	if e := x.resp.Result.Error; e != nil && e.Code == batch.CodeInterrupted && x.resp.Repeat {
		s.g.Attempt-- // a shutdown interrupted the attempt, so it does not count
		return 0, true
	}
	tried := &batch.Begun{Attempt: s.g.Attempt, FirstAt: s.g.FirstAt, StartedAt: s.g.StartedAt, ExpiresAt: s.begun.ExpiresAt}
	if !s.forward() {
		tried.ExpiresAt = s.g.FirstAt.Add(2 * s.target.Retry.Budget) // the saga takes members back after the deadline, too
	}
	return nextAttempt(&s.target.Retry, tried, x.resp)
}

// wait waits until the next attempt. Meanwhile nothing is in flight, and the record
// says so.
func (s *saga) wait(ctx context.Context, delay time.Duration) error {
	s.g.Sent = false
	if delay > maxGroupPause || ctx.Err() != nil {
		return s.pause(ctx, delay)
	}
	if _, err := s.note(ctx); err != nil {
		return err
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return nil
}

// pause returns the group's slot until after the delay.
func (s *saga) pause(ctx context.Context, delay time.Duration) error {
	s.g.Paused = true
	if _, err := s.note(ctx); err != nil {
		return err
	}
	return &laterError{after: delay, reason: "the group is resumed from its record"}
}

// note writes the record, and returns the time of the write.
func (s *saga) note(ctx context.Context) (now time.Time, err error) {
	if s.erased {
		return time.Now(), nil
	}
	s.g.Seq++
	err = s.w.retryUnavailable(ctx, func(ctx context.Context) (err error) {
		now, err = s.w.cfg.Ledger.SaveGroup(ctx, s.id, s.begun.Token, s.g, s.staged)
		return err
	})
	if errors.Is(err, batch.ErrNotFound) {
		s.erased = true
		return time.Now(), nil
	}
	if s.staged != nil && s.staged.TruncatedBy != "" && err == nil {
		s.w.metrics.truncated.WithLabelValues(s.begun.Target).Inc()
	}
	s.staged = nil
	return now, err
}

// next sets the present step. Nothing of it has been sent yet.
func (s *saga) next(step batch.GroupStep, at int) {
	s.g.Step, s.g.At, s.g.Sent, s.g.Attempt, s.g.InDoubt = step, at, false, 0, false
	s.g.FirstAt, s.g.StartedAt = time.Time{}, time.Time{}
}

// conclude ends all members with the results that follow from the record.
func (s *saga) conclude(ctx context.Context) error {
	results := s.results()
	if s.g.Cause != nil && s.g.Cause.LeftOpen {
		s.w.log.WarnContext(ctx, "a transaction may have been left open at the target", "batch", s.id, "group", s.g.Leader(), "target", s.begun.Target)
	}
	if len(s.g.MayPersist) > 0 {
		s.w.log.WarnContext(ctx, "part of a group may remain at the target", "batch", s.id, "group", s.g.Leader(),
			"target", s.begun.Target, "remains", s.leftovers())
	}
	if s.erased {
		return nil
	}
	crash.At(crash.GroupConcluding)
	err := s.w.retryUnavailable(ctx, func(ctx context.Context) error {
		return s.w.cfg.Ledger.FinishGroup(ctx, s.id, s.begun.Token, s.g, results)
	})
	crash.At(crash.GroupConcluded)
	if err == nil {
		for i := range results {
			s.w.metrics.ended(s.begun.Target, &results[i])
		}
	}
	return err
}
