package batch

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Failure says why an action has no answer.
type Failure struct {
	Code    ErrorCode `json:"code"`
	Message string    `json:"message"`
}

// Result is what became of one action.
type Result struct {
	// ID is the action's, or its index in decimal where it has none.
	ID    string
	Index int
	// Outcome is Pending while the action waits or is in flight.
	Outcome Outcome
	// Status is the target's HTTP status, 0 where there was no answer.
	Status int
	// Headers are the target's end-to-end headers, names in lower case.
	Headers []Field
	Body    []byte
	// Truncated says that Body is only the beginning of what the target sent.
	Truncated bool
	// Error is set where there was no answer.
	Error *Failure
	// Attempts counts the tries at sending, this result's included.
	Attempts int
	// StartedAt is when the last attempt began.
	StartedAt time.Time
	// Duration is that of the last attempt.
	Duration time.Duration
	// History is what the action ended with before it was retried, oldest first.
	History []Past
}

// Past is what an action ended with before it was retried.
type Past struct {
	Outcome   Outcome    `json:"outcome"`
	Status    int        `json:"status,omitempty"`
	Error     *Failure   `json:"error,omitempty"`
	Attempts  int        `json:"attempts"`
	StartedAt *time.Time `json:"started_at,omitempty"`
}

// Past returns the result as one that was followed by another, with those before it.
func (r *Result) Past() []Past {
	p := Past{Outcome: r.Outcome, Status: r.Status, Error: r.Error, Attempts: r.Attempts}
	if !r.StartedAt.IsZero() {
		at := r.StartedAt.UTC().Truncate(time.Millisecond)
		p.StartedAt = &at
	}
	return append(slices.Clone(r.History), p)
}

// ActionID returns the id that results carry: the client's, or else the index.
func ActionID(id string, index int) string {
	if id != "" {
		return id
	}
	return strconv.Itoa(index)
}

// resultDocument is the JSON form of a result, in the native API's order.
type resultDocument struct {
	ID         string          `json:"id"`
	Index      int             `json:"index"`
	Outcome    Outcome         `json:"outcome"`
	Status     int             `json:"status,omitempty"`
	Headers    json.RawMessage `json:"headers,omitempty"`
	Body       json.RawMessage `json:"body,omitempty"`
	BodyText   *string         `json:"body_text,omitempty"`
	BodyBase64 *string         `json:"body_base64,omitempty"`
	Truncated  bool            `json:"truncated,omitempty"`
	Error      *Failure        `json:"error,omitempty"`
	Attempts   int             `json:"attempts"`
	StartedAt  *time.Time      `json:"started_at,omitempty"`
	DurationMS *int64          `json:"duration_ms,omitempty"`
	History    []Past          `json:"history,omitempty"`
}

// MarshalJSON encodes the result as the native API serves it: one line, without
// HTML escaping. A JSON body stands as it came (white space aside) in "body", text in
// "body_text", anything else in "body_base64"; an empty body is left out.
func (r *Result) MarshalJSON() ([]byte, error) {
	doc := resultDocument{
		ID: r.ID, Index: r.Index, Outcome: r.Outcome, Status: r.Status,
		Truncated: r.Truncated, Error: r.Error, Attempts: r.Attempts, History: r.History,
	}
	if len(r.Headers) > 0 {
		doc.Headers = encodeFields(r.Headers)
	}
	if len(r.Body) > 0 {
		r.encodeBody(&doc)
	}
	if !r.StartedAt.IsZero() {
		at := r.StartedAt.UTC().Truncate(time.Millisecond)
		ms := r.Duration.Milliseconds()
		doc.StartedAt, doc.DurationMS = &at, &ms
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(&doc); err != nil {
		return nil, fmt.Errorf("encode result %d: %w", r.Index, err)
	}
	return bytes.TrimSuffix(out.Bytes(), []byte{'\n'}), nil
}

func (r *Result) encodeBody(doc *resultDocument) {
	mediaType := ""
	for _, h := range r.Headers {
		if equalFold(h.Name, "content-type") {
			mediaType, _, _ = strings.Cut(h.Value, ";")
			mediaType = strings.ToLower(strings.TrimSpace(mediaType))
			break
		}
	}
	isJSON := mediaType == "application/json" || strings.HasSuffix(mediaType, "+json")
	switch {
	case isJSON && !r.Truncated && shallow(r.Body) && utf8.Valid(r.Body) && json.Valid(r.Body):
		doc.Body = r.Body
	case utf8.Valid(r.Body):
		text := string(r.Body)
		doc.BodyText = &text
	default:
		text := base64.StdEncoding.EncodeToString(r.Body)
		doc.BodyBase64 = &text
	}
}

// maxDepth is how deep a JSON body may be nested to be served as JSON. A document
// as a whole must stay readable for every reader, some of which give up at 128.
const maxDepth = 100

// shallow reports whether a JSON text is nested no deeper than maxDepth.
func shallow(text []byte) bool {
	depth, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '[' || c == '{':
			if depth++; depth > maxDepth {
				return false
			}
		case c == ']' || c == '}':
			depth--
		}
	}
	return true
}

