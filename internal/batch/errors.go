package batch

import (
	"errors"
	"fmt"
	"time"
)

// The errors of a store. Compare with errors.Is.
var (
	// ErrNotFound: this owner has no such batch.
	ErrNotFound = errors.New("no such batch")
	// ErrKeyReused: the idempotency key was used with other content.
	ErrKeyReused = errors.New("the idempotency key was used before with other content")
	// ErrKeyBusy: a submission with the same idempotency key is still being accepted.
	ErrKeyBusy = errors.New("a submission with this idempotency key is still being accepted")
	// ErrTerminal: the batch has ended, so there is nothing to cancel.
	ErrTerminal = errors.New("the batch has ended already")
	// ErrNotTerminal: the batch has not ended, so it has no event to deliver.
	ErrNotTerminal = errors.New("the batch has not ended yet")
	// ErrCursor: the store did not return this list cursor.
	ErrCursor = errors.New("the cursor is not valid")
	// ErrNothingToRetry: no action of the batch has one of the outcomes asked for.
	ErrNothingToRetry = errors.New("no action has one of these outcomes")
	// ErrGrouped: the batch has groups, which count as a whole and cannot be
	// retried in part.
	ErrGrouped = errors.New("the batch has groups")
	// ErrNoWebhook: the batch was submitted without a webhook.
	ErrNoWebhook = errors.New("the batch has no webhook")
	// ErrUploadLost: the staged actions of an upload are gone, because it was idle for
	// too long or another submission took over its key.
	ErrUploadLost = errors.New("the upload was idle for too long and is gone")
	// ErrStale: another worker has taken the action over, or it has ended.
	ErrStale = errors.New("the action is no longer this worker's")
	// ErrRecovering: another worker is taking over the actions of dead workers.
	ErrRecovering = errors.New("another worker takes over the actions of dead workers")
)

// UnavailableError means that the store cannot be reached or cannot write at the moment.
// Either nothing was changed, or it is unknown whether something was. The caller should
// repeat the call.
type UnavailableError struct {
	// RetryAfter is when the caller should repeat the call.
	RetryAfter time.Duration
	Err        error
}

// Error implements error.
func (e *UnavailableError) Error() string { return fmt.Sprintf("store unavailable: %v", e.Err) }

// Unwrap returns the cause.
func (e *UnavailableError) Unwrap() error { return e.Err }

// DamagedError means that what is stored of a batch cannot be trusted or read: it was changed, belongs to another
// place, or was sealed with a key that this process lacks. Nothing of it was used.
type DamagedError struct {
	// ID is the id of the batch.
	ID string
	// Err names the batch, the value and the reason.
	Err error
}

// Error implements error.
func (e *DamagedError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *DamagedError) Unwrap() error { return e.Err }

// Fault is one fault of a submission, and its place.
type Fault struct {
	// Index is the index of the action, or -1 for the batch itself.
	Index int
	// Pointer is a JSON pointer (RFC 6901) into the document, or into the line
	// of an NDJSON submission.
	Pointer string
	// Detail describes the fault and the expected value.
	Detail string
}

// InvalidError means that a submission was refused. It has every fault found.
type InvalidError struct {
	Faults []Fault
	// More is the number of faults beyond those in Faults.
	More int
}

// Error implements error.
func (e *InvalidError) Error() string {
	n := len(e.Faults) + e.More
	if n == 0 {
		return "invalid batch"
	}
	return fmt.Sprintf("invalid batch: %d fault(s), the first at %q: %s", n, e.Faults[0].Pointer, e.Faults[0].Detail)
}
