package batches

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/seal"
)

// withoutResult is an action without a result of its own: it waits, runs, or ended without one. The texts
// are as Redis has them.
type withoutResult struct {
	id                          string
	index                       int
	state                       byte
	of                          shape
	action, entry, result, last string
}

// encodeWithoutResult encodes a result for an action that has none.
func (c *Codec) encodeWithoutResult(u *withoutResult) ([]byte, error) {
	if err := u.check(); err != nil {
		return nil, err
	}
	a, err := c.OpenAction(u.id, u.index, u.action)
	if err != nil {
		return nil, err
	}
	if u.result != "" && !u.mayHaveResult(&a) {
		return nil, Damaged(u.id, "r", u.index, fmt.Errorf("%w: there is one, and the state of the action is %s", seal.ErrChanged, states[u.state]))
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

// check finds stored values that no step leaves behind for an action in that state.
func (u *withoutResult) check() error {
	switch {
	case u.action == "":
		return Damaged(u.id, "a", u.index, fmt.Errorf("%w: it is missing", seal.ErrChanged))
	case u.last != "" && (!strings.ContainsRune("pCXO", rune(u.last[0])) || u.last[0] != 'p' && !u.of.retried):
		return Damaged(u.id, lastKind, u.index, fmt.Errorf("%w: no attempt has its state", seal.ErrChanged))
	case u.entry != "" && !isEntry(u.entry):
		return Damaged(u.id, entryKind, u.index, fmt.Errorf("%w: it has another form", seal.ErrChanged))
	}
	return nil
}

// mayHaveResult reports whether there may be a stored result of the action: that of an earlier round, or one that a
// group in flight noted for the case that it succeeds.
func (u *withoutResult) mayHaveResult(a *batch.Action) bool {
	return u.of.retried || a.Group != "" && strings.IndexByte("rgO", u.state) >= 0
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
