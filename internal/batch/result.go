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

// Failure is the reason why an action has no answer.
type Failure struct {
	Code    ErrorCode `json:"code"`
	Message string    `json:"message"`
}

// Result is the result of one action.
type Result struct {
	// ID is the action's id, or its index in decimal if it has none.
	ID    string
	Index int
	// Outcome is Pending while the action waits or is in flight.
	Outcome Outcome
	// Status is the target's HTTP status, or 0 without an answer. A Cancelled or
	// Expired action has the status of its last attempt, if there was one.
	Status int
	// Headers are the target's end-to-end headers, with names in lower case.
	Headers []Field
	Body    []byte
	// Truncated: Body is only the beginning of the target's body.
	Truncated bool
	// TruncatedBy is [QuotaStoredBytes] if a quota had no room for the body. Then there is no body, although the
	// target sent one, and the headers are missing, too, unless they are small.
	TruncatedBy string
	// Undecoded: Body is still in the content codings that the header content-encoding
	// names.
	Undecoded bool
	// Error is set if there was no answer.
	Error *Failure
	// Attempts is the number of attempts, in this round and all earlier ones.
	Attempts int
	// StartedAt is when the last attempt began.
	StartedAt time.Time
	// Duration is the duration of the last attempt.
	Duration time.Duration
	// History has the earlier results of an action that was retried, oldest first.
	History []Past
}

// Past is the result of an action before a retry.
type Past struct {
	Outcome Outcome  `json:"outcome"`
	Status  int      `json:"status,omitempty"`
	Error   *Failure `json:"error,omitempty"`
	// Attempts is the number of attempts in that round.
	Attempts  int        `json:"attempts"`
	StartedAt *time.Time `json:"started_at,omitempty"`
}

// Past returns the history for the result that follows this one. A result that has not
// ended adds nothing to its own history.
func (r *Result) Past() []Past {
	if !r.Outcome.Final() {
		return slices.Clone(r.History)
	}
	p := Past{Outcome: r.Outcome, Status: r.Status, Error: r.Error, Attempts: r.Attempts}
	for i := range r.History {
		p.Attempts -= r.History[i].Attempts
	}
	if !r.StartedAt.IsZero() {
		at := r.StartedAt.UTC().Truncate(time.Millisecond)
		p.StartedAt = &at
	}
	return append(slices.Clone(r.History), p)
}

// ActionID returns the id for a result: the client's, or else the index.
func ActionID(id string, index int) string {
	if id != "" {
		return id
	}
	return strconv.Itoa(index)
}

// resultDocument is the JSON form of a result, with the fields in the native API's
// order.
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
	By         string          `json:"truncated_by,omitempty"`
	Undecoded  bool            `json:"body_undecoded,omitempty"`
	Error      *Failure        `json:"error,omitempty"`
	Attempts   int             `json:"attempts"`
	StartedAt  *time.Time      `json:"started_at,omitempty"`
	DurationMS *int64          `json:"duration_ms,omitempty"`
	History    []Past          `json:"history,omitempty"`
}

// MarshalJSON encodes the result in the native API's form: one line, without HTML
// escaping. A JSON body is in "body", unchanged except for insignificant white space;
// text is in "body_text", and any other body in "body_base64". An empty body is left
// out. An unknown outcome has "sent_at", which is when its attempt began.
func (r *Result) MarshalJSON() ([]byte, error) { return Served(r.Encode()), nil }

// HasOutcome reports whether an encoded result has an outcome. It reads no further than that: in an id, which precedes
// it, a quotation mark follows a backslash.
func HasOutcome(encoded []byte, outcome Outcome) bool {
	_, rest, found := bytes.Cut(encoded, []byte(`,"outcome":"`))
	name := outcome.String()
	return found && len(rest) > len(name) && string(rest[:len(name)]) == name && rest[len(name)] == '"'
}

