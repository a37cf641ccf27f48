package batches

import (
	"strconv"

	"github.com/batchd/batchd/internal/batch"
)

// withoutResult is an action without a result of its own: it waits, runs, or ended without one. The texts
// are as Redis has them.
type withoutResult struct {
	id                          string
	index                       int
	state                       byte
	action, entry, result, last string
}

// encodeWithoutResult encodes a result for an action that has none.
func (c *Codec) encodeWithoutResult(u *withoutResult) ([]byte, error) {
	if u.action == "" {
		return nil, batch.ErrNotFound
	}
	a, err := c.OpenAction(u.id, u.index, u.action)
	if err != nil {
		return nil, err
	}
	e := ParseEntry(u.entry)
	r := &batch.Result{ID: batch.ActionID(a.ID, u.index), Index: u.index, Outcome: states[u.state], Attempts: e.Attempts}
	if r.Outcome == batch.Pending {
		return r.Encode(), nil
	}
	last, err := c.Previous(u.id, u.index, u.result, u.last)
	if err != nil {
		return nil, err
	}
	if u.state == OverdueState {
		r.Error, r.StartedAt = overdueFailure(), e.Started
		if last != nil && e.Round == "" && last.Outcome.Final() {
			r.Attempts, r.StartedAt = last.Attempts, last.StartedAt // the record of its group had the result already
		} else if last != nil {
			r.History = last.Past()
		}
		return r.Encode(), nil
	}
	if last != nil {
		r.History = last.Past()
		r.Attempts = max(r.Attempts, last.Attempts)
	}
	if last != nil && !last.Outcome.Final() {
		r.Status, r.StartedAt, r.Duration = last.Status, last.StartedAt, last.Duration
	}
	r.Error = endedFailure(r, last)
	return r.Encode(), nil
}

// endedFailure returns why an action was cancelled or has expired. Last is its previous attempt or
// result; its outcome is pending if the action was sent in this round.
func endedFailure(r, last *batch.Result) *batch.Failure {
	f := &batch.Failure{Code: batch.CodeCancelled, Message: "the batch was cancelled before this action "}
	if r.Outcome == batch.Expired {
		f = &batch.Failure{Code: batch.CodeExpired, Message: "the batch's deadline passed before this action "}
	}
	switch {
	case r.Attempts == 0 || last != nil && last.Outcome.Final():
		f.Message += "was sent"
	case last == nil:
		f.Message += "got an answer"
	case last.Status > 0:
		f.Message += "was sent again: the last attempt, number " + strconv.Itoa(last.Attempts) + ", was answered with status " + strconv.Itoa(last.Status)
	case last.Error != nil:
		f.Message += "was sent again: the last attempt, number " + strconv.Itoa(last.Attempts) + ", ended with " + string(last.Error.Code) + ": " + last.Error.Message
	}
	return f
}

// overdueFailure returns why the outcome of an overdue action is not known.
func overdueFailure() *batch.Failure {
	return &batch.Failure{
		Code: batch.CodeInterrupted, Message: "the action was in flight at the batch's deadline, and no worker reported its outcome",
	}
}
