package dialect

import (
	"encoding/json"
	"errors"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/intake"
)

// requests is the plain form of many in-house APIs: a list of requests, and a list of
// responses in the same order.
type requests struct{}

// Authenticate implements [Dialect].
func (requests) Authenticate(r *Request) (Credentials, bool, error) {
	c, err := Authorization(r.Header)
	if err == nil && r.Passthrough && c.Authorization == "" && !r.Known {
		err = &UnauthorizedError{"send the credential of the API in the Authorization header: it goes with every request that has none of its own"}
	}
	return c, false, err
}

// Decode implements [Dialect].
func (d requests) Decode(r *Request) (*Submission, error) {
	c, _, err := d.Authenticate(r)
	if err != nil {
		return nil, err
	}
	return decode(r, c, func(d *reader, dec *jsontext.Decoder) error {
		_, err := d.Object(dec, []string{"requests"}, func(string) error {
			return d.items(dec, "/requests", readRequest)
		})
		return err
	})
}

func readRequest(dec *jsontext.Decoder, it *item) (bool, error) {
	var query string
	var text *string
	ok, err := it.Object(dec, []string{"id", "method", "path", "query", "headers", "body"}, func(name string) (err error) {
		switch name {
		case "id":
			return it.readID(dec)
		case "method":
			return it.method(dec, batch.Methods...)
		case "path":
			return it.pathAndQuery(dec)
		case "query":
			query, err = it.Query(dec)
			return err
		case "headers":
			return it.Headers(dec, func(h batch.Field) { it.action.Headers = append(it.action.Headers, h) })
		default:
			if dec.PeekKind() != jsontext.KindString {
				return it.json(dec)
			}
			value, err := dec.ReadValue()
			if err != nil {
				return err
			}
			unquoted, err := jsontext.AppendUnquote(nil, value)
			if err != nil {
				return err
			}
			plain := string(unquoted)
			text = &plain
			it.keep(dec, value.Clone())
			return nil
		}
	})
	if !ok {
		return false, err
	}
	it.action.Query = intake.JoinQuery(it.action.Query, query)
	if media, own := it.action.Header("Content-Type"); !own && it.action.Body != nil {
		it.send("Content-Type", mediaJSON)
	} else if own && text != nil && !namesJSON(media) {
		it.action.Body = []byte(*text)
	}
	if it.request.Passthrough {
		it.send("Authorization", it.sub.Credentials.Authorization)
	}
	if !it.request.Sealed {
		it.CheckClear(&it.action, it.base)
	}
	return true, nil
}

// readID reads an id: a string, or a number, which the answer returns as a number.
func (it *item) readID(dec *jsontext.Decoder) error {
	if dec.PeekKind() == jsontext.KindNumber {
		value, err := dec.ReadValue()
		it.id, it.action.ID = json.RawMessage(value.Clone()), string(value)
		return err
	}
	return it.textID(dec)
}

// textID reads an id that must be a string.
func (it *item) textID(dec *jsontext.Decoder) error {
	return it.Text(dec, func(s string) (err error) {
		if s == "" {
			return errors.New("the id is empty: leave it out")
		}
		it.action.ID = s
		it.id, err = encode(s)
		return err
	})
}

type response struct {
	ID           json.RawMessage `json:"id,omitempty"`
	Status       int             `json:"status"`
	Headers      map[string]any  `json:"headers,omitempty"`
	Body         json.RawMessage `json:"body,omitempty"`
	BodyEncoding string          `json:"body_encoding,omitempty"`
	Undecoded    bool            `json:"body_undecoded,omitempty"`
	Truncated    bool            `json:"truncated,omitempty"`
	TruncatedBy  string          `json:"truncated_by,omitempty"`
}

// Encode implements [Dialect].
func (requests) Encode(_ *Request, s *Submission, results []batch.Result) ([]byte, error) {
	list := make([]response, len(results))
	for i := range results {
		r := &results[i]
		one := response{ID: s.IDs[i], Status: statusOf(r)}
		if answered(r) {
			body, err := contentOf(r)
			if err != nil {
				return nil, err
			}
			one.Headers, one.Body, one.BodyEncoding = headersOf(r), body.value, body.encoding
			one.Undecoded, one.Truncated, one.TruncatedBy = r.Undecoded, r.Truncated, r.TruncatedBy
		} else {
			body, err := encode(problemOf(r))
			if err != nil {
				return nil, err
			}
			one.Headers, one.Body = map[string]any{"content-type": mediaProblem}, body
		}
		list[i] = one
	}
	return encode(map[string]any{"responses": list})
}

// Refuse implements [Dialect].
func (requests) Refuse(p *Problem) (*Answer, error) { return refuse(p.Status, mediaProblem, p) }
