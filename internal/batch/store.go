package batch

import (
	"context"
	"time"
)

// Store is what the API asks of the ledger. Every method that takes an owner
// answers [ErrNotFound] for another owner's batch, exactly as for one that never
// was. Every method may answer an [UnavailableError].
type Store interface {
	// Open begins a submission. Nothing of it is visible before Commit.
	//
	// With a key, the first submission to open it decides: while that one is
	// being accepted, Open answers [ErrKeyBusy]; afterwards it answers an upload
	// that stores nothing and whose Commit returns the first one's batch.
	Open(ctx context.Context, owner, idempotencyKey string) (Upload, error)
	// Get returns one batch. If it has ended and has at most so many actions as are
	// said to be few, its first results come with it.
	Get(ctx context.Context, owner, id string, few int) (*Batch, error)
	// List returns up to limit batches of the owner, those created last first, that
	// come after the cursor. Empty means from the newest. The second value is the
	// next cursor, letters, digits and dashes, empty at the end. A cursor that List
	// has not returned is an [ErrCursor].
	List(ctx context.Context, owner, cursor string, limit int) ([]*Batch, string, error)
	// Results returns a page of results in the order of the actions.
	Results(ctx context.Context, owner, id string, q ResultQuery) (*ResultPage, error)
	// Cancel ends every action that is not begun, and returns the batch as it
	// then is. It answers [ErrTerminal] if the batch has ended. Cancelling
	// twice is cancelling once.
	Cancel(ctx context.Context, owner, id string) (*Batch, error)
	// Retry has the actions with one of the outcomes run again, in a batch that
	// has ended: same batch, same places, with a new deadline as far off as the
	// first was. It answers [ErrNotTerminal], [ErrNothingToRetry], [ErrGrouped] or, if
	// the owner's limit has no room, a [LimitedError]. The state is that of the limit, nil
	// if it was not asked.
	Retry(ctx context.Context, owner, id string, spec *RetrySpec) (*Batch, *LimitState, error)
	// Delete erases the batch and all that belongs to it. What is in flight is
	// not stopped; its result is dropped.
	Delete(ctx context.Context, owner, id string) error
	// Deliveries returns the log of the batch's webhook, oldest first.
	Deliveries(ctx context.Context, owner, id string) (*DeliveryLog, error)
	// Redeliver sends the event of a terminal batch again, with the whole schedule; a
	// delivery that is not done is withdrawn. It answers [ErrNoWebhook] or [ErrNotTerminal].
	Redeliver(ctx context.Context, owner, id string) error
	// Watch returns a channel that receives a value soon after the batch turned
	// terminal: the batch as it ended, whichever owner it has, or nil: then the caller
	// reads the batch. Others may have the same one. A wake-up can be lost with a connection, so
	// the caller looks by itself now and then. Stop releases the watch.
	Watch(id string) (wake <-chan *Batch, stop func())
	// Ping reports whether the store can be reached and read. A store that takes no
	// writes, because it is full or read-only, still serves readers.
	Ping(ctx context.Context) error
}

// Upload is a submission being made. It is used by one goroutine. It ends with
// Commit, or with Abort, which leaves nothing behind. An upload that a crash
// cuts off leaves staged actions that expire by themselves.
type Upload interface {
	// Add stages the next action. The upload keeps no reference to it.
	Add(ctx context.Context, a *Action) error
	// Admit asks the owner's limit for n actions, at most once and before
	// Commit. All of them are admitted or none, which is a [LimitedError]; with
	// partial, as many as there is room for, from the first on. What is admitted
	// counts as in flight until the actions end or the upload is aborted. The
	// submission of a key that was used before costs nothing.
	Admit(ctx context.Context, n int, limit Limit, partial bool) (admitted int, state LimitState, err error)
	// Commit makes the batch exist, in one step. After an answer without error
	// it survives what the store survives. It answers [ErrKeyReused] if the
	// idempotency key was used with another fingerprint, and [ErrUploadLost].
	// Replayed says that the batch is that of an earlier submission.
	Commit(ctx context.Context, spec *Spec) (b *Batch, replayed bool, err error)
	// Abort drops what was staged. After Commit it does nothing, so it can be deferred.
	Abort(ctx context.Context)
}

// RetrySpec says what is run again, and within which limit of the owner's.
type RetrySpec struct {
	Outcomes []Outcome
	// Limit admits all of the actions or none. Nil admits all.
	Limit *Limit
	// Throttle, instead of Limit, has the actions wait until it allows each.
	Throttle *Limit
}

