package client

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"
)

// Failure is the reason why an action has no answer.
type Failure struct {
	// Code is a code such as "timeout" or "refused"; Message is for people.
	Code    string `json:"code"`
	Message string `json:"message"`
}

// Result is the result of one action.
type Result struct { //nolint:recvcheck // it is encoded by value, too
	// ID is the action's id, or its index in decimal if it has none.
	ID string
	// Index is the position of the action in its batch, from 0.
	Index   int
	Outcome Outcome
	// Status is the target's HTTP status, or 0 without an answer. A Cancelled or
	// Expired action has one if the target answered and the action waited for its next
	// attempt.
	Status  int
	Headers http.Header
	// Body is the body that the target sent, decoded from the form in which the server
	// transfers it. Nil means that the body was empty.
	Body []byte
	// JSON: the target's content type is JSON, and Body is valid JSON.
	JSON bool
	// Truncated: Body is only the beginning of the target's body, which was longer than
	// the server keeps, or whose transfer broke off. With TruncatedBy it is missing.
	Truncated bool
	// TruncatedBy is "stored_bytes" if the owner's quota of stored bytes had no room for the
	// body, and perhaps for the headers, of an answer.
	TruncatedBy string
	// Undecoded: Body is still in the content codings that the header Content-Encoding
	// names.
	Undecoded bool
	// Error is set if there was no answer.
	Error *Failure
	// Attempts is the number of attempts, over all rounds.
	Attempts int
	// StartedAt is when the last attempt began, or zero without an attempt.
	StartedAt time.Time
	// Duration is the duration of the last attempt, to the millisecond.
	Duration time.Duration
	// SentAt is set for Unknown: it is when the attempt began whose answer was not
	// seen.
	SentAt time.Time
	// History has the earlier results of an action that was retried, oldest first.
	History []Past

	// raw is the server's document, unchanged.
	raw json.RawMessage
}

// Past is the result of an action before a retry.
type Past struct {
	Outcome Outcome  `json:"outcome"`
	Status  int      `json:"status,omitempty"`
	Error   *Failure `json:"error,omitempty"`
	// Attempts is the number of attempts in that round.
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
	By         string          `json:"truncated_by,omitempty"`
	Undecoded  bool            `json:"body_undecoded,omitempty"`
	Error      *Failure        `json:"error,omitempty"`
	Attempts   int             `json:"attempts"`
	StartedAt  *time.Time      `json:"started_at,omitempty"`
	DurationMS *int64          `json:"duration_ms,omitempty"`
	SentAt     time.Time       `json:"sent_at,omitzero"`
	History    []Past          `json:"history,omitempty"`
}

// UnmarshalJSON decodes the server's document.
func (r *Result) UnmarshalJSON(data []byte) error {
	var doc resultDocument
	if err := json.Unmarshal(data, &doc); err != nil {
		return fmt.Errorf("decode result: %w", err)
	}
	*r = Result{
		ID: doc.ID, Index: doc.Index, Outcome: doc.Outcome, Status: doc.Status, Truncated: doc.Truncated,
		TruncatedBy: doc.By, Undecoded: doc.Undecoded,
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

// MarshalJSON is the inverse of UnmarshalJSON: it returns the server's document, even
// if the fields were changed since.
func (r Result) MarshalJSON() ([]byte, error) {
	if r.raw != nil {
		return r.raw, nil
	}
	doc := resultDocument{
		ID: r.ID, Index: r.Index, Outcome: r.Outcome, Status: r.Status, Truncated: r.Truncated,
		By: r.TruncatedBy, Undecoded: r.Undecoded,
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
