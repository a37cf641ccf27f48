// Package batch is the domain of batchd: what a batch, an action and a result
// are, which states they pass through, and what a store has to promise about
// them. It imports nothing of ours and knows neither transport nor storage.
//
// A batch is an ordered list of actions that was accepted together. Every
// action ends with exactly one [Outcome], and results[i] always belongs to
// actions[i], whatever the order in which they ended. At every moment that a
// reader can see, the counts of a batch add up to its total.
//
//	queued ──▶ running ──▶ completed
//	   │          │
//	   ├──────────┼──▶ cancelling ──▶ cancelled
//	   └──────────┴──▶ expired
//
// An action is pending until it is begun. A begun action is either finished
// (first write wins, a stale token is refused) or released to wait for its next
// attempt. Cancelling and expiring end every action that is not begun at that
// moment, in one step; those in flight are allowed to end by themselves.
//
// The actions of a [Group] are begun together and end together, so no reader
// sees a part of it. While it runs, its record says what was sent last.
package batch
