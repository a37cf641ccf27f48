package dialect

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/batchd/batchd/internal/apikey"
	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/intake"
)

// primaerp is the format of primaERP's batch resource: request and answer are bare
// lists, headers and bodies are strings, and transactions have names.
type primaerp struct{}

// Authenticate implements [Dialect].
func (primaerp) Authenticate(r *Request) (Credentials, bool, error) {
	c, err := ReadCredentials(r.Header)
	if err != nil {
		return Credentials{}, false, err
	}
	if c, err = c.WithToken(r.Query); err == nil && c.Token == "" && !r.Known {
		err = &UnauthorizedError{"send the token of the API as ?token=… of the batch: it goes with every item"}
	}
	return Credentials{Token: c.Token}, false, err
}

// Decode implements [Dialect].
func (d primaerp) Decode(r *Request) (*Submission, error) {
	c, _, err := d.Authenticate(r)
	if err != nil {
		return nil, err
	}
	inherited := inheritable(r.Header, r.Target)
	return decode(r, c, func(d *reader, dec *jsontext.Decoder) error {
		if !d.inherit(inherited) {
			return errStop
		}
		d.secret, d.places = c.Token != "", map[string]string{"/query": "/path", "/headers": "/headers", "/group": "/transaction"}
		return d.items(dec, "", func(dec *jsontext.Decoder, it *item) (bool, error) {
			return readPrimaerp(dec, it, inherited)
		})
	})
}

func readPrimaerp(dec *jsontext.Decoder, it *item, inherited []batch.Field) (bool, error) {
	own := false
	ok, err := it.Object(dec, []string{"id", "method", "path", "headers", "body", "transaction"}, func(name string) error {
		switch name {
		case "id":
			return it.textID(dec)
		case "method":
			return it.method(dec, batch.Methods...)
		case "path":
			return it.pathAndQuery(dec)
		case "headers":
			own = true
			return it.Text(dec, it.headerLines)
		case "transaction":
			return it.Text(dec, func(s string) error {
				if it.action.Group = s; s == "" {
					return errors.New("the transaction has no name: leave it out for an item without a transaction")
				}
				return nil
			})
		default:
			return it.Text(dec, func(s string) error {
				if s != "" {
					it.keep(dec, []byte(s))
				}
				return nil
			})
		}
	})
	if !ok {
		return false, err
	}
	if !own {
		it.action.Headers = slices.Clone(inherited)
	}
	if !it.request.Sealed && !it.secret {
		it.secret = hasToken(it.action.Query)
		it.CheckClear(&it.action, it.base)
	}
	if token := it.sub.Credentials.Token; token != "" && !hasToken(it.action.Query) {
		it.action.Query = intake.JoinQuery(it.action.Query, tokenQuery(token))
	}
	return true, nil
}

// headerLines reads headers from lines of "Name: value". It ignores blanks around a
// name, a colon and a line, and empty lines.
func (it *item) headerLines(text string) error {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return fmt.Errorf("the line %q has no colon: expected Name: value", intake.Clip(line))
		}
		if len(it.action.Headers) == batch.MaxHeaderCount {
			return fmt.Errorf("there are more than %d headers, which are the most allowed", batch.MaxHeaderCount)
		}
		it.action.Headers = append(it.action.Headers, batch.Field{Name: strings.TrimSpace(name), Value: strings.TrimSpace(value)})
	}
	return nil
}

func hasToken(query string) bool {
	for pair := range strings.SplitSeq(query, "&") {
		name, _, _ := strings.Cut(pair, "=")
		if plain, err := url.QueryUnescape(name); err == nil && plain == "token" {
			return true
		}
	}
	return false
}

// inheritable returns the headers of a batch request that its items inherit, in order.
// It omits headers of the connection (RFC 9110 §7.6.1), headers that describe the
// batch's own body or the requested form of its answer, headers for batchd itself, and
// headers that the target refuses: proxies between the client and batchd may have added
// them. It takes batchd's own cookies out. Content-Type stays, because it also applies to the items.
func inheritable(h http.Header, target *batch.Target) []batch.Field {
	named := make(map[string]struct{})
	for _, line := range h.Values("Connection") {
		for option := range strings.SplitSeq(line, ",") {
			named[http.CanonicalHeaderKey(strings.TrimSpace(option))] = struct{}{}
		}
	}
	var fields []batch.Field
	for name, values := range h {
		switch name {
		case "Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
			"Host", "Content-Length", "Expect", "Content-Encoding", "Content-Md5", "Digest", "Content-Digest", "Repr-Digest",
			"Accept-Encoding", "Prefer", "Idempotency-Key", "X-Batchd-Key":
			continue
		}
		if _, hop := named[name]; hop {
			continue
		}
		for _, value := range values {
			if name == "Cookie" {
				if value = foreignCookies(value); value == "" {
					continue
				}
			}
			if field := (batch.Field{Name: name, Value: value}); target.ForbidsHeader(field) == "" {
				fields = append(fields, field)
			}
		}
	}
	slices.SortStableFunc(fields, func(a, b batch.Field) int { return strings.Compare(a.Name, b.Name) })
	return fields
}

// inherit checks once what every item without headers of its own has. It reports whether there is no fault.
func (d *reader) inherit(headers []batch.Field) bool {
	size := 0
	for _, h := range headers {
		size += len(h.Name) + len(h.Value)
		if apikey.InValue(h.Value) || apikey.InValue(h.Name) {
			d.Fault("", "the header %s has a key of batchd in it, and items would inherit it: send the key in X-Batchd-Key", intake.Clip(h.Name))
		}
	}
	if size > batch.MaxHeaderLength {
		d.Fault("", "the headers of the batch that items inherit have %d bytes: at most %d are allowed", size, batch.MaxHeaderLength)
	}
	d.Searched = append(d.Searched, headers...)
	return d.Clean()
}

type primaerpResult struct {
	ID           json.RawMessage `json:"id,omitempty"`
	Code         int             `json:"code"`
	Headers      string          `json:"headers"`
	Body         string          `json:"body"`
	BodyEncoding string          `json:"body_encoding,omitempty"`
	Undecoded    bool            `json:"body_undecoded,omitempty"`
	Truncated    bool            `json:"truncated,omitempty"`
	TruncatedBy  string          `json:"truncated_by,omitempty"`
}

// Encode implements [Dialect].
func (primaerp) Encode(_ *Request, s *Submission, results []batch.Result) ([]byte, error) {
	list := make([]primaerpResult, len(results))
	for i := range results {
		r := &results[i]
		one := primaerpResult{ID: s.IDs[i], Code: statusOf(r)}
		if answered(r) {
			lines := make([]string, len(r.Headers))
			for j, h := range r.Headers {
				lines[j] = http.CanonicalHeaderKey(h.Name) + ": " + h.Value
			}
			one.Headers = strings.Join(lines, "\n")
			one.Body, one.BodyEncoding = textOf(r)
			one.Undecoded, one.Truncated, one.TruncatedBy = r.Undecoded, r.Truncated, r.TruncatedBy
		} else {
			body, err := encode(problemOf(r))
			if err != nil {
				return nil, err
			}
			one.Headers, one.Body = "Content-Type: "+mediaProblem, string(body)
		}
		list[i] = one
	}
	return encode(list)
}

// Refuse implements [Dialect].
func (primaerp) Refuse(p *Problem) (*Answer, error) { return refuse(p.Status, mediaProblem, p) }
