package batches

import (
	"fmt"

	"github.com/batchd/batchd/internal/batch"
)

// OverdueState is the state of an action that was still running long after its batch's deadline. No
// worker reported a result, so there is none.
const OverdueState = 'O'

// states maps the state of an action, as lua/states.lua has it, to its outcome.
var states = map[byte]batch.Outcome{
	'p': batch.Pending, 'r': batch.Pending, 'w': batch.Pending, 'g': batch.Pending,
	'S': batch.Succeeded, 'F': batch.Failed, 'E': batch.Errored, 'U': batch.Unknown, OverdueState: batch.Unknown,
	'C': batch.Cancelled, 'X': batch.Expired, 'K': batch.Skipped,
}

// StateOf returns the state of an action that a result with that outcome has ended. It returns an error
// for an outcome that is not final.
func StateOf(o batch.Outcome) (string, error) {
	for state, outcome := range states {
		if outcome == o && o.Final() && state != OverdueState {
			return string(state), nil
		}
	}
	return "", fmt.Errorf("a result cannot have the outcome %s", o)
}

// hasResult reports whether a worker stored a result for each action in that state. The others wait or
// run, or ended without one.
func hasResult(state byte) bool {
	if state == OverdueState {
		return false
	}
	switch states[state] {
	case batch.Succeeded, batch.Failed, batch.Errored, batch.Unknown, batch.Skipped:
		return true
	case batch.Pending, batch.Cancelled, batch.Expired:
		return false
	}
	return false
}
