package dialect

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"

	"github.com/batchd/batchd/internal/batch"
)

// Dialect is a wire format for batches. It keeps no state.
type Dialect interface {
	// Decode reads a batch request. Its error is an [InvalidError] with every
	// fault, or an [UnauthorizedError].
	Decode(r *Request) (*Submission, error)
	// Encode writes the answer to a request that was decoded: results[i] is that
	// of the submission's i-th action. It is sent with the status 200.
	Encode(r *Request, s *Submission, results []batch.Result) ([]byte, error)
	// Refuse writes the answer to a request that was not accepted.
	Refuse(p *Problem) (*Answer, error)
}

// Definition is a dialect as a configuration sees it.
type Definition struct {
	// Name is what a configuration calls it.
	Name string
	// MaxActions is the most actions of one batch where the endpoint does not
	// say. Zero means that of the server.
	MaxActions int
	// Params are the parameters that an endpoint's path must have.
	Params []string
	// Media are the types of content that requests may have beside JSON.
	Media []string

	Dialect
}

// All lists the dialects.
func All() []Definition {
	return []Definition{
		{Name: "asana", MaxActions: 10, Dialect: asana{}},
		{Name: "requests", Dialect: requests{}},
		{Name: "syncano", MaxActions: 50, Params: []string{"instance"}, Media: []string{"text/plain"}, Dialect: syncano{}},
		{Name: "primaerp", MaxActions: 100, Dialect: primaerp{}},
	}
}

// Names lists the names of the dialects.
func Names() []string {
	var names []string
	for _, d := range All() {
		names = append(names, d.Name)
	}
	return names
}

// Named returns the dialect of that name.
func Named(name string) (Definition, bool) {
	all := All()
	i := slices.IndexFunc(all, func(d Definition) bool { return d.Name == name })
	if i < 0 {
		return Definition{}, false
	}
	return all[i], true
}

// Request is what a dialect sees of a batch request.
type Request struct {
	Header http.Header
	Query  url.Values
	// Params are the parameters of the endpoint's path.
	Params map[string]string
	// Body is the whole body, decompressed.
	Body []byte
	// MaxActions is the most actions of one batch, MaxActionBody the most bytes
	// of one action's body.
	MaxActions    int
	MaxActionBody int64
	// Sealed says that the store encrypts actions. Without it, a credential is
	// a fault.
	Sealed bool
	// Passthrough says that the Authorization of the request is meant for the
	// target, also where the dialect does not say so.
	Passthrough bool
}

// Submission is a decoded batch request.
type Submission struct {
	// Actions are valid.
	Actions []batch.Action
	// IDs are the ids of the actions as they were written, nil where there is none.
	IDs []json.RawMessage
	// Credentials are those of the batch request.
	Credentials Credentials
}

// Answer is what a refused request is answered with.
type Answer struct {
	Status int
	// Media is the Content-Type.
	Media string
	Body  []byte
}

// Problem is why a batch was refused, or an action has no answer: a problem
// document (RFC 9457).
type Problem struct {
	Type   string         `json:"type,omitempty"`
	Title  string         `json:"title"`
	Status int            `json:"status"`
	Detail string         `json:"detail,omitempty"`
	Code   string         `json:"code,omitempty"`
	Errors []ProblemError `json:"errors,omitempty"`
	More   int            `json:"more,omitempty"`
	// SentAt is when a request was sent whose fate is not known (RFC 3339).
	SentAt string `json:"sent_at,omitempty"`
	// Items is the number of items of a request that was read to its end.
	Items int `json:"-"`
}

// ProblemError is one fault of a submission. Index is left out where the fault
// is the batch's own, and Pointer where it is in no document.
type ProblemError struct {
	Index   *int   `json:"index,omitempty"`
	Pointer string `json:"pointer,omitempty"`
	Detail  string `json:"detail"`
}

// InvalidError says that a batch request was refused, with every fault found.
type InvalidError struct {
	batch.InvalidError
	// Items is the number of items that were read.
	Items int
}

// Unwrap returns the faults alone.
func (e *InvalidError) Unwrap() error { return &e.InvalidError }

// UnauthorizedError says that a batch request lacks a credential.
type UnauthorizedError struct {
	// Detail says which one.
	Detail string
}

// Error implements error.
func (e *UnauthorizedError) Error() string { return e.Detail }
