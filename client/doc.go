// Package client talks to a batchd server: it submits batches of HTTP actions, follows them,
// and reads their results in the order of the actions.
//
// The server accepts a batch as a whole or not at all. Once [Client.Submit] has returned a
// batch, the server runs it to its end, even if no client waits. [Client.Wait] returns when
// the batch has ended, a webhook can announce the end, and [Client.Results] streams the
// result of every action. A failed action is not an error of this package: check
// [Result.Outcome], or the [Counts] of the batch.
//
// Large batches need not fit into memory. [Client.SubmitStream] sends actions as an iterator
// yields them, [Client.SubmitNDJSON] sends them as a reader delivers them, and
// [Client.Results] returns one result at a time.
//
// # Errors
//
// A refusal of the server is a [*Problem]. It has one [Fault] for each mistake in the
// submission, with its place. [Transient] reports whether a call may succeed if it is
// repeated. Calls that only read are repeated after such errors for the time that
// [WithRetryFor] sets. So is a submission if the client can send it again from its start and
// it carries an idempotency key, with which the server accepts it only once. [Client.Submit]
// adds a key itself.
package client
