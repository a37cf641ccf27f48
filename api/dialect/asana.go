package dialect

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/intake"
)

// asana is the format of Asana's batch API: a list of actions under data, and an answer
// with a list of status, headers and body, again under data.
type asana struct{}

// Authenticate implements [Dialect].
func (asana) Authenticate(r *Request) (Credentials, bool, error) {
	c, err := Authorization(r.Header)
	if err == nil && c.Authorization == "" && !r.Known {
		err = &UnauthorizedError{"send the credential of the API in the Authorization header: it goes with every action"}
	}
	return c, false, err
}

// Decode implements [Dialect].
func (d asana) Decode(r *Request) (*Submission, error) {
	c, _, err := d.Authenticate(r)
	if err != nil {
		return nil, err
	}
	return decode(r, c, func(d *reader, dec *jsontext.Decoder) error {
		d.secret, d.places = c.Authorization != "", map[string]string{"/path": "/relative_path", "/query": "/data"}
		_, err := d.Object(dec, []string{"data"}, func(string) error {
			_, err := d.Object(dec, []string{"actions"}, func(string) error {
				return d.items(dec, "/data/actions", readAsana)
			})
			return err
		})
		return err
	})
}

func readAsana(dec *jsontext.Decoder, it *item) (bool, error) {
	var data jsontext.Value
	var options string
	ok, err := it.Object(dec, []string{"method", "relative_path", "data", "options"}, func(name string) (err error) {
		switch name {
		case "method":
			return it.method(dec, http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodPatch, http.MethodHead)
		case "relative_path":
			return it.Text(dec, func(s string) error {
				if it.action.Path = s; strings.Contains(s, "?") {
					return errors.New("query parameters are not accepted in the path: put them into data or options")
				}
				return nil
			})
		case "options":
			options, err = it.asanaOptions(dec)
			return err
		default:
			// The method, which may come later, determines the use of the data.
			value, err := dec.ReadValue()
			data = value.Clone()
			return err
		}
	})
	if !ok {
		return false, err
	}
	if data != nil {
		if err := it.asanaData(data); err != nil {
			return false, err
		}
	}
	it.action.Query = intake.JoinQuery(it.action.Query, options)
	if it.action.Body != nil {
		it.send("Content-Type", mediaJSON)
	}
	it.send("Authorization", it.sub.Credentials.Authorization)
	return true, nil
}

// asanaData makes the data of an action its body, or its query if the method has no
// body.
func (it *item) asanaData(data jsontext.Value) error {
	it.Prefix = it.base + "/data"
	defer func() { it.Prefix = "" }()
	dec := intake.NewDecoder(bytes.NewBuffer(data))
	if ok, err := it.Expect(dec, jsontext.KindBeginObject); !ok {
		return err
	}
	if sendsBody(it.action.Method) {
		body, ok, err := it.JSON(dec, nil, it.request.MaxActionBody)
		if ok {
			it.keep(dec, fmt.Appendf(nil, `{"data":%s}`, body))
		}
		return err
	}
	var err error
	it.action.Query, err = it.asanaQuery(dec, nil, func(name string, add func(string)) error {
		return it.OneOrMany(dec, func() error { return it.Scalar(dec, add) })
	})
	return err
}

// asanaOptions reads the options of an action as a query.
func (it *item) asanaOptions(dec *jsontext.Decoder) (string, error) {
	return it.asanaQuery(dec, []string{"limit", "offset", "fields", "expand"}, func(name string, add func(string)) error {
		switch name {
		case "limit":
			return it.Scalar(dec, func(value string) {
				switch n, err := strconv.Atoi(value); {
				case errors.Is(err, strconv.ErrRange):
					it.FaultHere(dec, "the limit is %q, which is out of range", intake.Clip(value))
				case err != nil || n < 1:
					it.FaultHere(dec, "the limit is %q: expected a whole number of at least 1", intake.Clip(value))
				}
				add(value)
			})
		case "offset":
			return it.Scalar(dec, func(value string) {
				if value == "" {
					it.FaultHere(dec, "the offset is empty: leave it out for the first page")
				}
				add(value)
			})
		default:
			return it.OneOrMany(dec, func() error {
				return it.Text(dec, func(value string) error { add(value); return nil })
			})
		}
	})
}