// Encode encodes the result in the store's form, which differs from that of MarshalJSON
// in one point: a JSON body keeps its white space. If it has any, the document begins
// with a space. Encode writes field by field, because encoding/json would read headers
// and body three times.
func (r *Result) Encode() []byte {
	out := make([]byte, 0, 256+len(r.Body)+len(r.Body)/8)
	spaced := false
	out = appendString(append(out, ` {"id":`...), r.ID)
	out = strconv.AppendInt(append(out, `,"index":`...), int64(r.Index), 10)
	out = appendString(append(out, `,"outcome":`...), r.Outcome.String())
	if r.Status != 0 {
		out = strconv.AppendInt(append(out, `,"status":`...), int64(r.Status), 10)
	}
	if len(r.Headers) > 0 {
		out = appendFields(append(out, `,"headers":`...), r.Headers)
	}
	if len(r.Body) > 0 {
		out, spaced = r.appendBody(out)
	}
	if r.Truncated {
		out = append(out, `,"truncated":true`...)
	}
	if r.TruncatedBy != "" {
		out = appendString(append(out, `,"truncated_by":`...), r.TruncatedBy)
	}
	if r.Undecoded {
		out = append(out, `,"body_undecoded":true`...)
	}
	if r.Error != nil {
		out = appendValue(append(out, `,"error":`...), r.Error)
	}
	out = strconv.AppendInt(append(out, `,"attempts":`...), int64(r.Attempts), 10)
	if !r.StartedAt.IsZero() {
		out = r.StartedAt.UTC().Truncate(time.Millisecond).AppendFormat(append(out, `,"started_at":"`...), time.RFC3339Nano)
		out = strconv.AppendInt(append(out, `","duration_ms":`...), r.Duration.Milliseconds(), 10)
		if r.Outcome == Unknown {
			out = r.StartedAt.UTC().Truncate(time.Millisecond).AppendFormat(append(out, `,"sent_at":"`...), time.RFC3339Nano)
			out = append(out, '"')
		}
	}
	if len(r.History) > 0 {
		out = appendValue(append(out, `,"history":`...), r.History)
	}
	out = append(out, '}')
	if spaced {
		return out
	}
	return out[1:]
}

// appendBody writes the body, and reports whether it has insignificant white space.
func (r *Result) appendBody(out []byte) (_ []byte, spaced bool) {
	valid := !r.Undecoded && utf8.Valid(r.Body)
	if valid && !r.Truncated && r.isJSON() && Shallow(r.Body) {
		out = append(out, `,"body":`...)
		body := bytes.NewBuffer(out)
		if json.Compact(body, r.Body) == nil {
			if body.Len() == len(out)+len(r.Body) {
				return body.Bytes(), false
			}
			return append(out, r.Body...), true
		}
		out = out[:len(out)-len(`,"body":`)]
	}
	if valid {
		return appendString(append(out, `,"body_text":`...), string(r.Body)), false
	}
	out = base64.StdEncoding.AppendEncode(append(out, `,"body_base64":"`...), r.Body)
	return append(out, '"'), false
}

// Served converts a result from the form of [Result.Encode] to the native API's form:
// it removes insignificant white space.
func Served(encoded []byte) []byte {
	if len(encoded) == 0 || encoded[0] != ' ' {
		return encoded
	}
	out, from := make([]byte, 0, len(encoded)), 0
	for i := 0; i < len(encoded); i++ {
		switch encoded[i] {
		case ' ', '\t', '\r', '\n':
			out = append(out, encoded[from:i]...)
			from = i + 1
		case '"':
			for i++; encoded[i] != '"'; i++ {
				if encoded[i] == '\\' {
					i++
				}
			}
		}
	}
	return append(out, encoded[from:]...)
}

// isJSON reports whether the target declares the body as JSON.
func (r *Result) isJSON() bool {
	for _, h := range r.Headers {
		if equalFold(h.Name, "content-type") {
			mediaType, _, _ := strings.Cut(h.Value, ";")
			mediaType = strings.ToLower(strings.TrimSpace(mediaType))
			return mediaType == "application/json" || strings.HasSuffix(mediaType, "+json")
		}
	}
	return false
}

// MaxDepth is the deepest nesting, in levels, of a JSON body that a document contains
// as JSON. Some readers of the whole document give up at 128 levels.
const MaxDepth = 100

// Shallow reports whether a JSON text is nested no deeper than [MaxDepth]. Every
// document that contains a target's JSON uses it, in any format.
func Shallow(text []byte) bool {
	if bytes.Count(text, []byte{'['})+bytes.Count(text, []byte{'{'}) <= MaxDepth {
		return true
	}
	depth, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '[' || c == '{':
			if depth++; depth > MaxDepth {
				return false
			}
		case c == ']' || c == '}':
			depth--
		}
	}
	return true
}

