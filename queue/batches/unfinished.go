package batches

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
)

// lastKind is the kind under which the last attempt at an action is sealed, and the prefix of its field.
const lastKind = "o"

// lastFieldsOf returns the fields of the groups hash that have the last attempts at actions, as last_of
// in lua/entry.lua does.
func lastFieldsOf(indexes []int) []string {
	fields := rdb.FieldsOf(indexes)
	for i, field := range fields {
		fields[i] = lastKind + field
	}
	return fields
}

// SealLast seals the outcome of an attempt at an action that another attempt follows.
func (c *Codec) SealLast(id string, index int, last *batch.Result) []byte {
	kept := *last
	kept.Outcome = batch.Pending
	return c.seals.Seal(seal.Label{ID: id, Kind: lastKind, Index: index}, kept.Encode())
}

// openLast opens the last attempt at an action, as last_of in lua/entry.lua describes it. Its outcome is
// the one with which the action ended after that attempt in an earlier round, or pending. It returns nil
// for an empty text.
func (c *Codec) openLast(id string, index int, packed string) (*batch.Result, error) {
	if packed == "" {
		return nil, nil
	}
	state, rest := packed[0], packed[1:]
	if state == OverdueState {
		attempts, started, _ := strings.Cut(rest, "|")
		return &batch.Result{Outcome: batch.Unknown, Attempts: int(rdb.Atoi(attempts)), StartedAt: rdb.FromMillis(started), Error: overdueFailure()}, nil
	}
	opened, err := c.seals.Open(seal.Label{ID: id, Kind: lastKind, Index: index}, []byte(rest))
	if err != nil {
		return nil, fmt.Errorf("read the last attempt at action %d of batch %s: %w", index, id, err)
	}
	r := &batch.Result{}
	if err := r.UnmarshalJSON(opened); err != nil {
		return nil, fmt.Errorf("read the last attempt at action %d of batch %s: %w", index, id, err)
	}
	r.Outcome = states[state]
	return r, nil
}

// Previous returns the newer of the stored result of an action and its last attempt, or nil if it has
// neither. Both are as Redis has them.
func (c *Codec) Previous(id string, index int, result, last string) (*batch.Result, error) {
	attempt, err := c.openLast(id, index, last)
	if err != nil || result == "" {
		return attempt, err
	}
	r, err := c.openResult(id, index, result)
	if err != nil || attempt == nil || attempt.Attempts <= r.Attempts {
		return r, err
	}
	if attempt.Outcome == batch.Unknown {
		attempt.History = r.Past() // an overdue attempt was stored without a history
	}
	return attempt, nil
}

// unfinished is an action without a result of its own: it waits, runs, or ended without one. The texts
// are as Redis has them.
type unfinished struct {
	id                          string
	index                       int
	state                       byte
	action, entry, result, last string
}

// encodeUnfinished encodes a result for an action that has none.
func (c *Codec) encodeUnfinished(u *unfinished) ([]byte, error) {
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
