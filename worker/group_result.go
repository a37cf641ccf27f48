package worker

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/batchd/batchd/internal/batch"
)

// results returns the result of each member, after the last request of the group. If
// the group does not count, only a member with the outcome unknown may still count.
func (s *saga) results() []batch.Result {
	results := make([]batch.Result, len(s.g.Members))
	for at := range s.g.Members {
		results[at] = s.result(at)
	}
	return results
}

func (s *saga) result(at int) batch.Result {
	cause := s.g.Cause
	if cause == nil {
		return s.stagedResult(at, batch.Succeeded)
	}
	if cause.Step == batch.GroupMember && cause.At == at {
		return s.failed(at)
	}
	m := s.g.Members[at]
	r := batch.Result{ID: m.ID, Index: m.Index, Outcome: batch.Skipped, Attempts: m.Attempts, StartedAt: m.StartedAt, Duration: m.Duration}
	message := "not run: " + s.why()
	if detail, mayPersist := s.g.Leftover(at); mayPersist {
		r.Outcome = batch.Unknown
		message = fmt.Sprintf("%s; so it may remain, as may all of %s", detail, s.leftovers())
		if cause.Step == batch.GroupMember {
			message += "; the group was given up because " + s.why()
		}
	} else if m.Attempts > 0 {
		message = "done, and then taken back: " + s.why()
	}
	r.Error = &batch.Failure{Code: batch.CodeDependencyFailed, Message: message}
	return r
}

// failed returns the result of the member that made its group fail. It is the member's
// own result, unless the message needs more detail.
func (s *saga) failed(at int) batch.Result {
	cause, m := s.g.Cause, s.g.Members[at]
	detail, mayPersist := s.g.Leftover(at)
	if !mayPersist && cause.Outcome == batch.Failed {
		return s.stagedResult(at, batch.Failed)
	}
	r := batch.Result{
		ID: m.ID, Index: m.Index, Outcome: cause.Outcome, Attempts: m.Attempts, StartedAt: cause.StartedAt, Duration: cause.Duration,
	}
	failure := batch.Failure{Code: batch.CodeDependencyFailed}
	if cause.Failure != nil {
		failure = *cause.Failure
	}
	switch {
	case mayPersist:
		r.Outcome = batch.Unknown
		failure.Message = strings.TrimPrefix(failure.Message+"; ", "; ") + detail + "; so it may remain, as may all of " + s.leftovers()
	case cause.InDoubt:
		r.Outcome = batch.Errored
		failure.Message += "; it was then taken back, should it have taken effect"
	}
	r.Error = &failure
	return r
}

// stagedResult returns the staged result if it is this member's and has not been
// written yet. Otherwise it returns a placeholder for the result that was written with
// the record.
func (s *saga) stagedResult(at int, o batch.Outcome) batch.Result {
	if s.staged != nil && s.staged.Index == s.g.Members[at].Index {
		return *s.staged
	}
	return batch.Result{Outcome: o}
}

// why returns the reason why the group does not count.
func (s *saga) why() string {
	if s.g.Cause.LeftOpen {
		return s.reason() + "; a transaction may have been left open at the target"
	}
	return s.reason()
}

func (s *saga) reason() string {
	cause := s.g.Cause
	how := ending(&batch.Result{Outcome: cause.Outcome, Status: cause.Status, Error: cause.Failure})
	switch cause.Step {
	case batch.GroupBegin:
		return fmt.Sprintf("the transaction of group %q could not be begun: the call %s", s.g.Name, how)
	case batch.GroupCommit:
		return fmt.Sprintf("the commit of group %q %s", s.g.Name, how)
	case batch.GroupMember, batch.GroupRollback, batch.GroupUndo, batch.GroupEnd:
	}
	m := s.g.Members[cause.At]
	return fmt.Sprintf("action %d (%q) of group %q %s", m.Index, m.ID, s.g.Name, how)
}

// leftovers names the members that may count although the group does not.
func (s *saga) leftovers() string {
	indexes := make([]string, 0, len(s.g.MayPersist))
	for at, m := range s.g.Members {
		if _, mayPersist := s.g.Leftover(at); mayPersist {
			indexes = append(indexes, strconv.Itoa(m.Index))
		}
	}
	if len(indexes) == 1 {
		return "action " + indexes[0]
	}
	return "actions " + strings.Join(indexes, ", ")
}