// UnmarshalJSON is the inverse of MarshalJSON and of Encode.
func (r *Result) UnmarshalJSON(data []byte) error {
	var doc resultDocument
	if err := json.Unmarshal(data, &doc); err != nil {
		return fmt.Errorf("decode result: %w", err)
	}
	*r = Result{
		ID: doc.ID, Index: doc.Index, Outcome: doc.Outcome, Status: doc.Status,
		Truncated: doc.Truncated, TruncatedBy: doc.By, Undecoded: doc.Undecoded, Error: doc.Error, Attempts: doc.Attempts, History: doc.History,
	}
	var err error
	if r.Headers, err = decodeFields(doc.Headers); err != nil {
		return err
	}
	switch {
	case doc.Body != nil:
		r.Body = doc.Body
		if data[0] == ' ' {
			r.Body, err = spacedBody(data)
		}
		if err != nil {
			return err
		}
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

// spacedBody returns the member "body" of a document with the white space around it,
// which encoding/json drops.
func spacedBody(data []byte) ([]byte, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	_, err := dec.Token()
	for err == nil {
		var name json.Token
		if name, err = dec.Token(); err != nil {
			break
		}
		start := dec.InputOffset() + int64(len(":"))
		var value json.RawMessage
		if err = dec.Decode(&value); err != nil || name != "body" {
			continue
		}
		end := dec.InputOffset()
		end += int64(bytes.IndexAny(data[end:], ",}"))
		return data[start:end:end], nil
	}
	return nil, fmt.Errorf("decode the body of a result: %w", err)
}

// appendFields writes an object of names with a value, or with a list if a name came
// more than once. The names are in the order of their first occurrence.
func appendFields(out []byte, fields []Field) []byte {
	lists := repeated(fields)
	sep := byte('{')
	for i := range fields {
		list, several := lists[fields[i].Name]
		if several && list == nil {
			continue // already written with the first value of its name
		}
		out = append(appendString(append(out, sep), fields[i].Name), ':')
		sep = ','
		if !several {
			out = appendString(out, fields[i].Value)
			continue
		}
		lists[fields[i].Name] = nil
		for j, v := range list {
			out = appendString(append(out, "[,"[min(j, 1)]), v)
		}
		out = append(out, ']')
	}
	return append(out, '}')
}

// repeated returns the values of the names that came more than once, or nil if there
// are none, which is the usual case.
func repeated(fields []Field) map[string][]string {
	if len(fields) <= 16 && !anyTwice(fields) {
		return nil
	}
	lists := make(map[string][]string, len(fields))
	for i := range fields {
		lists[fields[i].Name] = append(lists[fields[i].Name], fields[i].Value)
	}
	for name, list := range lists {
		if len(list) == 1 {
			delete(lists, name)
		}
	}
	return lists
}

// anyTwice compares each name with all names before it, which is fast for a few names.
func anyTwice(fields []Field) bool {
	for i := range fields {
		if slices.ContainsFunc(fields[:i], func(f Field) bool { return f.Name == fields[i].Name }) {
			return true
		}
	}
	return false
}

// appendString writes a JSON string.
func appendString(out []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return appendValue(out, s)
		}
	}
	out = append(append(out, '"'), s...)
	return append(out, '"')
}

// appendValue writes a value that always encodes.
func appendValue(out []byte, v any) []byte {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v)
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

// errorBytes is the most that DropContent keeps of an error's message.
const errorBytes = 200

// DropContent removes the body, for which a quota has no room, and then also the headers if the encoded result is
// still longer than most bytes. It shortens the message of an error. Outcome, status, times and history stay.
func (r *Result) DropContent(most int) {
	if len(r.Body) > 0 {
		r.Body, r.Undecoded, r.Truncated, r.TruncatedBy = nil, false, true, QuotaStoredBytes
	}
	if len(r.Headers) > 0 && len(r.Encode()) > most {
		r.Headers, r.Truncated, r.TruncatedBy = nil, true, QuotaStoredBytes
	}
	if r.Error != nil && len(r.Error.Message) > errorBytes {
		short := *r.Error
		short.Message = strings.ToValidUTF8(short.Message[:errorBytes], "") + "…"
		r.Error = &short
	}
}
