package dialect

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/batchd/batchd/internal/batch"
)

const mediaProblem = "application/problem+json"

const (
	// base64Encoding marks a body that is neither JSON nor text.
	base64Encoding = "base64"
	// textEncoding marks a JSON body that the answer contains as text, because it is
	// nested too deep.
	textEncoding = "text"
)

// content is a target's body, for a field of an answer that takes any JSON.
type content struct {
	// value is nil if there is no body.
	value json.RawMessage
	// encoding is "base64" if value is a base64 string, and "text" if value is the text
	// of JSON that is nested deeper than [batch.MaxDepth].
	encoding string
}

// contentOf returns JSON unchanged, text as a string, and any other body in base64.
func contentOf(r *batch.Result) (content, error) {
	if len(r.Body) == 0 {
		return content{}, nil
	}
	text, encoding := textOf(r)
	if saysJSON(r) && encoding == "" && !r.Truncated {
		if !batch.Shallow(r.Body) {
			encoding = textEncoding // too deep for the parser, so it stays text
		} else if json.Valid(r.Body) {
			return content{value: r.Body}, nil
		}
	}
	value, err := encode(text)
	return content{value, encoding}, err
}

// textOf returns a target's body as text, or in base64 with the encoding "base64".
func textOf(r *batch.Result) (text, encoding string) {
	if !r.Undecoded && utf8.Valid(r.Body) {
		return string(r.Body), ""
	}
	return base64.StdEncoding.EncodeToString(r.Body), base64Encoding
}

// saysJSON reports whether the target declares a body as JSON. Without a Content-Type,
// the recipient may inspect the body (RFC 9110 §8.3). Then a JSON number or literal may
// as well be text.
func saysJSON(r *batch.Result) bool {
	for _, h := range r.Headers {
		if strings.EqualFold(h.Name, "Content-Type") {
			return namesJSON(h.Value)
		}
	}
	first := bytes.TrimLeft(r.Body, " \t\r\n")
	return len(first) > 0 && (first[0] == '{' || first[0] == '[')
}

// namesJSON reports whether a Content-Type is a JSON type.
func namesJSON(media string) bool {
	media, _, _ = strings.Cut(media, ";")
	media = strings.ToLower(strings.TrimSpace(media))
	return media == mediaJSON || strings.HasSuffix(media, "+json")
}

// headersOf returns headers as an object. It joins the values of a name that came more
// than once (RFC 9110 §5.3), but lists those of Set-Cookie, which must not be joined.
func headersOf(r *batch.Result) map[string]any {
	joined := make(map[string][]string, len(r.Headers))
	for _, h := range r.Headers {
		joined[h.Name] = append(joined[h.Name], h.Value)
	}
	object := make(map[string]any, len(joined))
	for name, values := range joined {
		if len(values) > 1 && strings.EqualFold(name, "Set-Cookie") {
			object[name] = values
		} else {
			object[name] = strings.Join(values, ", ")
		}
	}
	return object
}

// encode writes JSON on one line, without HTML escaping.
func encode(v any) ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encode the answer: %w", err)
	}
	return bytes.TrimSuffix(out.Bytes(), []byte{'\n'}), nil
}

// refuse encodes the answer to a refused batch.
func refuse(status int, media string, v any) (*Answer, error) {
	body, err := encode(v)
	if err != nil {
		return nil, err
	}
	return &Answer{Status: status, Media: media, Body: body}, nil
}

// sentence describes a fault in one line.
func (e *ProblemError) sentence() string {
	if e.Pointer == "" {
		return e.Detail
	}
	return e.Pointer + ": " + e.Detail
}