// ResultQuery selects results.
type ResultQuery struct {
	// From is the first index to look at.
	From int
	// Limit bounds the number of results, at least 1.
	Limit int
	// Outcomes keeps only those; empty keeps all.
	Outcomes []Outcome
}

// ResultPage is a page of results, each encoded as [Result.Encode] does: [Served]
// makes of it what the native API serves.
// Actions that have not ended are in it with the outcome "pending".
type ResultPage struct {
	Results [][]byte
	// Next is the index to go on from, or -1 at the end of the batch.
	Next int
}

// DeliveryState is the state of a webhook.
type DeliveryState string

// The states of a webhook.
const (
	DeliveryWaiting   DeliveryState = "waiting"   // the batch has not ended
	DeliveryPending   DeliveryState = "pending"   // an attempt is due or under way
	DeliveryDelivered DeliveryState = "delivered" // the receiver answered 2xx
	DeliveryGone      DeliveryState = "gone"      // the receiver answered 410: never again
	DeliveryFailed    DeliveryState = "failed"    // the schedule is exhausted
	DeliveryWithdrawn DeliveryState = "withdrawn" // the batch was retried before the event was delivered
)

// DeliveryLog is what happened to a batch's webhook. The URL is not in it,
// because it may hold a secret.
type DeliveryLog struct {
	// Round is the round that the batch is in: 1, and one more for each retry. Every
	// round ends with an event of its own.
	Round int `json:"round"`
	// MessageID is the webhook-id of this round's event, the same for every attempt.
	MessageID string        `json:"message_id"`
	State     DeliveryState `json:"state"`
	// NextAt is when the next attempt is due, nil where there is none.
	NextAt *time.Time `json:"next_at,omitempty"`
	// Attempts are those of all rounds, oldest first.
	Attempts []Delivery `json:"attempts"`
	// Earlier says what became of the events of earlier rounds, oldest first.
	Earlier []PastDelivery `json:"earlier,omitempty"`
}

// PastDelivery is what became of the event of an earlier round.
type PastDelivery struct {
	Round     int           `json:"round"`
	MessageID string        `json:"message_id"`
	State     DeliveryState `json:"state"`
}

// Delivery is one attempt at delivering a webhook.
type Delivery struct {
	// Round and MessageID name the event that was sent.
	Round      int       `json:"round"`
	MessageID  string    `json:"message_id"`
	At         time.Time `json:"at"`
	Status     int       `json:"status,omitempty"`
	Error      string    `json:"error,omitempty"`
	DurationMS int64     `json:"duration_ms"`
}

// Ledger is what a worker asks of the store. It decides what may still happen
// to an action. Every method may answer an [UnavailableError], and bears repetition.
type Ledger interface {
	// Begin marks the action as started before any byte of it is sent, and
	// returns it with the token that Finish and Release ask for; or it says why
	// there is nothing to send. It goes on while the store is unavailable, until the
	// context ends. With an error the action is not begun: what may have been begun
	// was given back.
	Begin(ctx context.Context, id string, index int, worker string) (*Begun, error)
	// Finish records the result. The first write wins: a token that is no longer
	// the action's gets [ErrStale] and changes nothing. A repetition of the write
	// that won is no error. The last action turns its batch terminal in the same step.
	Finish(ctx context.Context, id string, index int, token Token, r *Result) error
	// Release puts the action back, to wait for its next attempt. If its batch
	// was cancelled or has expired in the meantime, the action ends as that, and
	// released is false. Last is what this attempt came to: should the action end
	// without another one, its result keeps the status.
	Release(ctx context.Context, id string, index int, token Token, last *Result) (released bool, err error)
	// GiveBack is Release for an action of which nothing was sent: the attempt does
	// not count.
	GiveBack(ctx context.Context, id string, index int, token Token) (released bool, err error)
	// Abandon tells that an attempt that was begun is not in flight here any more. After
	// its Finish or Release it does nothing; without, others find it interrupted.
	Abandon(id string, index int, token Token)
	// Webhook returns the event that a delivery is to send: the end of the batch as it
	// was. It answers [ErrStale] if the delivery was withdrawn, because the batch was
	// retried or the event is delivered again, or has come to its end.
	Webhook(ctx context.Context, id string, delivery int) (*Notice, error)
	// Delivered records an attempt at a delivery and the state that follows. It answers
	// [ErrStale] if the delivery was withdrawn meanwhile: then nothing follows.
	Delivered(ctx context.Context, id string, delivery int, d Delivery, state DeliveryState, nextAt time.Time) error
	GroupLedger
}

