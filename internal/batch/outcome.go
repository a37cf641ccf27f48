package batch

import "fmt"

// Outcome is the outcome of one action. The set is closed.
type Outcome uint8

// The outcomes, in the order in which documents list them.
const (
	// Pending means that there is no outcome yet: the action waits, or is in flight.
	Pending Outcome = iota
	// Succeeded: the target answered with a status below 400.
	Succeeded
	// Failed: the target answered 400 or above, after the retry policy.
	Failed
	// Errored: there is no answer; the result's error code says why.
	Errored
	// Unknown: sent, the answer was never seen, and not safe to send again.
	Unknown
	// Cancelled: the batch was cancelled before the action was sent, or while it waited
	// for its next attempt. The result has the status of the last attempt.
	Cancelled
	// Expired: the batch's deadline passed before the action was sent, or while it
	// waited for its next attempt. The result has the status of the last attempt.
	Expired
	// Skipped: an action that this one depended on did not succeed.
	Skipped
)

var outcomeNames = [...]string{
	Pending:   "pending",
	Succeeded: "succeeded",
	Failed:    "failed",
	Errored:   "errored",
	Unknown:   "unknown",
	Cancelled: "cancelled",
	Expired:   "expired",
	Skipped:   "skipped",
}

// Outcomes lists every outcome, Pending first.
func Outcomes() []Outcome {
	all := make([]Outcome, len(outcomeNames))
	for i := range all {
		all[i] = Outcome(i)
	}
	return all
}

// String returns the name used on the wire.
func (o Outcome) String() string {
	if int(o) < len(outcomeNames) {
		return outcomeNames[o]
	}
	return fmt.Sprintf("outcome(%d)", uint8(o))
}

// Final reports whether the action has ended.
func (o Outcome) Final() bool { return o != Pending }

// ParseOutcome is the inverse of [Outcome.String].
func ParseOutcome(name string) (Outcome, error) {
	for i, n := range outcomeNames {
		if n == name {
			return Outcome(i), nil
		}
	}
	return Pending, fmt.Errorf("unknown outcome %q: expected one of %v", name, outcomeNames)
}

// MarshalText implements [encoding.TextMarshaler].
func (o Outcome) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (o *Outcome) UnmarshalText(text []byte) error {
	parsed, err := ParseOutcome(string(text))
	if err != nil {
		return err
	}
	*o = parsed
	return nil
}

// ErrorCode is the reason why an action has no answer. The set is closed.
type ErrorCode string

// The error codes.
const (
	CodeTimeout          ErrorCode = "timeout"           // the answer did not come in time
	CodeDNS              ErrorCode = "dns"               // the target's name did not resolve
	CodeRefused          ErrorCode = "refused"           // no connection could be made
	CodeTLS              ErrorCode = "tls"               // the TLS handshake failed
	CodeReset            ErrorCode = "reset"             // the connection broke before the answer was complete
	CodeProtocol         ErrorCode = "protocol"          // the answer was not valid HTTP
	CodeBlocked          ErrorCode = "blocked"           // the target's rules do not allow the request
	CodeInterrupted      ErrorCode = "interrupted"       // the worker stopped while the action was in flight
	CodeDependencyFailed ErrorCode = "dependency_failed" // an action that this one depended on did not succeed
	CodeLimited          ErrorCode = "rate_limited"      // the owner's limit had no room for the action
	CodeCancelled        ErrorCode = "cancelled"         // the batch was cancelled
	CodeExpired          ErrorCode = "expired"           // the batch's deadline passed
	CodeInternal         ErrorCode = "internal"          // an error in batchd; its log has the details
)

// Status is the state of a batch.
type Status string

// The states of a batch; see the package documentation for the transitions.
const (
	StatusQueued     Status = "queued"     // accepted, no action begun
	StatusRunning    Status = "running"    // at least one action was begun
	StatusCompleted  Status = "completed"  // every action ended
	StatusCancelling Status = "cancelling" // cancelled, with actions still in flight
	StatusCancelled  Status = "cancelled"  // cancelled, and every action ended
	StatusExpired    Status = "expired"    // its deadline passed, and every action ended
)

// Statuses lists every status of a batch.
func Statuses() []Status {
	return []Status{StatusQueued, StatusRunning, StatusCompleted, StatusCancelling, StatusCancelled, StatusExpired}
}

// Terminal reports whether the batch has ended. Only a retry changes it afterwards.
func (s Status) Terminal() bool {
	switch s {
	case StatusCompleted, StatusCancelled, StatusExpired:
		return true
	case StatusQueued, StatusRunning, StatusCancelling:
		return false
	}
	return false
}

// Lane is the queue for the actions of a batch. There are two, so that a batch of ten
// does not wait behind one of 100,000.
type Lane string

// The lanes.
const (
	Interactive Lane = "interactive" // small, or a client waits for it
	Bulk        Lane = "bulk"        // everything else
)

// InteractiveActions is the largest batch that runs in the interactive lane even if no
// client waits for it.
const InteractiveActions = 100

// LaneFor returns the lane of a batch of total actions.
func LaneFor(total int, waited bool) Lane {
	if waited && total <= 10*InteractiveActions || total <= InteractiveActions {
		return Interactive
	}
	return Bulk
}
