package batch

import "time"

// Field is one name and value, of a header or a query. Names may repeat.
type Field struct {
	Name  string
	Value string
}

// RetryMode says whether an action may be sent again when its answer was not seen.
type RetryMode string

// The retry modes.
const (
	RetryAuto  RetryMode = ""      // by method: GET, HEAD, OPTIONS, PUT and DELETE are safe to repeat
	RetrySafe  RetryMode = "safe"  // the client says that repeating is safe
	RetryNever RetryMode = "never" // at most one attempt, whatever the method
)

// Action is one HTTP request to make.
type Action struct {
	// ID is the client's name for the action, unique in its batch. Empty means
	// that the index serves.
	ID string
	// Method is an upper-case HTTP method.
	Method string
	// Path is relative to the target's base URL, starts with one slash, holds
	// no query, and may hold percent-escapes, which are sent as they are.
	Path string
	// Query is the encoded query, without the question mark.
	Query string
	// ForceQuery says that the URL ends with a question mark if Query is empty.
	ForceQuery bool
	// Headers are the end-to-end headers to send.
	Headers []Field
	// Body is sent as it is. Nil means that the request has none.
	Body []byte
	// Timeout bounds one attempt. Zero means the target's.
	Timeout time.Duration
	// Retry overrides what the method says about repeating.
	Retry RetryMode
	// Group names the transaction that the action belongs to. Its members run
	// in the order of the batch, and all of them count or none. Empty means that
	// the action stands for itself.
	Group string
	// Undo is sent to take back what the action did, when a later member of its
	// group fails and the target has no transactions of its own. It has neither
	// a group nor an undo, and must bear repetition.
	Undo *Action
	// Refusal says that the action is not to be sent, and why: it ends as
	// errored with this failure. Nil means that it is sent.
	Refusal *Failure
}

// Header returns the value of the first header of that name, compared without
// regard to ASCII case, and whether there is one.
func (a *Action) Header(name string) (string, bool) {
	for _, h := range a.Headers {
		if equalFold(h.Name, name) {
			return h.Value, true
		}
	}
	return "", false
}

// Counts says how many actions of a batch are in which state. Pending includes
// those in flight. Total is always the sum of the others.
type Counts struct {
	Total     int `json:"total"`
	Pending   int `json:"pending"`
	Succeeded int `json:"succeeded"`
	Failed    int `json:"failed"`
	Errored   int `json:"errored"`
	Unknown   int `json:"unknown"`
	Cancelled int `json:"cancelled"`
	Expired   int `json:"expired"`
	Skipped   int `json:"skipped"`
}

// Of returns a pointer to the count of one outcome.
func (c *Counts) Of(o Outcome) *int {
	switch o {
	case Pending:
		return &c.Pending
	case Succeeded:
		return &c.Succeeded
	case Failed:
		return &c.Failed
	case Errored:
		return &c.Errored
	case Unknown:
		return &c.Unknown
	case Cancelled:
		return &c.Cancelled
	case Expired:
		return &c.Expired
	case Skipped:
		return &c.Skipped
	}
	panic("batch: count of an " + o.String())
}

// Sum adds up all outcomes. It equals Total in every document that a reader sees.
func (c *Counts) Sum() int {
	sum := 0
	for _, o := range Outcomes() {
		sum += *c.Of(o)
	}
	return sum
}

// Batch is what is known of a batch without its actions and results. Reading
// one costs the same for ten actions and for 100,000.
type Batch struct {
	ID     string
	Owner  string
	Target string
	Lane   Lane
	Status Status
	Counts Counts
	// WebhookURL receives the webhook of the end. Empty means no webhook.
	WebhookURL string
	// Metadata is the client's own; it comes back as it came.
	Metadata  map[string]string
	CreatedAt time.Time
	// StartedAt is zero until the first action was begun.
	StartedAt time.Time
	// EndedAt is zero until the batch is terminal.
	EndedAt time.Time
	// ExpiresAt is the deadline: what is not begun by then ends as expired.
	ExpiresAt time.Time
	// Retention is how long results are kept after the end.
	Retention time.Duration
	// Scope is that of the limit that the batch was submitted under; see [Limit].
	Scope string
	// First is the beginning of the results, where they were asked for. Nil says nothing.
	First *ResultPage
}

// Spec is what a submission says beside its actions.
type Spec struct {
	Target string
	// Waited says that the client waits for the results, which puts a batch of
	// moderate size into the interactive lane.
	Waited     bool
	WebhookURL string
	Metadata   map[string]string
	// ExpiresIn is the time from acceptance to the deadline. It must be positive.
	ExpiresIn time.Duration
	// Retention is how long results are kept after the end. It must be positive.
	Retention time.Duration
	// Throttle has the actions wait until the owner's limit allows each. Nil
	// means that they run as soon as a worker is free.
	Throttle *Limit
	// Scope is that of the owner's limit that the submission was held to; see [Limit].
	Scope string
	// Fingerprint identifies the submission's content. It matters only with an
	// idempotency key: the same key with another fingerprint is refused.
	Fingerprint []byte
}