// asanaQuery reads an object as a query. Several values of one name are joined with
// commas.
func (it *item) asanaQuery(dec *jsontext.Decoder, fields []string, read func(name string, add func(string)) error) (string, error) {
	var q intake.QueryBuilder
	ok, err := it.Object(dec, fields, func(name string) error {
		if fields != nil && (name == "fields" || name == "expand") {
			q.AddName("opt_" + name)
		} else {
			q.AddName(name)
		}
		first := true
		return read(name, func(value string) {
			if !first {
				q.AddComma()
			}
			first = false
			q.AddValue(value)
		})
	})
	if ok {
		it.CheckQuery(dec, &q)
	}
	return q.String(), err
}

// asanaResult has nil for each field that opt_fields does not select.
type asanaResult struct {
	StatusCode   int             `json:"status_code,omitempty"`
	Headers      *map[string]any `json:"headers,omitempty"`
	Body         json.RawMessage `json:"body,omitempty"`
	BodyEncoding string          `json:"body_encoding,omitempty"`
	Undecoded    bool            `json:"body_undecoded,omitempty"`
	Truncated    bool            `json:"truncated,omitempty"`
	TruncatedBy  string          `json:"truncated_by,omitempty"`
}

// Encode implements [Dialect].
func (asana) Encode(r *Request, _ *Submission, results []batch.Result) ([]byte, error) {
	fields := asanaFields(r)
	list := make([]asanaResult, len(results))
	for i := range results {
		one, err := asanaAnswer(&results[i])
		if err != nil {
			return nil, err
		}
		if !fields("status_code") {
			one.StatusCode = 0
		}
		if !fields("headers") {
			one.Headers = nil
		}
		if !fields("body") {
			one.Body, one.BodyEncoding, one.Undecoded, one.Truncated, one.TruncatedBy = nil, "", false, false, ""
		}
		list[i] = one
	}
	answer, err := encode(map[string]any{"data": list})
	if err != nil || !asanaPretty(r) {
		return answer, err
	}
	pretty := jsontext.Value(answer)
	if err := pretty.Indent(jsontext.WithIndent("  "), jsontext.AllowDuplicateNames(true)); err != nil {
		return nil, fmt.Errorf("indent the answer: %w", err)
	}
	return pretty, nil
}

func asanaAnswer(r *batch.Result) (asanaResult, error) {
	headers := headersOf(r)
	one := asanaResult{StatusCode: statusOf(r), Headers: &headers}
	if !answered(r) {
		var err error
		clear(headers) // headers of an incomplete answer do not describe this body
		one.Body, err = encode(asanaError{[]asanaMessage{{reasonOf(r)}}})
		return one, err
	}
	body, err := contentOf(r)
	one.Undecoded, one.Truncated, one.TruncatedBy = r.Undecoded, r.Truncated, r.TruncatedBy
	if one.Body, one.BodyEncoding = body.value, body.encoding; one.Body == nil {
		one.Body = json.RawMessage("{}")
	}
	return one, err
}

// asanaFields returns the selection of opt_fields: every field, if opt_fields is
// missing.
func asanaFields(r *Request) func(string) bool {
	var selected []string
	for _, list := range r.Query["opt_fields"] {
		for field := range strings.SplitSeq(list, ",") {
			if field = strings.TrimSpace(field); field != "" {
				selected = append(selected, field)
			}
		}
	}
	return func(field string) bool { return len(selected) == 0 || slices.Contains(selected, field) }
}

// asanaPretty reports whether opt_pretty is present and not false.
func asanaPretty(r *Request) bool {
	return r.Query.Has("opt_pretty") && r.Query.Get("opt_pretty") != "false"
}

type asanaError struct {
	Errors []asanaMessage `json:"errors"`
}

type asanaMessage struct {
	Message string `json:"message"`
}

// Refuse implements [Dialect].
func (asana) Refuse(p *Problem) (*Answer, error) {
	var e asanaError
	for _, fault := range p.Errors {
		e.Errors = append(e.Errors, asanaMessage{fault.sentence()})
	}
	if p.More > 0 {
		e.Errors = append(e.Errors, asanaMessage{fmt.Sprintf("there are %d faults more", p.More)})
	}
	if e.Errors == nil {
		e.Errors = []asanaMessage{{p.Detail}}
	}
	status := p.Status
	if status == http.StatusUnprocessableEntity {
		status = http.StatusBadRequest // older SDKs read 422 as success
	}
	return refuse(status, mediaJSON, e)
}
