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
	// Authenticate returns the credentials of a request without its body, or an
	// [UnauthorizedError]. InBody: there are none, but the body may have them.
	Authenticate(r *Request) (c Credentials, inBody bool, err error)
	// Decode reads a batch request. Its error is an [InvalidError] with every fault, or
	// an [UnauthorizedError].
	Decode(r *Request) (*Submission, error)
	// Encode writes the answer to a decoded request, which has the status 200:
	// results[i] is the result of the submission's i-th action.
	Encode(r *Request, s *Submission, results []batch.Result) ([]byte, error)
	// Refuse writes the answer to a refused request.
	Refuse(p *Problem) (*Answer, error)
}

// Definition describes a dialect for the configuration.
type Definition struct {
	// Name is the dialect's name in a configuration.
	Name string
	// MaxActions is the most actions of one batch if the endpoint does not set it. Zero
	// means the server's limit.
	MaxActions int
	// Params are the parameters that an endpoint's path must have.
	Params []string
	// Media are the content types that requests may have beside JSON.
	Media []string
	// CredentialsInBody: the credentials of a request are complete only with its body.
	CredentialsInBody bool

	Dialect
}

// All lists the dialects.
func All() []Definition {
	return []Definition{
		{Name: "asana", MaxActions: 10, Dialect: asana{}},
		{Name: "requests", Dialect: requests{}},
		{Name: "syncano", MaxActions: 50, Params: []string{"instance"}, Media: []string{"text/plain"}, CredentialsInBody: true, Dialect: syncano{}},
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

// Named returns the dialect with a name.
func Named(name string) (Definition, bool) {
	all := All()
	i := slices.IndexFunc(all, func(d Definition) bool { return d.Name == name })
	if i < 0 {
		return Definition{}, false
	}
	return all[i], true
}

// Request is the part of a batch request that a dialect sees.
type Request struct {
	Header http.Header
	Query  url.Values
	// Params are the parameters of the endpoint's path.
	Params map[string]string
	// Body is the whole body, decompressed.
	Body []byte
	// Reserve accounts for bytes that are kept of an action, and Hold for those that a
	// check of one value needs beside the value. Their errors end Decode. Nil accounts for
	// nothing.
	Reserve, Hold func(bytes int64) error
	// Target has the settings for which actions are refused; see [batch.Target.Refusals].
	// Nil means that the target has none of its own.
	Target *batch.Target
	// MaxActions is the most actions of one batch, MaxActionBody the most bytes
	// of one action's body.
	MaxActions    int
	MaxActionBody int64
	// Sealed: the store encrypts actions. Otherwise a credential is a fault.
	Sealed bool
	// Passthrough: the Authorization of the request is for the target, even if the
	// dialect does not define that.
	Passthrough bool
	// Known: the client is known without the credential that the dialect asks for.
	Known bool
}

// Submission is a decoded batch request.
type Submission struct {
	// Actions are valid.
	Actions []batch.Action
	// IDs are the ids of the actions as the client wrote them, nil for an action
	// without one.
	IDs []json.RawMessage
	// Credentials are those of the batch request.
	Credentials Credentials
}

// Answer is the answer to a refused request.
type Answer struct {
	Status int
	// Media is the Content-Type.
	Media string
	Body  []byte
}

// Problem is the reason why a batch was refused, or why an action has no answer: a
// problem document (RFC 9457).
type Problem struct {
	Type   string         `json:"type,omitempty"`
	Title  string         `json:"title"`
	Status int            `json:"status"`
	Detail string         `json:"detail,omitempty"`
	Code   string         `json:"code,omitempty"`
	Errors []ProblemError `json:"errors,omitempty"`
	More   int            `json:"more,omitempty"`
	// SentAt is when an action was sent whose outcome is unknown (RFC 3339).
	SentAt string `json:"sent_at,omitempty"`
	// Items is the number of items, if the request was read to its end.
	Items int `json:"-"`
}

// ProblemError is one fault of a submission. Index is nil if the fault concerns the
// batch itself, and Pointer is empty if the fault is not in a document.
type ProblemError struct {
	Index   *int   `json:"index,omitempty"`
	Pointer string `json:"pointer,omitempty"`
	Detail  string `json:"detail"`
}

// InvalidError means that a batch request was refused. It has every fault found.
type InvalidError struct {
	batch.InvalidError
	// Items is the number of items that were read.
	Items int
}

// Unwrap returns the faults alone.
func (e *InvalidError) Unwrap() error { return &e.InvalidError }

// UnauthorizedError means that a batch request lacks a credential.
type UnauthorizedError struct {
	// Detail names the credential.
	Detail string
}

// Error implements error.
func (e *UnauthorizedError) Error() string { return e.Detail }
