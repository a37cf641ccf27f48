package batch

import (
	"context"
	"time"
)

// Store is the ledger as the API uses it. For another owner's batch, every method that
// takes an owner answers [ErrNotFound], as for a batch that never existed, and makes the
// same exchanges for both. Every method may answer an [UnavailableError].
type Store interface {
	// Open begins a submission. No part of it is visible before Commit.
	//
	// With a key, the first submission that opens it wins: while that one is being
	// accepted, Open answers [ErrKeyBusy]. Afterwards Open returns an upload that
	// stores nothing, and whose Commit returns the batch of the first submission.
	Open(ctx context.Context, owner, idempotencyKey string) (Upload, error)
	// Get returns one batch. If the batch has ended and has at most few actions, Get
	// also returns its first results.
	Get(ctx context.Context, owner, id string, few int) (*Batch, error)
	// OwnerOf returns which of the owners has a batch.
	OwnerOf(ctx context.Context, owners Owners, id string) (string, error)
	// List returns up to limit batches of the owners after the cursor, the latest first.
	// An empty cursor starts at the latest batch. The second value is the next cursor:
	// letters, digits and dashes, or empty at the end. A page can have fewer batches, or
	// none, and still a next cursor. Batches that cannot be read have Damaged. For a
	// cursor that List has not returned, the error is [ErrCursor].
	List(ctx context.Context, owners Owners, cursor string, limit int) ([]*Batch, string, error)
	// Results returns a page of results in the order of the actions.
	Results(ctx context.Context, owner, id string, q ResultQuery) (*ResultPage, error)
	// Cancel ends every action that has not begun, and returns the batch. It answers
	// [ErrTerminal] if the batch has ended. Cancelling a cancelled batch again is no
	// error.
	Cancel(ctx context.Context, owner, id string) (*Batch, error)
	// Retry runs the actions with one of the outcomes again, in a batch that has ended.
	// The batch and the indexes stay the same, and the new deadline is as far away as the
	// first one was. Retry answers [ErrNotTerminal], [ErrNothingToRetry], [ErrGrouped] or,
	// if the owner's limit or a quota has no room, a [LimitedError] or a [QuotaError]. The
	// state is the limit's, or nil if the limit was not used.
	Retry(ctx context.Context, owner, id string, spec *RetrySpec) (*Batch, *LimitState, error)
	// Delete erases the batch and all of its data. It does not stop actions in flight,
	// but drops their results.
	Delete(ctx context.Context, owner, id string) error
	// Deliveries returns the log of the batch's webhook, oldest first.
	Deliveries(ctx context.Context, owner, id string) (*DeliveryLog, error)
	// Redeliver sends the event of a terminal batch again, with the whole schedule of
	// attempts. It withdraws a delivery that is not done. It answers [ErrNoWebhook] or
	// [ErrNotTerminal].
	Redeliver(ctx context.Context, owner, id string) error
	// Watch returns a channel that receives a value soon after the batch turned terminal. The
	// value is the ended batch, of any owner, or nil, which means that the caller must read the
	// batch. Several watches may receive the same pointer. A wake-up can be lost with a
	// connection, so the caller should also read the batch from time to time. Stop releases the
	// watch.
	Watch(id string) (wake <-chan *Batch, stop func())
	// Ping reports whether the store can be reached and read. A store that accepts no
	// writes, because it is full or read-only, still serves readers.
	Ping(ctx context.Context) error
}

// Upload is a submission in progress. Only one goroutine uses it. It ends with Commit,
// or with Abort, which leaves nothing behind. After a crash, the staged actions expire
// by themselves.
type Upload interface {
	// Add stages the next action. The upload keeps no reference to it.
	Add(ctx context.Context, a *Action) error
	// Charge lets the submission count for accounts. It is called before the first Add, or not at all. Add
	// and Commit then answer a [QuotaError] if a quota of an account has no room; the accounts are asked in
	// their order. A repeated submission with the same key counts nothing.
	Charge(accounts ...Account)
	// Admit asks the owner's limit for n actions, at most once and before Commit. It
	// admits all of them, or none and answers a [LimitedError]. With partial, it admits
	// the first actions, up to the limit. Admitted actions count as in flight until
	// they end or the upload is aborted. A repeated submission with the same key costs
	// nothing.
	Admit(ctx context.Context, n int, limit Limit, partial bool) (admitted int, state LimitState, err error)
	// Commit makes the batch exist, in one step. After it returns without an error, the
	// batch is as durable as the store. Commit answers [ErrKeyReused] if the
	// idempotency key was used with another fingerprint, and [ErrUploadLost]. Replayed:
	// the batch comes from an earlier submission.
	Commit(ctx context.Context, spec *Spec) (b *Batch, replayed bool, err error)
	// Abort drops the staged actions. After Commit it does nothing, so it can be
	// deferred.
	Abort(ctx context.Context)
}

