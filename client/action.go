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

// RetryMode says whether the server may send an action again if it saw no answer.
type RetryMode string

// The retry modes.
const (
	RetryAuto  RetryMode = ""      // depends on the method: GET, HEAD, OPTIONS, PUT and DELETE are safe to repeat
	RetrySafe  RetryMode = "safe"  // repeating is safe, whatever the method
	RetryNever RetryMode = "never" // at most one attempt, whatever the method
)

// Action is one HTTP request for the server to make. All text in it must be UTF-8,
// except in BodyBytes; other text is an error.
type Action struct {
	// ID names the action in its result, and is unique in the batch. Defaults to the
	// index.
	ID string
	// Method is an upper-case HTTP method.
	Method string
	// Path is appended to the target's base URL. It starts with a slash and is percent-encoded.
	Path string
	// Query is sent after the path, sorted by name.
	Query url.Values
	// Headers are the headers to send.
	Headers http.Header
	// Body is sent as JSON; a [json.RawMessage] is sent unchanged but for white space.
	// BodyText and BodyBytes are sent unchanged. At most one of the three may be set.
	Body      any
	BodyText  string
	BodyBytes []byte
	// Timeout bounds one attempt. Defaults to the target's.
	Timeout time.Duration
	// Retry overrides the default for the method.
	Retry RetryMode
	// Group names the transaction that the action belongs to. The members of a group
	// run in order, and either all of them count or none.
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

// MarshalJSON encodes the action in the server's format.
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

// strict encodes as encoding/json does, with two differences: it does not escape <, >
// and &, so that bodies stay unchanged, and it refuses text that is not UTF-8 instead
// of replacing bytes.
var strict = jsonv2.JoinOptions(jsonv1.DefaultOptionsV1(), jsontext.EscapeForHTML(false), jsontext.EscapeForJS(false), jsontext.AllowInvalidUTF8(false))

func encodeJSON(v any) ([]byte, error) { return jsonv2.Marshal(v, strict) }

// fields encodes as an object: a name has a string, or a list if it has several values.
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
