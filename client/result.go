package client

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"
)

// Failure says why an action has no answer.
type Failure struct {
	// Code is a word such as "timeout" or "refused"; Message is for a person.
	Code    string `json:"code"`
	Message string `json:"message"`
}

// Result is what became of one action.
type Result struct { //nolint:recvcheck // it is encoded by value, too
	// ID is the action's, or its index in decimal where it has none.
	ID string
	// Index is the action's place in its batch, from 0.
	Index   int
	Outcome Outcome
	// Status is the target's HTTP status, 0 where there was no answer. Cancelled and
	// Expired have one if the action was answered and waited for its next attempt.
	Status  int
	Headers http.Header
	// Body is the body that the target sent, decoded from whatever form it
	// travelled in. Nil means that it was empty.
	Body []byte
	// JSON says that Body is JSON, by the target's content type and in fact.
	JSON bool
	// Truncated says that Body is only the beginning of what the target sent: it was
	// longer than the server keeps, or its transfer broke off.
	Truncated bool
	// Undecoded says that Body is still in the content codings that the header
	// Content-Encoding names, or is said to be.
	Undecoded bool
	// Error is set where there was no answer.
	Error *Failure
	// Attempts counts the tries at sending, over all rounds.
	Attempts int
	// StartedAt is when the last attempt began, zero where there was none.
	StartedAt time.Time
	// Duration is that of the last attempt, to the millisecond.
	Duration time.Duration
	// SentAt is set for Unknown: when the attempt began whose answer was not seen.
	SentAt time.Time
	// History is what the action ended with before it was retried, oldest first.
	History []Past

	// raw is the document as the server sent it.
	raw json.RawMessage
}

// Past is what an action ended with before it was retried.
type Past struct {
	Outcome Outcome  `json:"outcome"`
	Status  int      `json:"status,omitempty"`
	Error   *Failure `json:"error,omitempty"`
	// Attempts counts the tries of that round alone.
	Attempts  int       `json:"attempts"`
	StartedAt time.Time `json:"started_at,omitzero"`
}

// Decode reads a JSON body into v.
func (r *Result) Decode(v any) error {
	if err := json.Unmarshal(r.Body, v); err != nil {
		return fmt.Errorf("decode the body of result %d: %w", r.Index, err)
	}
	return nil
}

type resultDocument struct {
	ID         string          `json:"id"`
	Index      int             `json:"index"`
	Outcome    Outcome         `json:"outcome"`
	Status     int             `json:"status,omitempty"`
	Headers    fields          `json:"headers,omitempty"`
	Body       json.RawMessage `json:"body,omitempty"`
	BodyText   string          `json:"body_text,omitempty"`
	BodyBase64 []byte          `json:"body_base64,omitempty"`
	Truncated  bool            `json:"truncated,omitempty"`
	Undecoded  bool            `json:"body_undecoded,omitempty"`
	Error      *Failure        `json:"error,omitempty"`
	Attempts   int             `json:"attempts"`
	StartedAt  *time.Time      `json:"started_at,omitempty"`
	DurationMS *int64          `json:"duration_ms,omitempty"`
	SentAt     time.Time       `json:"sent_at,omitzero"`
	History    []Past          `json:"history,omitempty"`
}

// UnmarshalJSON reads the document that the server sends.
func (r *Result) UnmarshalJSON(data []byte) error {
	var doc resultDocument
	if err := json.Unmarshal(data, &doc); err != nil {
		return fmt.Errorf("decode result: %w", err)
	}
	*r = Result{
		ID: doc.ID, Index: doc.Index, Outcome: doc.Outcome, Status: doc.Status, Truncated: doc.Truncated, Undecoded: doc.Undecoded,
		Error: doc.Error, Attempts: doc.Attempts, SentAt: doc.SentAt, History: doc.History, raw: append(json.RawMessage(nil), data...),
	}
	if len(doc.Headers) > 0 {
		r.Headers = make(http.Header, len(doc.Headers))
		for name, values := range doc.Headers {
			for _, v := range values {
				r.Headers.Add(name, v)
			}
		}
	}
	switch {
	case doc.Body != nil:
		r.Body, r.JSON = doc.Body, true
	case doc.BodyText != "":
		r.Body = []byte(doc.BodyText)
	case len(doc.BodyBase64) > 0:
		r.Body = doc.BodyBase64
	}
	if doc.StartedAt != nil {
		r.StartedAt = *doc.StartedAt
	}
	if doc.DurationMS != nil {
		r.Duration = time.Duration(*doc.DurationMS) * time.Millisecond
	}
	return nil
}

// MarshalJSON is the inverse of UnmarshalJSON: it returns the document as the
// server sent it, also where the fields were changed since.
func (r Result) MarshalJSON() ([]byte, error) {
	if r.raw != nil {
		return r.raw, nil
	}
	doc := resultDocument{
		ID: r.ID, Index: r.Index, Outcome: r.Outcome, Status: r.Status, Truncated: r.Truncated, Undecoded: r.Undecoded,
		Error: r.Error, Attempts: r.Attempts, SentAt: r.SentAt, History: r.History,
	}
	if len(r.Headers) > 0 {
		doc.Headers = make(fields, len(r.Headers))
		for name, values := range r.Headers {
			doc.Headers[strings.ToLower(name)] = values
		}
	}
	switch {
	case r.JSON:
		doc.Body = r.Body
	case !r.Undecoded && utf8.Valid(r.Body):
		doc.BodyText = string(r.Body)
	default:
		doc.BodyBase64 = r.Body
	}
	if !r.StartedAt.IsZero() {
		ms := r.Duration.Milliseconds()
		doc.StartedAt, doc.DurationMS = &r.StartedAt, &ms
	}
	return encodeJSON(&doc)
}