// RetrySpec selects the actions to run again, and the owner's limit for them.
type RetrySpec struct {
	Outcomes []Outcome
	// Limit admits all of the actions or none. Nil admits all.
	Limit *Limit
	// Throttle, instead of Limit, makes the actions wait until the limit allows each of
	// them.
	Throttle *Limit
	// Accounts are those that the batch counts for as open again. Instead of an address in it, the batch
	// counts for the address that submitted it. Retry answers a [QuotaError] if one has no room.
	Accounts []Account
}

// ResultQuery selects results.
type ResultQuery struct {
	// From is the first index to return.
	From int
	// Limit bounds the number of results, at least 1.
	Limit int
	// Outcomes selects results with these outcomes; empty selects all.
	Outcomes []Outcome
}

// ResultPage is a page of results, each in the form of [Result.Encode]; [Served]
// converts one to the native API's form. Actions that have not ended have the outcome
// "pending".
type ResultPage struct {
	Results [][]byte
	// Next is the index from which to continue, or -1 at the end of the batch.
	Next int
}

// DeliveryState is the state of a webhook.
type DeliveryState string

// The states of a webhook.
const (
	DeliveryWaiting   DeliveryState = "waiting"   // the batch has not ended
	DeliveryPending   DeliveryState = "pending"   // an attempt is due or under way
	DeliveryDelivered DeliveryState = "delivered" // the receiver answered 2xx
	DeliveryGone      DeliveryState = "gone"      // the receiver answered 410: no further attempts
	DeliveryFailed    DeliveryState = "failed"    // the schedule is exhausted
	DeliveryWithdrawn DeliveryState = "withdrawn" // the batch was retried before the event was delivered
)

// DeliveryLog is the log of a batch's webhook. It does not contain the URL, which may
// be a secret.
type DeliveryLog struct {
	// Round is the present round of the batch: 1, and one more for each retry. Every
	// round ends with an event of its own.
	Round int `json:"round"`
	// MessageID is the webhook-id of this round's event, the same for every attempt.
	MessageID string        `json:"message_id"`
	State     DeliveryState `json:"state"`
	// NextAt is when the next attempt is due, or nil.
	NextAt *time.Time `json:"next_at,omitempty"`
	// Attempts are the attempts of all rounds, oldest first.
	Attempts []Delivery `json:"attempts"`
	// Earlier has the events of earlier rounds, oldest first.
	Earlier []PastDelivery `json:"earlier,omitempty"`
}

// PastDelivery is the final state of the event of an earlier round.
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

// Ledger is the store as a worker uses it. It decides what may still happen to an
// action. Every method may answer an [UnavailableError], and is safe to repeat.
type Ledger interface {
	// Begin records that the action has started, before the worker sends any byte of
	// it. It returns the action with the token for Finish and Release, or the reason
	// why there is nothing to send. While the store is unavailable, Begin retries until
	// the context ends. After an error the action is not begun: Begin has given back
	// any action that it may have begun.
	Begin(ctx context.Context, id string, index int, worker string) (*Begun, error)
	// Finish records the result. The first write wins: for a token that is no longer
	// the action's, Finish answers [ErrStale] and changes nothing. A repetition of the
	// write that won is no error. The last action turns its batch terminal in the same
	// step. If a quota of stored bytes has no room for the result, Finish removes the body
	// from r, stores the rest, and sets TruncatedBy.
	Finish(ctx context.Context, id string, index int, token Token, r *Result) error
	// Release puts the action back, to wait for its next attempt. If its batch was
	// cancelled or has expired in the meantime, the action ends with that outcome, and
	// released is false. Last is the result of this attempt: if the action ends without
	// another attempt, its result keeps that status.
	Release(ctx context.Context, id string, index int, token Token, last *Result) (released bool, err error)
	// GiveBack is Release for an action of which nothing was sent: the attempt does not
	// count.
	GiveBack(ctx context.Context, id string, index int, token Token) (released bool, err error)
	// Abandon records that an attempt is no longer in flight in this worker. After its
	// Finish or Release, Abandon does nothing. Otherwise other workers find the attempt
	// interrupted.
	Abandon(id string, index int, token Token)
	// Webhook returns the event of a delivery: the batch at its end. It answers
	// [ErrStale] if the delivery is complete, or was withdrawn because the batch was
	// retried or the event is delivered again.
	Webhook(ctx context.Context, id string, delivery int) (*Notice, error)
	// Delivered records an attempt at a delivery and the state after it. It answers
	// [ErrStale] if the delivery was withdrawn meanwhile: then no attempt follows.
	Delivered(ctx context.Context, id string, delivery int, d Delivery, state DeliveryState, nextAt time.Time) error
	GroupLedger
}

