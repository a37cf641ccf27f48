package client

import "time"

// Status is the state of a batch.
type Status string

// The states of a batch.
const (
	StatusQueued     Status = "queued"     // accepted, no action begun
	StatusRunning    Status = "running"    // at least one action was begun
	StatusCompleted  Status = "completed"  // every action ended
	StatusCancelling Status = "cancelling" // cancelled, with actions still in flight
	StatusCancelled  Status = "cancelled"  // cancelled, and every action ended
	StatusExpired    Status = "expired"    // its deadline passed, and every action ended
)

// Terminal reports whether the batch has ended.
func (s Status) Terminal() bool {
	return s == StatusCompleted || s == StatusCancelled || s == StatusExpired
}

// Outcome is the outcome of one action.
type Outcome string

// The outcomes.
const (
	Pending   Outcome = "pending"   // not ended yet
	Succeeded Outcome = "succeeded" // the target answered below 400
	Failed    Outcome = "failed"    // the target answered 400 or above, after the retry policy
	Errored   Outcome = "errored"   // there is no answer; the result's error says why
	Unknown   Outcome = "unknown"   // sent, the answer was never seen, and not safe to send again
	Cancelled Outcome = "cancelled" // the batch was cancelled before the action was sent, or sent again
	Expired   Outcome = "expired"   // the deadline passed before the action was sent, or sent again
	Skipped   Outcome = "skipped"   // an action that this one depended on did not succeed
)

// Outcomes lists every outcome, Pending first.
func Outcomes() []Outcome {
	return []Outcome{Pending, Succeeded, Failed, Errored, Unknown, Cancelled, Expired, Skipped}
}

// Counts has the number of actions in each state. Total is the sum of the others;
// Pending includes the actions in flight.
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

// Of returns the count of one outcome, or 0 for an unknown outcome.
func (c *Counts) Of(o Outcome) int {
	switch o {
	case Pending:
		return c.Pending
	case Succeeded:
		return c.Succeeded
	case Failed:
		return c.Failed
	case Errored:
		return c.Errored
	case Unknown:
		return c.Unknown
	case Cancelled:
		return c.Cancelled
	case Expired:
		return c.Expired
	case Skipped:
		return c.Skipped
	}
	return 0
}

// Done returns the number of actions that have ended, with any outcome.
func (c *Counts) Done() int { return c.Total - c.Pending }

// Store is where a server keeps batches.
type Store string

// The stores.
const (
	StoreUnknown Store = ""       // the server did not tell
	StoreRedis   Store = "redis"  // batches outlive the server
	StoreMemory  Store = "memory" // batches are lost when the server ends
)

// Links are the paths of the batch and its parts, relative to the server.
type Links struct {
	Self    string `json:"self,omitempty"`
	Results string `json:"results,omitempty"`
	Events  string `json:"events,omitempty"`
	Cancel  string `json:"cancel,omitempty"`
	Webhook string `json:"webhook,omitempty"`
}

// Batch is a batch as the server describes it.
type Batch struct {
	ID     string `json:"id"`
	Status Status `json:"status"`
	Target string `json:"target,omitempty"`
	// Owner is the owner of the batch. Servers send it only to keys with the scope admin.
	Owner  string `json:"owner,omitempty"`
	Counts Counts `json:"counts"`
	// Metadata is the metadata of the submission, unchanged.
	Metadata  map[string]string `json:"metadata,omitempty"`
	CreatedAt time.Time         `json:"created_at"`
	// StartedAt is when the first action began, and EndedAt when the last one ended;
	// both are nil before that.
	StartedAt *time.Time `json:"started_at,omitempty"`
	EndedAt   *time.Time `json:"ended_at,omitempty"`
	// ExpiresAt is the deadline: an action that has not begun by then ends as expired.
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
	Links     Links      `json:"links"`
	// Store is where the server keeps the batch. It is not part of the JSON document.
	Store Store `json:"-"`
	// Results are the results of a small batch that has ended. For other batches use
	// [Client.Results].
	Results []Result `json:"results,omitempty"`
	// ResultsNext is the index of the first result that did not fit into Results, or 0
	// if Results has all of them.
	ResultsNext int `json:"results_next,omitempty"`
	// Error says that the server cannot read the batch, since what it has stored of it was
	// changed, or was sealed with a key that it lacks. Only batches of a list have it, and
	// then only ID, Owner and CreatedAt beside it.
	Error string `json:"error,omitempty"`
}

// AllSucceeded reports whether the batch has ended and all of its actions succeeded.
func (b *Batch) AllSucceeded() bool {
	return b.Status.Terminal() && b.Counts.Succeeded == b.Counts.Total
}
