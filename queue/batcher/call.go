package batcher

import "github.com/batchd/batchd/queue/rdb"

// Call is one action's part in a step of the ledger. The batcher runs a step once for all
// calls of a batch that have the same shared arguments.
type Call struct {
	Step       *rdb.Step
	ID         string // of the batch
	SharedArgs []any  // arguments that the step takes once for all of its actions
	Index      int    // of the action
	Args       []any  // arguments for this action, which follow its index
	ReadAction bool   // the exchange also reads the sealed action
	CanWait    bool   // the call may wait a moment for others to share its exchange

	// SharedReply is what the step answers once for all actions of the run. Reply is this action's
	// part, nil for the usual verdict. First is set on one call of each run: its caller alone acts on
	// what SharedReply asks for once, such as a webhook.
	SharedReply []any
	Reply       []string
	Action      any // the sealed action, or nil if there is none
	First       bool

	solo bool  // it shares its exchange with no other call
	err  error // of the last run
	done chan struct{}
}

// Usual is the verdict of a step on an action for which nothing unusual happened.
const Usual = ""

// Verdict returns the step's verdict on this action.
func (c *Call) Verdict() string {
	if len(c.Reply) == 0 {
		return Usual
	}
	return c.Reply[0]
}

// Failed reports whether the last run of the call failed. Redis may have executed the step
// all the same.
func (c *Call) Failed() bool { return c.err != nil }
