package dialect

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/intake"
)

// syncano is the format of Syncano's batch requests, which stay within one instance: a
// list of requests, and an answer that is a bare list of code and content.
type syncano struct{}

var (
	syncanoVersions = []string{"v1", "v1.1", "v2"}
	syncanoInstance = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
)

// Authenticate implements [Dialect]. The 2.x client, which sends text/plain, puts the
// keys into the body.
func (syncano) Authenticate(r *Request) (Credentials, bool, error) {
	c, err := ReadCredentials(r.Header)
	if err != nil {
		return Credentials{}, false, err
	}
	if c.APIKey+c.UserKey != "" {
		c.Authorization = "" // with keys, the Authorization does not identify the client
	}
	media, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	return c, c.Identity() == "" && strings.EqualFold(strings.TrimSpace(media), "text/plain"), nil
}

// Decode implements [Dialect].
func (syncano) Decode(r *Request) (*Submission, error) {
	c, err := ReadCredentials(r.Header)
	if err != nil {
		return nil, err
	}
	return decode(r, c, func(d *reader, dec *jsontext.Decoder) error {
		d.places = map[string]string{"/query": "/path"}
		if !syncanoInstance.MatchString(r.Params["instance"]) {
			d.Fault("", "the instance in the path of the batch is not a valid name: expected letters, digits, - and _")
		}
		sub := &d.sub
		d.credential("", "X-API-KEY", c.APIKey)
		d.credential("", "X-USER-KEY", c.UserKey)
		d.credential("", "Authorization", c.Authorization)
		// The 2.x client puts the fields into the body that other clients put into the
		// header.
		_, err := d.Object(dec, []string{"requests", "_api_key", "_user_key", "_method"}, func(name string) error {
			switch name {
			case "_api_key":
				return d.Text(dec, func(key string) error { return d.agree(&sub.Credentials.APIKey, key, "X-API-KEY", "/_api_key") })
			case "_user_key":
				return d.Text(dec, func(key string) error { return d.agree(&sub.Credentials.UserKey, key, "X-USER-KEY", "/_user_key") })
			case "_method":
				return d.Text(dec, func(method string) error {
					if !strings.EqualFold(method, http.MethodPost) {
						return fmt.Errorf("the method %q is not allowed here: expected POST", intake.Clip(method))
					}
					return nil
				})
			default:
				return d.items(dec, "/requests", readSyncano)
			}
		})
		for i := range sub.Actions {
			if !d.Clean() {
				break
			}
			it := &item{action: sub.Actions[i]}
			it.send("X-API-KEY", sub.Credentials.APIKey)
			it.send("X-USER-KEY", sub.Credentials.UserKey)
			it.send("Authorization", sub.Credentials.Authorization)
			sub.Actions[i] = it.action
		}
		d.secret = sub.Credentials.APIKey+sub.Credentials.UserKey+sub.Credentials.Authorization != ""
		if sub.Credentials.APIKey+sub.Credentials.UserKey != "" {
			sub.Credentials.Authorization = "" // with keys, the Authorization does not identify the client
		}
		return err
	})
}

// agree takes a credential from the body, which must equal the one in the header if
// both exist.
func (d *reader) agree(to *string, key, header, pointer string) error {
	if *to != "" && *to != key {
		return errors.New("the key differs from that in the " + header + " header: send one of them")
	}
	if *to == "" {
		d.credential(pointer, header, key)
	}
	*to = key
	return nil
}

func readSyncano(dec *jsontext.Decoder, it *item) (bool, error) {
	ok, err := it.Object(dec, []string{"method", "path", "body"}, func(name string) error {
		switch name {
		case "method":
			return it.method(dec, http.MethodGet, http.MethodPost, http.MethodPatch, http.MethodPut, http.MethodDelete)
		case "path":
			return it.Text(dec, func(s string) error {
				intake.SetURL(&it.action, s)
				if !within(it.action.Path, it.request.Params["instance"]) {
					// The fault is not the item's: the whole batch must stay within one
					// instance.
					index := it.Index
					it.Index = -1
					it.Fault(it.base+"/path", "outside of the instance of the batch: expected a path that starts with /v1.1/instances/%s/", it.request.Params["instance"])
					it.Index = index
				}
				return nil
			})
		default:
			return it.json(dec)
		}
	})
	if !ok {
		return false, err
	}
	if !sendsBody(it.action.Method) {
		it.action.Body = nil // clients send one, and Syncano ignores it
	}
	if it.action.Body != nil {
		it.send("Content-Type", mediaJSON)
	}
	return true, nil
}

// within reports whether a path stays within an instance, as every server on the way
// reads it. It compares the prefix literally, case and escapes included, and refuses a
// path that leads out again after the prefix.
func within(path, instance string) bool {
	for _, version := range syncanoVersions {
		if strings.HasPrefix(path, "/"+version+"/instances/"+instance+"/") {
			return !strings.Contains(path, "//") && batch.ValidatePath(path) == nil
		}
	}
	return false
}

type syncanoResult struct {
	Code            int             `json:"code"`
	Content         json.RawMessage `json:"content,omitempty"`
	ContentEncoding string          `json:"content_encoding,omitempty"`
	Undecoded       bool            `json:"content_undecoded,omitempty"`
	Truncated       bool            `json:"truncated,omitempty"`
	TruncatedBy     string          `json:"truncated_by,omitempty"`
}

type syncanoDetail struct {
	Detail string `json:"detail"`
}

// Encode implements [Dialect].
func (syncano) Encode(_ *Request, _ *Submission, results []batch.Result) ([]byte, error) {
	list := make([]syncanoResult, len(results))
	for i := range results {
		r := &results[i]
		one := syncanoResult{Code: statusOf(r)}
		var err error
		if answered(r) {
			var body content
			one.Truncated, one.TruncatedBy = r.Truncated, r.TruncatedBy
			body, err = contentOf(r)
			one.Content, one.ContentEncoding, one.Undecoded = body.value, body.encoding, r.Undecoded
		} else {
			if r.Error != nil && r.Error.Code == batch.CodeBlocked {
				one.Code = http.StatusMethodNotAllowed
			}
			one.Content, err = encode(syncanoDetail{reasonOf(r)})
		}
		if err != nil {
			return nil, err
		}
		list[i] = one
	}
	return encode(list)
}

// Refuse implements [Dialect].
func (syncano) Refuse(p *Problem) (*Answer, error) {
	if len(p.Errors) == 0 {
		return refuse(p.Status, mediaJSON, syncanoDetail{p.Detail})
	}
	n := p.Items
	for _, fault := range p.Errors {
		if fault.Index == nil {
			return refuse(p.Status, mediaJSON, syncanoDetail{fault.sentence()})
		}
		n = max(n, *fault.Index+1) // the item was not read to its end
	}
	items := make([]map[string][]string, n)
	for i := range items {
		items[i] = map[string][]string{}
	}
	for _, fault := range p.Errors {
		field := "non_field_errors"
		// The pointer is /requests/<index>/<field>/…
		if parts := strings.Split(fault.Pointer, "/"); len(parts) > 3 {
			field = parts[3]
		}
		items[*fault.Index][field] = append(items[*fault.Index][field], fault.Detail)
	}
	return refuse(p.Status, mediaJSON, map[string]any{"requests": items})
}
