package dialect

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/batchd/batchd/internal/apikey"
	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/intake"
)

const mediaJSON = "application/json"

// errStop ends reading after a fault that makes the rest of the submission unreadable.
var errStop = errors.New("the submission is refused")

// reader reads a batch request of any dialect.
type reader struct {
	*intake.Reader
	request *Request
	sub     Submission
	// secret: every action carries a credential of the batch request.
	secret bool
	// places maps the JSON pointer of a part of an action to its JSON pointer in an
	// item, for parts that the dialect names differently or combines.
	places map[string]string
}

// decode reads the whole body with read.
func decode(r *Request, c Credentials, read func(*reader, *jsontext.Decoder) error) (*Submission, error) {
	d := &reader{Reader: intake.NewReader(), request: r, sub: Submission{Credentials: c}}
	d.Searched, d.Hold = c.searched(), r.Hold
	whole, err := d.Document(r.Body, func(dec *jsontext.Decoder) error { return read(d, dec) })
	if err != nil && !errors.Is(err, errStop) {
		return nil, err
	}
	d.Index = -1
	if whole && d.Clean() && len(d.sub.Actions) == 0 {
		d.Fault("", "there is nothing to do: expected at least one request")
	}
	if d.secret && !r.Sealed {
		d.Fault("", "the batch carries a credential, %s", intake.InClear)
	}
	if !d.Clean() {
		return nil, &InvalidError{InvalidError: d.Invalid, Items: len(d.sub.Actions)}
	}
	return &d.sub, nil
}

// items reads the list of requests at the pointer with read.
func (d *reader) items(dec *jsontext.Decoder, pointer string, read func(dec *jsontext.Decoder, it *item) (bool, error)) error {
	_, err := d.List(dec, func() error {
		n := len(d.sub.Actions)
		if n == d.request.MaxActions {
			d.Index = -1
			d.Fault(pointer, "there are more than %d requests in the batch: at most %d are allowed", n, n)
			return errStop
		}
		if err := d.reserve(itemMemory); err != nil {
			return err
		}
		d.Index = n
		it := &item{reader: d, base: pointer + "/" + strconv.Itoa(n), before: len(d.Invalid.Faults)}
		ok, err := read(dec, it)
		if err != nil {
			return err
		}
		if ok {
			it.check()
		}
		d.Index = -1
		if !d.Clean() {
			if it.before == 0 { // nothing of them is needed any more, except their number
				clear(d.sub.Actions)
				clear(d.sub.IDs)
			}
			d.sub.Actions, d.sub.IDs = append(d.sub.Actions, batch.Action{}), append(d.sub.IDs, nil)
			return nil
		}
		d.sub.Actions, d.sub.IDs = append(d.sub.Actions, it.action), append(d.sub.IDs, it.id)
		return d.reserve(int64(len(it.action.Query) + cap(it.action.Headers)*int(unsafe.Sizeof(batch.Field{}))))
	})
	return err
}

// itemMemory is what is kept of an item beside its texts, for which the document counts.
const itemMemory = 1 << 10

// reserve accounts for bytes that are kept to the end of the submission.
func (d *reader) reserve(bytes int64) error {
	if d.request.Reserve == nil {
		return nil
	}
	return d.request.Reserve(bytes)
}

// item is one request of a batch while the reader reads it.
type item struct {
	*reader
	action batch.Action
	id     json.RawMessage
	// base is the item's pointer, before the number of faults when it began.
	base   string
	before int
}

// check adds the faults that depend on the whole action.
func (it *item) check() {
	place := func(pointer string) string {
		part, _, _ := strings.Cut(pointer[1:], "/")
		if place, ok := it.places["/"+part]; ok {
			return place
		}
		return pointer
	}
	it.Check(&it.action, it.base, it.before, place)
	it.CheckTarget(it.request.Target, &it.action, it.base, place)
}

// method reads the method, in any case. It must be one of those allowed.
func (it *item) method(dec *jsontext.Decoder, allowed ...string) error {
	return it.Text(dec, func(s string) error {
		if it.action.Method = intake.CanonicalMethod(s); !slices.Contains(allowed, it.action.Method) {
			return fmt.Errorf("unknown method %q: expected one of %s", intake.Clip(s), strings.Join(allowed, ", "))
		}
		return nil
	})
}

// pathAndQuery reads a path that may contain a query.
func (it *item) pathAndQuery(dec *jsontext.Decoder) error {
	return it.Text(dec, func(s string) error {
		intake.SetURL(&it.action, s)
		return nil
	})
}

// json reads any JSON value as the body. Null means no body.
func (it *item) json(dec *jsontext.Decoder) error {
	if dec.PeekKind() == jsontext.KindNull {
		return dec.SkipValue()
	}
	body, ok, err := it.JSON(dec, nil, it.request.MaxActionBody)
	if ok {
		it.keep(dec, body)
	}
	return err
}

// keep sets the body to the value that the decoder has just read.
func (it *item) keep(dec *jsontext.Decoder, body []byte) {
	it.CheckBody(body, it.request.MaxActionBody, it.Prefix, string(dec.StackPointer()))
	it.action.Body = body
}

// send adds a header, unless it is empty or the item already has one with that name.
func (it *item) send(name, value string) {
	if _, own := it.action.Header(name); value != "" && !own {
		it.action.Headers = append(it.action.Headers, batch.Field{Name: name, Value: value})
	}
}

// credential checks a credential of the batch request before it is added to every
// action as a header.
func (d *reader) credential(pointer, name, value string) {
	if apikey.InValue(value) {
		d.Fault(pointer, "the %s is a key of batchd, which is never sent to a target: send the key in X-Batchd-Key", name)
		return
	}
	probe := batch.Action{Method: http.MethodGet, Path: "/", Headers: []batch.Field{{Name: name, Value: value}}}
	for _, fault := range probe.Validate() {
		d.Fault(pointer, "%s", fault.Detail)
	}
}

// sendsBody reports whether a request with that method has content.
func sendsBody(method string) bool {
	return method == http.MethodPost || method == http.MethodPut || method == http.MethodPatch
}
