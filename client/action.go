package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	jsonv1 "github.com/go-json-experiment/json/v1"
)

// RetryMode says whether an action may be sent again when its answer was not seen.
type RetryMode string

// The retry modes.
const (
	RetryAuto  RetryMode = ""      // by method: GET, HEAD, OPTIONS, PUT and DELETE are safe to repeat
	RetrySafe  RetryMode = "safe"  // repeating is safe, whatever the method
	RetryNever RetryMode = "never" // at most one attempt, whatever the method
)

// Action is one HTTP request that the server is to make. All text in it is UTF-8;
// what is not is an error, except in BodyBytes.
type Action struct {
	// ID names the action in its result, unique in the batch. Defaults to the index.
	ID string
	// Method is an upper-case HTTP method.
	Method string
	// Path is appended to the target's base URL. It starts with a slash and is percent-encoded.
	Path string
	// Query is sent after the path, sorted by name.
	Query url.Values
	// Headers are the headers to send.
	Headers http.Header
	// Body is sent as JSON, a [json.RawMessage] as it stands but for white space.
	// BodyText and BodyBytes are sent as they are. At most one of the three may be set.
	Body      any
	BodyText  string
	BodyBytes []byte
	// Timeout bounds one attempt. Defaults to the target's.
	Timeout time.Duration
	// Retry overrides what the method says about repeating.
	Retry RetryMode
	// Group names the transaction that the action belongs to: its members run in
	// order, and all of them count or none.
	Group string
	// Undo takes the action back when a later member of its group fails, for a
	// target that has no transactions of its own. It has no ID, Group or Undo.
	Undo *Action
}

type actionDocument struct {
	ID         string    `json:"id,omitempty"`
	Method     string    `json:"method"`
	Path       string    `json:"path"`
	Query      fields    `json:"query,omitempty"`
	Headers    fields    `json:"headers,omitempty"`
	Body       any       `json:"body,omitempty"`
	BodyText   string    `json:"body_text,omitempty"`
	BodyBase64 []byte    `json:"body_base64,omitempty"`
	Timeout    string    `json:"timeout,omitempty"`
	Retry      RetryMode `json:"retry,omitempty"`
	Group      string    `json:"group,omitempty"`
	Undo       *Action   `json:"undo,omitempty"`
}

// MarshalJSON encodes the action as the server reads it.
func (a Action) MarshalJSON() ([]byte, error) {
	bodies := 0
	for _, set := range []bool{a.Body != nil, a.BodyText != "", len(a.BodyBytes) > 0} {
		if set {
			bodies++
		}
	}
	if bodies > 1 {
		return nil, errors.New("the action has more than one body: set one of Body, BodyText and BodyBytes")
	}
	doc := actionDocument{
		ID: a.ID, Method: a.Method, Path: a.Path, Query: fields(a.Query), Headers: fields(a.Headers),
		Body: a.Body, BodyText: a.BodyText, BodyBase64: a.BodyBytes, Retry: a.Retry,
		Group: a.Group, Undo: a.Undo,
	}
	if a.Timeout != 0 {
		doc.Timeout = a.Timeout.String()
	}
	return encodeJSON(&doc)
}

// strict encodes as encoding/json does, but without escaping <, > and &, so that
// bodies stay as they are, and refuses text that is not UTF-8 instead of replacing
// what is wrong with it.
var strict = jsonv2.JoinOptions(jsonv1.DefaultOptionsV1(), jsontext.EscapeForHTML(false), jsontext.EscapeForJS(false), jsontext.AllowInvalidUTF8(false))

func encodeJSON(v any) ([]byte, error) { return jsonv2.Marshal(v, strict) }

// fields is an object of names to a value, or to a list where a name has several.
type fields map[string][]string

func (f fields) MarshalJSON() ([]byte, error) {
	doc := make(map[string]any, len(f))
	for name, values := range f {
		if len(values) == 1 {
			doc[name] = values[0]
		} else {
			doc[name] = values
		}
	}
	return encodeJSON(doc)
}

func (f *fields) UnmarshalJSON(data []byte) error {
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(data, &doc); err != nil {
		return err
	}
	*f = make(fields, len(doc))
	for name, raw := range doc {
		var list []string
		if len(raw) > 0 && raw[0] == '[' {
			if err := json.Unmarshal(raw, &list); err != nil {
				return fmt.Errorf("%q: %w", name, err)
			}
		} else {
			list = make([]string, 1)
			if err := json.Unmarshal(raw, &list[0]); err != nil {
				return fmt.Errorf("%q: %w", name, err)
			}
		}
		(*f)[name] = list
	}
	return nil
}