// UnmarshalJSON is the inverse of MarshalJSON.
func (r *Result) UnmarshalJSON(data []byte) error {
	var doc resultDocument
	if err := json.Unmarshal(data, &doc); err != nil {
		return fmt.Errorf("decode result: %w", err)
	}
	*r = Result{
		ID: doc.ID, Index: doc.Index, Outcome: doc.Outcome, Status: doc.Status,
		Truncated: doc.Truncated, Error: doc.Error, Attempts: doc.Attempts, History: doc.History,
	}
	var err error
	if r.Headers, err = decodeFields(doc.Headers); err != nil {
		return err
	}
	switch {
	case doc.Body != nil:
		r.Body = doc.Body
	case doc.BodyText != nil:
		r.Body = []byte(*doc.BodyText)
	case doc.BodyBase64 != nil:
		if r.Body, err = base64.StdEncoding.DecodeString(*doc.BodyBase64); err != nil {
			return fmt.Errorf("decode result %d: body_base64: %w", doc.Index, err)
		}
	}
	if doc.StartedAt != nil {
		r.StartedAt = *doc.StartedAt
	}
	if doc.DurationMS != nil {
		r.Duration = time.Duration(*doc.DurationMS) * time.Millisecond
	}
	return nil
}

// encodeFields writes an object of name to value, or to a list where a name
// came more than once, in the order in which the names first came.
func encodeFields(fields []Field) json.RawMessage {
	values := make(map[string][]string, len(fields))
	names := make([]string, 0, len(fields))
	for _, f := range fields {
		if _, seen := values[f.Name]; !seen {
			names = append(names, f.Name)
		}
		values[f.Name] = append(values[f.Name], f.Value)
	}
	out := []byte{'{'}
	for i, name := range names {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(appendString(out, name), ':')
		if list := values[name]; len(list) == 1 {
			out = appendString(out, list[0])
		} else {
			for j, v := range list {
				out = append(out, "[,"[min(j, 1)])
				out = appendString(out, v)
			}
			out = append(out, ']')
		}
	}
	return append(out, '}')
}

func appendString(out []byte, s string) []byte {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string always encodes
	return append(out, bytes.TrimSuffix(buf.Bytes(), []byte{'\n'})...)
}

func decodeFields(data json.RawMessage) ([]Field, error) {
	if len(data) == 0 {
		return nil, nil
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	if _, err := dec.Token(); err != nil {
		return nil, fmt.Errorf("decode headers: %w", err)
	}
	var fields []Field
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("decode headers: %w", err)
		}
		key, _ := name.(string)
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return nil, fmt.Errorf("decode header %q: %w", key, err)
		}
		var list []string
		if len(raw) > 0 && raw[0] == '[' {
			err = json.Unmarshal(raw, &list)
		} else {
			list = make([]string, 1)
			err = json.Unmarshal(raw, &list[0])
		}
		if err != nil {
			return nil, fmt.Errorf("decode header %q: %w", key, err)
		}
		for _, v := range list {
			fields = append(fields, Field{Name: key, Value: v})
		}
	}
	return fields, nil
}
