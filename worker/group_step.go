package worker

import (
	"context"
	"fmt"
	"net/http"

	"github.com/batchd/batchd/internal/batch"
)

// recover decides about a request that an earlier holder of the group may have sent
// without recording the answer. The saga sends it again if that is safe; otherwise it
// counts as a request without an answer.
func (s *saga) recover(ctx context.Context) {
	s.g.Sent, s.g.InDoubt = false, true
	action, failure := s.request(ctx)
	safe := failure == nil && (!s.forward() || s.w.cfg.Dispatcher.Repeatable(s.begun.Target, action))
	if safe && s.g.Attempt < s.target.Retry.Attempts {
		return
	}
	resp := &batch.Response{Result: batch.Result{
		Outcome: batch.Unknown, StartedAt: s.g.StartedAt,
		Error: &batch.Failure{Code: batch.CodeInterrupted, Message: "the worker stopped while this was in flight; it may have reached the target, and it is not safe to send again"},
	}}
	if safe {
		resp.Result.Outcome = batch.Errored
		resp.Result.Error.Message = fmt.Sprintf("the worker stopped while this was in flight, in each of %d attempts", s.g.Attempt)
	}
	s.decide(ctx, &exchange{action: action, resp: resp})
}

// decide chooses the next step from the last attempt of the present one.
func (s *saga) decide(ctx context.Context, x *exchange) {
	ok := x.resp.Result.Outcome == batch.Succeeded
	switch s.g.Step {
	case batch.GroupBegin:
		s.decideBegin(x, ok)
	case batch.GroupMember:
		s.decideMember(x, ok)
	case batch.GroupCommit:
		s.decideCommit(x, ok)
	case batch.GroupRollback:
		s.decideRollback(x, ok)
	case batch.GroupUndo:
		if !ok && !accepted(x.resp) && !absent(x.resp) {
			s.mayPersist(s.g.At, "done, and its undo "+ending(&x.resp.Result))
		}
		s.undoBelow(s.g.At)
	case batch.GroupEnd:
	}
	if s.g.Cause != nil && s.forward() {
		s.w.log.ErrorContext(ctx, "group continues although it has failed", "batch", s.id, "group", s.g.Leader()) // a bug in the code above
	}
}

func (s *saga) decideBegin(x *exchange, ok bool) {
	if !ok {
		s.fail(&x.resp.Result)
		s.g.Cause.LeftOpen = s.g.Cause.InDoubt
		s.next(batch.GroupEnd, 0)
		return
	}
	id, err := s.transactionID(&x.resp.Result)
	if err != nil {
		s.fail(&batch.Result{Outcome: batch.Errored, Error: &batch.Failure{Code: batch.CodeProtocol, Message: err.Error()}})
		s.g.Cause.LeftOpen = true
		s.next(batch.GroupEnd, 0)
		return
	}
	s.g.Transaction = id
	s.next(batch.GroupMember, 0)
}

func (s *saga) decideMember(x *exchange, ok bool) {
	at, last := s.g.At, len(s.g.Members)-1
	m := &s.g.Members[at]
	m.Attempts = s.g.Attempt
	r := &x.resp.Result
	r.ID, r.Index, r.Attempts = m.ID, m.Index, m.Attempts
	if m.Attempts > 0 {
		m.StartedAt, m.Duration = r.StartedAt, r.Duration
	}
	switch {
	case ok && at < last:
		s.staged = r
		s.next(batch.GroupMember, at+1)
		return
	case ok && s.g.Transaction != "":
		s.staged = r
		s.next(batch.GroupCommit, at)
		return
	case ok:
		s.staged = r
		s.next(batch.GroupEnd, 0)
		return
	}
	if x.action != nil && batch.Reads(x.action.Method) {
		s.g.InDoubt = false // a read has no effect to take back
	}
	if r.Status > 0 {
		s.staged = r
	}
	s.fail(r)
	switch {
	case s.g.Transaction != "":
		s.next(batch.GroupRollback, at)
	case s.g.Cause.InDoubt && x.action != nil && x.action.Undo != nil:
		s.next(batch.GroupUndo, at)
	default:
		if s.g.Cause.InDoubt {
			s.mayPersist(at, "sent, and "+ending(r)+"; it has no undo")
		}
		s.undoBelow(at)
	}
}

func (s *saga) decideCommit(x *exchange, ok bool) {
	switch {
	case ok || accepted(x.resp):
		s.next(batch.GroupEnd, 0)
	case x.resp.Result.Status > 0 || !s.g.InDoubt:
		s.fail(&x.resp.Result)
		s.next(batch.GroupRollback, s.g.At)
	default:
		s.fail(&x.resp.Result)
		s.mayPersistUpTo(len(s.g.Members), "done, but it is not known whether the transaction was committed: its commit "+ending(&x.resp.Result))
		s.next(batch.GroupEnd, 0)
	}
}

func (s *saga) decideRollback(x *exchange, ok bool) {
	cause := s.g.Cause
	sent := len(s.g.Members)
	if cause.Step == batch.GroupMember {
		sent = cause.At // the result of the failed member comes from its own answer
	}
	switch {
	case !ok && !accepted(x.resp) && !absent(x.resp):
		cause.LeftOpen = true
		if cause.Step == batch.GroupMember && cause.InDoubt {
			sent++
		}
		s.mayPersistUpTo(sent, "done, but the rollback "+ending(&x.resp.Result))
	case cause.Step == batch.GroupCommit && cause.InDoubt:
		s.mayPersistUpTo(sent, "done, but it is not known whether the transaction was committed: the answer to its commit was not seen, and the next one "+
			ending(&batch.Result{Status: cause.Status, Error: cause.Failure}))
	}
	s.next(batch.GroupEnd, 0)
}

// undoBelow goes on with the undo of the nearest member before that position that may
// have changed something.
func (s *saga) undoBelow(at int) {
	if at == 0 {
		s.next(batch.GroupEnd, 0)
		return
	}
	s.next(batch.GroupUndo, at-1)
}

// fail records why the group does not count.
func (s *saga) fail(r *batch.Result) {
	s.g.Cause = &batch.GroupCause{
		Step: s.g.Step, At: s.g.At, Outcome: r.Outcome, Status: r.Status, Failure: r.Error, InDoubt: s.g.InDoubt,
		StartedAt: r.StartedAt, Duration: r.Duration,
	}
}

func (s *saga) mayPersist(at int, detail string) {
	s.g.MayPersist = append(s.g.MayPersist, batch.Leftover{At: at, Detail: detail})
}

func (s *saga) mayPersistUpTo(n int, detail string) {
	for at := range n {
		s.mayPersist(at, detail)
	}
}

// accepted reports whether an answer had a success status, even if its body was not
// read to the end. That is enough for a call whose body is not needed.
func accepted(resp *batch.Response) bool {
	return resp.Result.Status > 0 && resp.Result.Status < http.StatusBadRequest
}

// absent reports whether an answer means that there is nothing to take back.
func absent(resp *batch.Response) bool {
	return resp.Result.Status == http.StatusNotFound || resp.Result.Status == http.StatusGone
}

// ending describes the end of a request that did not succeed.
func ending(r *batch.Result) string {
	switch {
	case r.Error == nil && r.Status > 0:
		return fmt.Sprintf("failed with status %d", r.Status)
	case r.Error != nil && r.Outcome == batch.Unknown:
		return fmt.Sprintf("got no answer (%s)", r.Error.Code)
	case r.Error != nil:
		return fmt.Sprintf("ended with an error (%s: %s)", r.Error.Code, r.Error.Message)
	}
	return "failed"
}
