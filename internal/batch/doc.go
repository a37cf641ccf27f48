// Package batch is the domain of batchd: it defines batches, actions and results, their
// states, and the contract of a store. It imports no other package of batchd, and does
// not depend on transport or storage.
//
// A batch is an ordered list of actions that was accepted as a whole. Every action ends
// with exactly one [Outcome], and results[i] always belongs to actions[i], whatever the
// order in which they ended. Whenever a reader sees a batch, its counts add up to its
// total.
//
//	queued ──▶ running ──▶ completed
//	   │          │
//	   ├──────────┼──▶ cancelling ──▶ cancelled
//	   └──────────┴──▶ expired
//
// An action is pending until a worker begins it. The worker then either finishes it
// (the first write wins, and a stale token is refused) or releases it to wait for its
// next attempt. Cancelling and expiring end every action that has not begun at that
// moment, in one step; actions in flight may end by themselves.
//
// The actions of a [Group] begin together and end together, so no reader sees a part of
// it. While the group runs, its record holds the last step that was sent.
package batch
