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
	// maxGroupPause is the longest pause between two attempts that a group waits
	// out in its place. For a longer one it gives the place to others.
	maxGroupPause = time.Minute
	// groupTurn is how long a group keeps its place.
	groupTurn = 30 * time.Minute
)

// saga runs one group: it sends the requests that the group is made of, one at
// a time, and records each in the group's record before it sends it. So the worker that
// takes the group over after a crash finds what may have been sent, and brings
// it to an end at which all of its members count, or none, or the results say
// which may.
type saga struct {
	w      *Worker
	id     string
	begun  *batch.Begun
	g      *batch.Group
	target batch.Target
	known  bool // the target is configured
	since  time.Time
	// undos are those seen so far, by position, so that they can be sent even
	// after the batch was erased.
	undos map[int]*batch.Action
	// place is that of the group's task. Its first request has the send time for which the
	// task was handed over.
	place *consumer.Slot
	first bool
	// staged is the result of a member that the next write of the record takes along.
	staged *batch.Result
	// erased says that the batch is gone, and with it the record.
	erased bool
}

// runGroup runs a group that is this worker's, from where its record stands.
func (w *Worker) runGroup(ctx context.Context, id string, begun *batch.Begun, place *consumer.Slot) error {
	s := &saga{w: w, id: id, begun: begun, g: begun.Group, since: time.Now(), place: place, first: true, undos: make(map[int]*batch.Action)}
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
	action *batch.Action // nil where there was nothing that could be sent
	resp   *batch.Response
}

// exchange sends the request of the present step, once that is on record.
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
	resp, unsent := s.w.send(ctx, &batch.Request{Target: s.begun.Target, BatchID: s.id, Index: index, Action: action, Call: s.calls(), Now: s.g.StartedAt}, s.place)
	if unsent != nil { // the group comes again, for another send time
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

// pass lets the group wait for its target, as every request does. For the first one
// its task was handed over at the right time.
func (s *saga) pass(ctx context.Context) error {
	g := s.w.gates[s.target.Name]
	if !s.first {
		if held, _ := g.held(); s.place.Paced() || held > 0 { // it may take a while, in which nothing is in flight
			if _, err := s.note(ctx); err != nil {
				return err
			}
		}
		if g.wait(ctx) != nil {
			return s.pause(ctx, storeAway)
		}
	}
	s.first = false
	if s.place.ApproachEarly(ctx) != nil {
		return s.pause(ctx, 0)
	}
	return nil
}

// calls reports whether the present step is a call that the target is
// configured with.
func (s *saga) calls() bool {
	switch s.g.Step {
	case batch.GroupBegin, batch.GroupCommit, batch.GroupRollback:
		return true
	case batch.GroupMember, batch.GroupUndo, batch.GroupEnd:
	}
	return false
}

// forward reports whether the group is still on its way to counting.
func (s *saga) forward() bool {
	switch s.g.Step {
	case batch.GroupBegin, batch.GroupMember, batch.GroupCommit:
		return true
	case batch.GroupRollback, batch.GroupUndo, batch.GroupEnd:
	}
	return false
}

// repeats decides whether an attempt is followed by another at the same step.
func (s *saga) repeats(x *exchange) (time.Duration, bool) {
	if e := x.resp.Result.Error; e != nil && e.Code == batch.CodeInterrupted && x.resp.Repeat {
		s.g.Attempt-- // a shutdown broke it off, which is no fault of its own
		return 0, true
	}
	tried := &batch.Begun{Attempt: s.g.Attempt, FirstAt: s.g.FirstAt, StartedAt: s.g.StartedAt, ExpiresAt: s.begun.ExpiresAt}
	if !s.forward() {
		tried.ExpiresAt = s.g.FirstAt.Add(2 * s.target.Retry.Budget) // what was done is taken back after the deadline too
	}
	return nextAttempt(&s.target.Retry, tried, x.resp)
}

// wait lets the time to the next attempt pass. Meanwhile nothing is in flight,
// and the record says so.
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

// pause gives the group's place to others, until after the delay.
func (s *saga) pause(ctx context.Context, delay time.Duration) error {
	s.g.Paused = true
	if _, err := s.note(ctx); err != nil {
		return err
	}
	return &laterError{after: delay, reason: "the group is resumed from its record"}
}

// note writes the record, and says when that was.
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
	s.staged = nil
	return now, err
}

// next makes a step the present one. Nothing of it is sent yet.
func (s *saga) next(step batch.GroupStep, at int) {
	s.g.Step, s.g.At, s.g.Sent, s.g.Attempt, s.g.InDoubt = step, at, false, 0, false
	s.g.FirstAt, s.g.StartedAt = time.Time{}, time.Time{}
}

// conclude ends all members with what the record says of them.
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
			s.w.metrics.actions.WithLabelValues(s.begun.Target, results[i].Outcome.String()).Inc()
		}
	}
	return err
}