// Sweeper repairs what a crash left incomplete.
type Sweeper interface {
	// Sweep makes one round over the batches that are not done. Only one worker
	// sweeps at a time: ok is false where it is another. Sweeping is idempotent.
	Sweep(ctx context.Context, worker string) (swept Swept, ok bool, err error)
	// ReleaseThrottled hands out the actions of throttled batches as far as their owners'
	// limits allow, and returns how many such batches there are. The worker that
	// sweeps does it; a second one does no harm.
	ReleaseThrottled(ctx context.Context) (waiting int, err error)
	// Resign lets another worker sweep at once.
	Resign(ctx context.Context, worker string) error
}

// Swept says what a round of the sweeper found.
type Swept struct {
	Open     int // batches looked at
	Resumed  int // fan-outs that had broken off
	Lost     int // actions that had neither a result nor a task, or a holder that does not exist
	Expired  int // batches whose deadline had passed
	Notified int // webhooks that were due and not enqueued
	Closed   int // entries of batches that are done or gone
}

// Token fences an attempt: it is unique among all attempts of an action.
type Token string

// Verdict says what Begin found.
type Verdict uint8

// The verdicts.
const (
	// Run: the action is this worker's, to be sent now.
	Run Verdict = iota
	// Ended: the action has an outcome already. There is nothing to do.
	Ended
	// Gone: the batch does not exist any more. There is nothing to do.
	Gone
	// Interrupted: an earlier holder began the action and never ended it.
	// Whether its request was sent is not known. With the token that Begin
	// returns the caller may Release the action, if it is safe to repeat, or
	// Finish it; from then on the earlier holder is stale.
	Interrupted
	// Waiting: the action belongs to a group that another action leads. There
	// is nothing to do.
	Waiting
	// Held: another worker, which is alive, has the action in flight, or runs the
	// group that it leads. Ask again later.
	Held
)

// Begun is what Begin found.
type Begun struct {
	Verdict Verdict
	// Action, Target and ExpiresAt are set for Run and Interrupted.
	Action    Action
	Target    string
	ExpiresAt time.Time
	// Token is this attempt's, or for Interrupted the earlier holder's.
	Token Token
	// Earlier is how many attempts there were before the batch was retried, and
	// Previous the result that they led to, nil where there is none. If the action
	// was released since then, Previous is pending and has what came before as its
	// history.
	Earlier  int
	Previous *Result
	// Attempt counts from 1; for Interrupted it is the earlier holder's.
	Attempt int
	// FirstAt is when the first attempt began, StartedAt this one.
	FirstAt   time.Time
	StartedAt time.Time
	// Worker is the holder's name.
	Worker string
	// Group is set where the action leads a group: then all of the group is the
	// caller's, to be run from where its record stands.
	Group *Group
}

// Notice is the event that a webhook delivers: the end of a batch.
type Notice struct {
	// Batch is the batch as it ended.
	Batch *Batch
	// Round counts the ends of the batch from 1. MessageID is the webhook-id of this one.
	Round     int
	MessageID string
	// Results are all results if the batch is small, else nil.
	Results [][]byte
}

// Request is one attempt that a dispatcher is asked to make.
type Request struct {
	Target string
	// BatchID and Index name the action. A target's idempotency key is derived
	// from them, so that every attempt carries the same.
	BatchID string
	Index   int
	Action  *Action
	// Call says that this is one of the calls that the target is configured with:
	// its rules are for what clients send.
	Call bool
	// Now is the time by the ledger's clock. Times in an answer are compared with it
	// if the answer does not say what the target's clock shows. Zero means the time by
	// the machine's clock.
	Now time.Time
	// Ready, if it is set, is called with a connection in hand, right before the first
	// byte is written, and may wait until that is due. The timeout starts when it returns. With
	// an error nothing is written, and the response is Unsent. It is called again if the
	// request has to go over another connection.
	Ready func(ctx context.Context) error
}

// Response is what a dispatcher made of one attempt.
type Response struct {
	// Result has everything but ID, Index and Attempts.
	Result Result
	// Repeat says that policy allows another attempt: the request provably never
	// left, or the target asked for it, or repeating is safe.
	Repeat bool
	// Unsent says that no byte of the request reached the target.
	Unsent bool
	// After is how long the target asked to wait, 0 where it did not. It goes for
	// all that is sent to it, also where this action is not repeated.
	After time.Duration
}

// Dispatcher makes HTTP exchanges with targets. It is safe for concurrent use.
type Dispatcher interface {
	// Do makes one attempt. It returns within the action's timeout plus a
	// second, whatever the target does, and never panics on what it sends.
	Do(ctx context.Context, r *Request) *Response
	// Repeatable reports whether the action may be sent again although an
	// earlier request may have reached the target.
	Repeatable(target string, a *Action) bool
}
