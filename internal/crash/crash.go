// Package crash names points between the acceptance of a batch and its webhook at which
// a process can be made to die, as with kill -9. A test can then check the state that
// each of these deaths leaves behind.
//
// Without the build tag "crashpoints", [At] is empty and leaves nothing in the binary.
// With the tag, the environment of the process selects the point: with CRASH_AT=begun
// the process dies when it first passes that point, with CRASH_AT=begun@3 when it
// passes it for the third time. internal/faults sets the variable.
package crash

// Point is a point in the code that [At] marks. Each point is in the code exactly once.
type Point string

// An upload, in the process that serves the API.
const (
	// KeyClaimed is after the idempotency key points to the upload.
	KeyClaimed Point = "key_claimed"
	// ChunkStaged is after each chunk of actions is staged.
	ChunkStaged Point = "chunk_staged"
	// Admitted is after the upload has reserved room in the owner's limit.
	Admitted Point = "admitted"
	// Charged is after the quotas have counted the batch, before the rest of its actions is staged.
	Charged Point = "charged"
	// Readmitted is after a refused upload returned its reservation, before its staged actions are
	// dropped.
	Readmitted Point = "readmitted"
	// Indexed is before a batch's groups are staged; in a cluster its entries exist by then.
	Indexed Point = "indexed"
	// BeforeCommit is after everything is staged, before the step that makes the batch
	// exist.
	BeforeCommit Point = "before_commit"
	// Committed is after that step, before the fan-out.
	Committed Point = "committed"
	// BeforeAnswer is after the commit and a fan-out that is not in the background, before the answer.
	BeforeAnswer Point = "before_answer"
)

// The fan-out, in the process that serves the API or in the sweeper.
const (
	// Offered is after the actions of a batch are offered to the workers, before this is
	// recorded.
	Offered Point = "offered"
	// FannedOut is after it is recorded.
	FannedOut Point = "fanned_out"
	// Fed is after a throttled batch was admitted, before its actions are enqueued.
	Fed Point = "fed"
	// HandedOut is after some of them are enqueued, before they are offered.
	HandedOut Point = "handed_out"
	// HandedOffered is after these are offered, before this is recorded.
	HandedOffered Point = "handed_offered"
)

// One action, in a worker.
const (
	// Taken is after the action's task is taken from the queue, before the action
	// begins.
	Taken Point = "taken"
	// Begun is after the action has begun, before it is sent.
	Begun Point = "begun"
	// Answered is after the answer is read, before it is recorded.
	Answered Point = "answered"
	// RoomReserved is after the quotas have counted more room for a result, before its batch has it.
	RoomReserved Point = "room_reserved"
	// Finished is after the result is recorded, before the task ends in asynq.
	Finished Point = "finished"
	// Released is after the action is put back for another attempt, before asynq knows when that
	// attempt is due.
	Released Point = "released"
	// Interrupted is before the worker decides about an action that an earlier holder
	// began.
	Interrupted Point = "interrupted"
	// Resumed is after such an action is put back, before it begins again.
	Resumed Point = "resumed"
)

// A group of actions, in a worker.
const (
	// GroupNoted is after a request of the group is recorded, before it is sent.
	GroupNoted Point = "group_noted"
	// GroupAnswered is after the answer is read, before the worker decides on the next
	// step.
	GroupAnswered Point = "group_answered"
	// GroupDecided is after that decision, before it is recorded.
	GroupDecided Point = "group_decided"
	// GroupConcluding is before the members end.
	GroupConcluding Point = "group_concluding"
	// GroupConcluded is after the members have ended, before the task ends in asynq.
	GroupConcluded Point = "group_concluded"
)

// The end of a batch, in any process.
const (
	// OutboxMarked is after the step that ended the batch and marked its webhook as due.
	OutboxMarked Point = "outbox_marked"
	// WebhookNoted is after the delivery is recorded as pending, before its task is
	// enqueued.
	WebhookNoted Point = "webhook_noted"
	// WebhookEnqueued is after the task is enqueued, before the mark is cleared.
	WebhookEnqueued Point = "webhook_enqueued"
	// WebhookTaken is after the task is taken, before the webhook is sent.
	WebhookTaken Point = "webhook_taken"
	// WebhookSent is after the receiver has answered, before the answer is recorded.
	WebhookSent Point = "webhook_sent"
	// WebhookRecorded is after the answer is recorded, before the task ends in asynq.
	WebhookRecorded Point = "webhook_recorded"
)

// Repair: the sweeper, and a worker that takes over from a dead one.
const (
	// Sweeping is in the middle of a round, between two batches.
	Sweeping Point = "sweeping"
	// Expired is after the actions that have not begun were ended at the deadline.
	Expired Point = "expired"
	// Recovering is after each action of a dead worker is enqueued again.
	Recovering Point = "recovering"
	// Adopting is after each task that a dead worker held is put back.
	Adopting Point = "adopting"
	// Disowned is after a worker gave up actions that it held but did not have, before they are
	// enqueued for others.
	Disowned Point = "disowned"
	// Alerted is after a process repeated a write that Redis had lost and alerted the sweeper, before
	// it reports tasks that may be lost.
	Alerted Point = "alerted"
	// Elected is after a worker became the sweeper, before all open batches are due.
	Elected Point = "elected"
	// BeforeBurial is after everything is taken over, before the dead worker is
	// forgotten.
	BeforeBurial Point = "before_burial"
)

// Requests of an owner about a batch, in the process that serves the API.
const (
	// Cancelled is after the actions that have not begun were ended, before the webhook
	// and the answer.
	Cancelled Point = "cancelled"
	// RetryAdmitted is after a retry has reserved room in the owner's limit, before its step.
	RetryAdmitted Point = "retry_admitted"
	// Reopened is after the retry was announced to the sweeper, before its step.
	Reopened Point = "reopened"
	// Retried is after the step of a retry, before its actions are offered.
	Retried Point = "retried"
	// Erased is after the keys of a batch are deleted, before its entry in the owner's list.
	Erased Point = "erased"
)

// Points returns every point, in the order of a batch's life.
func Points() []Point {
	return []Point{
		KeyClaimed, ChunkStaged, Admitted, Charged, Readmitted, Indexed, BeforeCommit, Committed, BeforeAnswer,
		Offered, FannedOut, Fed, HandedOut, HandedOffered,
		Taken, Begun, Answered, RoomReserved, Finished, Released, Interrupted, Resumed,
		GroupNoted, GroupAnswered, GroupDecided, GroupConcluding, GroupConcluded,
		OutboxMarked, WebhookNoted, WebhookEnqueued, WebhookTaken, WebhookSent, WebhookRecorded,
		Sweeping, Expired, Recovering, Adopting, Disowned, Alerted, Elected, BeforeBurial,
		Cancelled, RetryAdmitted, Reopened, Retried, Erased,
	}
}
