package batches

import (
	"fmt"
	"math"
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
		if !within(attempts, 0, math.MaxInt32) || started != "" && !within(started, 0, maxMillis-1) {
			return nil, Damaged(id, lastKind, index, fmt.Errorf("%w: it has another form", seal.ErrChanged))
		}
		return &batch.Result{Outcome: batch.Unknown, Attempts: int(rdb.Atoi(attempts)), StartedAt: rdb.FromMillis(started), Error: overdueFailure()}, nil
	}
	r, err := c.decodeResult(id, lastKind, index, rest)
	if err != nil {
		return nil, err
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
	r, err := c.decodeResult(id, "r", index, result)
	if err != nil || attempt == nil || attempt.Attempts <= r.Attempts {
		return r, err
	}
	if attempt.Outcome == batch.Unknown {
		attempt.History = r.Past() // an overdue attempt was stored without a history
	}
	return attempt, nil
}
