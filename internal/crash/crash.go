// Package crash names the places between the acceptance of a batch and its
// webhook at which a process can be made to die, as kill -9 would have it, so
// that a test can show what every one of these deaths leaves behind.
//
// Without the build tag "crashpoints" [At] is empty and nothing of it is left in
// the binary. With the tag the process's environment says where to die:
// CRASH_AT=begun dies when that point is first passed, CRASH_AT=begun@3 at its
// third passing. internal/faults is what sets it.
package crash

// Point is a place in the code that [At] marks. Each is in the code once.
type Point string

// An upload, in the process that serves the API.
const (
	// KeyClaimed is after the idempotency key points at the upload.
	KeyClaimed Point = "key_claimed"
	// ChunkStaged is after each chunk of actions is staged.
	ChunkStaged Point = "chunk_staged"
	// Admitted is after the owner's limit has given the upload its places.
	Admitted Point = "admitted"
	// Readmitted is after a refused upload gave its places back, before what it staged is dropped.
	Readmitted Point = "readmitted"
	// Indexed is before a batch's groups are staged; in a cluster its entries exist by then.
	Indexed Point = "indexed"
	// BeforeCommit is when all is staged, before the step that makes the batch exist.
	BeforeCommit Point = "before_commit"
	// Committed is after that step, before the fan-out.
	Committed Point = "committed"
	// BeforeAnswer is after the commit and a fan-out that is not in the background, before the answer.
	BeforeAnswer Point = "before_answer"
)

// The fan-out, in the process that serves the API or in the sweeper.
const (
	// Offered is after the actions of a batch are offered to the workers, before that is noted.
	Offered Point = "offered"
	// FannedOut is after it is noted.
	FannedOut Point = "fanned_out"
	// Fed is after a throttled batch got places, before its actions are handed out.
	Fed Point = "fed"
	// HandedOut is after some of them are handed out, before they are offered.
	HandedOut Point = "handed_out"
	// HandedOffered is after those are offered, before that is noted.
	HandedOffered Point = "handed_offered"
)

// One action, in a worker.
const (
	// Taken is after its task is taken from the queue, before it is begun.
	Taken Point = "taken"
	// Begun is after it is begun, before it is sent.
	Begun Point = "begun"
	// Answered is after the answer is read, before it is recorded.
	Answered Point = "answered"
	// Finished is after the result is recorded, before the task is done for asynq.
	Finished Point = "finished"
	// Released is after it is put back for another attempt, before asynq knows when that is due.
	Released Point = "released"
	// Interrupted is before it is decided about an action that an earlier holder began.
	Interrupted Point = "interrupted"
	// Resumed is after such an action is put back, before it is begun again.
	Resumed Point = "resumed"
)

// A group of actions, in a worker.
const (
	// GroupNoted is after a request of it is on record, before it is sent.
	GroupNoted Point = "group_noted"
	// GroupAnswered is after the answer is read, before it is decided what follows.
	GroupAnswered Point = "group_answered"
	// GroupDecided is after that, before it is on record.
	GroupDecided Point = "group_decided"
	// GroupConcluding is before its members end.
	GroupConcluding Point = "group_concluding"
	// GroupConcluded is after they have, before the task is done for asynq.
	GroupConcluded Point = "group_concluded"
)

// The end of a batch, in whichever process brought it about.
const (
	// OutboxMarked is after the step that ended the batch and marked its webhook as due.
	OutboxMarked Point = "outbox_marked"
	// WebhookNoted is after the delivery is noted as pending, before its task is enqueued.
	WebhookNoted Point = "webhook_noted"
	// WebhookEnqueued is after the task is enqueued, before the mark is cleared.
	WebhookEnqueued Point = "webhook_enqueued"
	// WebhookTaken is after the task is taken, before the webhook is sent.
	WebhookTaken Point = "webhook_taken"
	// WebhookSent is after the receiver has answered, before that is recorded.
	WebhookSent Point = "webhook_sent"
	// WebhookRecorded is after it is recorded, before the task is done for asynq.
	WebhookRecorded Point = "webhook_recorded"
)

// Repair: the sweeper, and a worker that takes over from one that died.
const (
	// Sweeping is in the middle of a round, between two batches.
	Sweeping Point = "sweeping"
	// Expired is after what is not begun was ended at the deadline.
	Expired Point = "expired"
	// Recovering is after each action of a dead worker that is enqueued again.
	Recovering Point = "recovering"
	// Adopting is after each task that a dead worker held is put back.
	Adopting Point = "adopting"
	// Disowned is after a worker gave up actions that it held and did not have, before they are
	// enqueued for others.
	Disowned Point = "disowned"
	// Alerted is after a process repeated what Redis had forgotten and alerted the sweeper, before it reports tasks that may be lost.
	Alerted Point = "alerted"
	// Elected is after a worker became the sweeper, before all open batches are due.
	Elected Point = "elected"
	// BeforeBurial is when all is taken over, before the dead worker is forgotten.
	BeforeBurial Point = "before_burial"
)

// What an owner asks of a batch, in the process that serves the API.
const (
	// Cancelled is after what is not begun was ended, before the webhook and the answer.
	Cancelled Point = "cancelled"
	// RetryAdmitted is after the owner's limit has given a retry its places, before its step.
	RetryAdmitted Point = "retry_admitted"
	// Reopened is after the sweeper was told of a retry, before its step.
	Reopened Point = "reopened"
	// Retried is after the step of a retry, before its actions are offered.
	Retried Point = "retried"
	// Erased is after the keys of a batch are deleted, before its entry in the owner's list.
	Erased Point = "erased"
)

// Points returns every point, in the order of a batch's life.
func Points() []Point {
	return []Point{
		KeyClaimed, ChunkStaged, Admitted, Readmitted, Indexed, BeforeCommit, Committed, BeforeAnswer,
		Offered, FannedOut, Fed, HandedOut, HandedOffered,
		Taken, Begun, Answered, Finished, Released, Interrupted, Resumed,
		GroupNoted, GroupAnswered, GroupDecided, GroupConcluding, GroupConcluded,
		OutboxMarked, WebhookNoted, WebhookEnqueued, WebhookTaken, WebhookSent, WebhookRecorded,
		Sweeping, Expired, Recovering, Adopting, Disowned, Alerted, Elected, BeforeBurial,
		Cancelled, RetryAdmitted, Reopened, Retried, Erased,
	}
}
