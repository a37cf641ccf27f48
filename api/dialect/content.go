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
	// textEncoding marks a body of the type JSON that is put into the answer as text,
	// because it is nested too deep.
	textEncoding = "text"
)

// content is a target's body, in a place of an answer that takes any JSON.
type content struct {
	// value is nil where there is no body.
	value json.RawMessage
	// encoding is "base64" where value is a string that is encoded so, and "text"
	// where it is the text of JSON that is nested deeper than [batch.MaxDepth].
	encoding string
}

// contentOf puts JSON there as it came, text as a string, and the rest in base64.
func contentOf(r *batch.Result) (content, error) {
	if len(r.Body) == 0 {
		return content{}, nil
	}
	text, encoding := textOf(r)
	if saysJSON(r) && encoding == "" && !r.Truncated {
		if !batch.Shallow(r.Body) {
			encoding = textEncoding // not to be parsed to see whether it is valid
		} else if json.Valid(r.Body) {
			return content{value: r.Body}, nil
		}
	}
	value, err := encode(text)
	return content{value, encoding}, err
}

// textOf returns a target's body as text, and "base64" where it is encoded so.
func textOf(r *batch.Result) (text, encoding string) {
	if !r.Undecoded && utf8.Valid(r.Body) {
		return string(r.Body), ""
	}
	return base64.StdEncoding.EncodeToString(r.Body), base64Encoding
}

// saysJSON reports whether a body is said to be JSON. A target that says nothing
// leaves it to the recipient to look (RFC 9110 §8.3); then a number or a word may be
// text as well.
func saysJSON(r *batch.Result) bool {
	for _, h := range r.Headers {
		if strings.EqualFold(h.Name, "Content-Type") {
			return namesJSON(h.Value)
		}
	}
	first := bytes.TrimLeft(r.Body, " \t\r\n")
	return len(first) > 0 && (first[0] == '{' || first[0] == '[')
}

// namesJSON reports whether a Content-Type is one of JSON.
func namesJSON(media string) bool {
	media, _, _ = strings.Cut(media, ";")
	media = strings.ToLower(strings.TrimSpace(media))
	return media == mediaJSON || strings.HasSuffix(media, "+json")
}

// headersOf returns headers as an object. The values of a name that came more
// than once are joined (RFC 9110 §5.3); those of Set-Cookie, which must not be,
// stand in a list.
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

// refuse encodes what a refused batch is answered with.
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