// Sweeper repairs inconsistencies that a crash left behind.
type Sweeper interface {
	// Sweep makes one round over the batches that are not done. Only one worker sweeps
	// at a time: ok is false if another worker does. Sweeping is idempotent.
	Sweep(ctx context.Context, worker string) (swept Swept, ok bool, err error)
	// ReleaseThrottled enqueues actions of throttled batches within their owners' limits,
	// and returns the number of such batches. The sweeping worker calls it; a second
	// caller does no harm.
	ReleaseThrottled(ctx context.Context) (waiting int, err error)
	// Resign lets another worker sweep at once.
	Resign(ctx context.Context, worker string) error
}

// Swept is the result of one round of the sweeper.
type Swept struct {
	Open     int // batches that were checked
	Resumed  int // interrupted fan-outs
	Lost     int // actions without a result and a task, or with a holder that does not exist
	Expired  int // batches whose deadline had passed
	Notified int // webhooks that were due but not enqueued
	Closed   int // entries of batches that are done or gone
}

// Token fences an attempt: it is unique among all attempts of an action.
type Token string

// Verdict is the answer of Begin.
type Verdict uint8

// The verdicts.
const (
	// Run: the action is this worker's; send it now.
	Run Verdict = iota
	// Ended: the action has an outcome already. There is nothing to do.
	Ended
	// Gone: the batch no longer exists. There is nothing to do.
	Gone
	// Interrupted: an earlier holder began the action and never ended it. It is unknown
	// whether the request was sent. With the token from Begin, the caller may Release
	// the action if it is safe to repeat, or Finish it; from then on the earlier holder
	// is stale.
	Interrupted
	// Waiting: the action belongs to a group that another action leads. There is
	// nothing to do.
	Waiting
	// Held: another worker, which is alive, has the action in flight, or runs the group
	// that the action leads. Ask again later.
	Held
)

// Begun is an action as Begin found it.
type Begun struct {
	Verdict Verdict
	// Action, Owner, Target and ExpiresAt are set for Run and Interrupted.
	Action    Action
	Owner     string
	Target    string
	ExpiresAt time.Time
	// Token is this attempt's token; for Interrupted it is the earlier holder's.
	Token Token
	// Earlier is the number of attempts before the batch was retried, and Previous is
	// their result, or nil. If the action was released since then, Previous is pending,
	// and its history has the earlier results.
	Earlier  int
	Previous *Result
	// Attempt counts from 1; for Interrupted it is the earlier holder's.
	Attempt int
	// FirstAt is when the first attempt began, StartedAt this one.
	FirstAt   time.Time
	StartedAt time.Time
	// Worker is the holder's name.
	Worker string
	// Group is set if the action leads a group. Then the caller holds the whole group,
	// and continues from its record.
	Group *Group
}

// Notice is the event that a webhook delivers: the end of a batch.
type Notice struct {
	// Batch is the batch as it ended.
	Batch *Batch
	// Round counts the ends of the batch from 1. MessageID is the webhook-id of this end.
	Round     int
	MessageID string
	// Results has all results if the batch is small, or nil.
	Results [][]byte
}

// Request is one attempt for a dispatcher to make.
type Request struct {
	Target string
	// Owner is the owner of the batch. Requests of different owners share no connection,
	// unless the target's setting connections says so.
	Owner string
	// BatchID and Index identify the action. The dispatcher derives the target's
	// idempotency key from them, so every attempt has the same key.
	BatchID string
	Index   int
	Action  *Action
	// Call: this is a call from the target's configuration. The target's rules apply
	// only to requests of clients.
	Call bool
	// Transaction is the id of the transaction to which the request belongs, or "". The
	// dispatcher sends it in the header that the target's transactions.send_as names.
	Transaction string
	// Now is the time by the ledger's clock. The dispatcher compares times in an answer
	// with it, unless the answer shows the target's clock. Zero means the time by the
	// machine's clock.
	Now time.Time
	// Ready, if it is set, is called with a connection in hand, right before the first byte is
	// written. It may wait until the request is due. The timeout starts when it returns. After
	// an error nothing is written, and the response is Unsent. Ready is called again if the
	// request needs another connection.
	Ready func(ctx context.Context) error
}

// Response is the dispatcher's response to one attempt.
type Response struct {
	// Result has everything but ID, Index and Attempts.
	Result Result
	// Repeat: policy allows another attempt, because the request provably never left,
	// the target asked for it, or repeating is safe.
	Repeat bool
	// Unsent: no byte of the request reached the target.
	Unsent bool
	// After is how long the target asked to wait, or 0. It applies to all requests to
	// the target, even if this action is not repeated.
	After time.Duration
}

// Dispatcher makes HTTP exchanges with targets. It is safe for concurrent use.
type Dispatcher interface {
	// Do makes one attempt. It returns within the action's timeout plus a second,
	// whatever the target does, and never panics because of an answer.
	Do(ctx context.Context, r *Request) *Response
	// Repeatable reports whether the action may be sent again even if an earlier
	// request may have reached the target.
	Repeatable(target string, a *Action) bool
}
