// Package client talks to a batchd server: it submits batches of HTTP actions,
// follows them, and reads their results in the order of the actions.
//
// A batch is accepted as a whole or not at all. Once [Client.Submit] has
// returned a batch, the server runs it to its end whether or not a client waits;
// [Client.Wait] returns at the end, a webhook announces it, and [Client.Results] streams the
// result of every action. An action that failed is no error of this package:
// look at [Result.Outcome], or at the [Counts] of the batch.
//
// Large batches need not lie in memory. [Client.SubmitStream] sends actions as
// an iterator yields them, [Client.SubmitNDJSON] as a reader delivers them, and
// [Client.Results] hands out one result at a time.
//
// # Errors
//
// What the server refuses comes as a [*Problem], with one [Fault] for each thing
// that is wrong and where. [Transient] tells whether an error may pass by itself.
// Reading calls repeat themselves through such errors for as long as
// [WithRetryFor] allows. So does a submission that can be sent again from its
// start and carries an idempotency key, which makes sure that the server accepts
// it only once; [Client.Submit] brings its own key.
package client
