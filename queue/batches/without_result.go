package batches

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
)

// lastKind is that of what is kept of an attempt that is to be followed by another.
const lastKind = "o"

// lastFieldsOf returns the names of the fields with the last attempts at actions, as
// last_of of lua/entry.lua does.
func lastFieldsOf(indexes []int) []string {
	fields := rdb.FieldsOf(indexes)
	for i, field := range fields {
		fields[i] = lastKind + field
	}
	return fields
}

func (s *Codec) SealLast(id string, index int, last *batch.Result) []byte {
	kept := *last
	kept.Outcome = batch.Pending
	return s.seals.Seal(seal.Label{ID: id, Kind: lastKind, Index: index}, kept.Encode())
}

// openLast reads what the last attempt at an action came to, as last_of of lua/entry.lua
// has it. Its outcome is how the action ended afterwards in an earlier round, or pending.
func (s *Codec) openLast(id string, index int, packed string) (*batch.Result, error) {
	if packed == "" {
		return nil, nil
	}
	state, rest := packed[0], packed[1:]
	if state == OverdueState {
		attempts, started, _ := strings.Cut(rest, "|")
		return &batch.Result{Outcome: batch.Unknown, Attempts: int(rdb.Atoi(attempts)), StartedAt: rdb.FromMillis(started), Error: overdueFailure()}, nil
	}
	opened, err := s.seals.Open(seal.Label{ID: id, Kind: lastKind, Index: index}, []byte(rest))
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

// Previous returns what an action came to before, be it a result or an attempt that was
// followed by no other, whichever is newer. Nil says that there was nothing.
func (s *Codec) Previous(id string, index int, result, last string) (*batch.Result, error) {
	attempt, err := s.openLast(id, index, last)
	if err != nil || result == "" {
		return attempt, err
	}
	r, err := s.openResult(id, index, result)
	if err != nil || attempt == nil || attempt.Attempts <= r.Attempts {
		return r, err
	}
	if attempt.Outcome == batch.Unknown {
		attempt.History = r.Past() // what is overdue has kept none
	}
	return attempt, nil
}

// remnant is what there is of an action that has no result: it waits, is in flight, or
// ended without one. All but state and index are as they are stored.
type remnant struct {
	id                          string
	index                       int
	state                       byte
	action, entry, result, last string
}

// withoutResult encodes the result of such an action.
func (s *Codec) withoutResult(m *remnant) ([]byte, error) {
	if m.action == "" {
		return nil, batch.ErrNotFound
	}
	a, err := s.OpenAction(m.id, m.index, m.action)
	if err != nil {
		return nil, err
	}
	e := ParseEntry(m.entry)
	r := &batch.Result{ID: batch.ActionID(a.ID, m.index), Index: m.index, Outcome: states[m.state], Attempts: e.Attempts}
	if r.Outcome == batch.Pending {
		return r.Encode(), nil
	}
	last, err := s.Previous(m.id, m.index, m.result, m.last)
	if err != nil {
		return nil, err
	}
	if m.state == OverdueState {
		r.Error, r.StartedAt = overdueFailure(), e.Started
		if last != nil && e.Round == "" && last.Outcome.Final() {
			r.Attempts, r.StartedAt = last.Attempts, last.StartedAt // its group had noted it already
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

// endedFailure says why an action was cancelled or has expired. Last is what it came to
// before; it is pending if the action was sent in this round.
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

func overdueFailure() *batch.Failure {
	return &batch.Failure{
		Code: batch.CodeInterrupted, Message: "the action was in flight at the batch's deadline, and no worker ever said what came of it",
	}
}
