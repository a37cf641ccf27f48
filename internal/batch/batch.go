package batch

import "time"

// Field is a name and value of a header or a query. Names may repeat.
type Field struct {
	Name  string
	Value string
}

// RetryMode says whether batchd may send an action again if it saw no answer.
type RetryMode string

// The retry modes.
const (
	RetryAuto  RetryMode = ""      // depends on the method: GET, HEAD, OPTIONS, PUT and DELETE are safe to repeat
	RetrySafe  RetryMode = "safe"  // the client says that repeating is safe
	RetryNever RetryMode = "never" // at most one attempt, whatever the method
)

// Action is one HTTP request to make.
type Action struct {
	// ID is the client's name for the action, unique in its batch. If it is empty, the
	// index is the id.
	ID string
	// Method is an upper-case HTTP method.
	Method string
	// Path is relative to the target's base URL. It starts with one slash and has no
	// query. It may have percent-escapes, which are sent unchanged.
	Path string
	// Query is the encoded query, without the question mark.
	Query string
	// ForceQuery: the URL ends with a question mark if Query is empty.
	ForceQuery bool
	// Headers are the end-to-end headers to send.
	Headers []Field
	// Body is sent unchanged. Nil means that the request has no body.
	Body []byte
	// Timeout bounds one attempt. Zero means the target's timeout.
	Timeout time.Duration
	// Retry overrides the default for the method.
	Retry RetryMode
	// Group names the transaction that the action belongs to. Its members run in the
	// order of the batch, and either all of them count or none. Empty means that the
	// action is in no group.
	Group string
	// Undo is the request that takes back the effect of the action if a later member of
	// its group fails and the target has no transactions of its own. It has neither a
	// group nor an undo, and it must be safe to repeat.
	Undo *Action
	// Refusal: the action is not sent, but ends as errored with this failure. Nil means
	// that it is sent.
	Refusal *Failure
}

// Header returns the value of the first header with that name, and whether there is
// one. It ignores ASCII case.
func (a *Action) Header(name string) (string, bool) {
	for _, h := range a.Headers {
		if equalFold(h.Name, name) {
			return h.Value, true
		}
	}
	return "", false
}

// Counts has the number of actions of a batch in each state. Pending includes actions
// in flight. Total is always the sum of the others.
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

// Batch is the state of a batch without its actions and results. Reading one costs the
// same for ten actions and for 100,000.
type Batch struct {
	ID     string
	Owner  string
	Target string
	Lane   Lane
	Status Status
	Counts Counts
	// WebhookURL receives a webhook when the batch ends. Empty means no webhook.
	WebhookURL string
	// WebhookSecret signs the webhook of this batch instead of the owner's secret. It is
	// never returned to a client. Empty means the owner's.
	WebhookSecret string
	// Metadata is the client's own; the store returns it unchanged.
	Metadata  map[string]string
	CreatedAt time.Time
	// StartedAt is zero until the first action begins.
	StartedAt time.Time
	// EndedAt is zero until the batch is terminal.
	EndedAt time.Time
	// ExpiresAt is the deadline: an action that has not begun by then ends as expired.
	ExpiresAt time.Time
	// Retention is how long results are kept after the end.
	Retention time.Duration
	// Scope is the scope of the limit under which the batch was submitted; see [Limit].
	Scope string
	// First has the first results, if the caller asked for them, or nil.
	First *ResultPage
	// Damaged is set in a list if the batch cannot be read. Then only ID, Owner and
	// CreatedAt are set, by the list's entry.
	Damaged *DamagedError
}

// Spec has the options of a submission.
type Spec struct {
	Target string
	// Waited: the client waits for the results. This puts a batch of moderate size into
	// the interactive lane.
	Waited     bool
	WebhookURL string
	// WebhookSecret signs the batch's webhook. Empty means the owner's secret.
	WebhookSecret string
	Metadata      map[string]string
	// ExpiresIn is the time from acceptance to the deadline. It must be positive.
	ExpiresIn time.Duration
	// Retention is how long results are kept after the end. It must be positive.
	Retention time.Duration
	// Throttle makes the actions wait until the owner's limit allows each of them. Nil
	// means that they run as soon as a worker is free.
	Throttle *Limit
	// Scope is the scope of the owner's limit that applies to the submission; see
	// [Limit].
	Scope string
	// Fingerprint identifies the submission's content. It matters only with an
	// idempotency key: the store refuses the same key with another fingerprint. The
	// store keeps a keyed hash of it, and without an idempotency key nothing.
	Fingerprint []byte
}
