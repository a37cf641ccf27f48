package api

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/batchd/batchd/internal/batch"
)

const (
	// maxFaults is how many faults an answer lists; the rest is counted.
	maxFaults = 100
	// maxDepth is how deep an action's body may be nested. Deeper documents
	// break parsers, and nothing that is meant seriously comes near it.
	maxDepth = 100
	// envelopeSize is what an action may take beside its body: more than the
	// largest headers, path and query that pass validation.
	envelopeSize = 4 << 20
)

var (
	batchFields   = []string{"target", "actions", "webhook", "expires_in", "retention", "metadata"}
	webhookFields = []string{"url"}

	// errStop ends reading after a fault behind which nothing can be made sense of.
	errStop = errors.New("the submission is refused")
)

// rules are what a decoder asks of a submission.
type rules struct {
	limits  Limits
	targets []string
	// fixed is the target of the endpoint, empty where the submission chooses.
	fixed string
	// webhooks says that there is a secret to sign them with.
	webhooks             bool
	allowPrivateWebhooks bool
	sealed               bool
	// authorization is added to every action that has none.
	authorization string
}

// decoder reads one submission. It hands every good action on as long as there
// is no fault, and collects all faults.
type decoder struct {
	rules
	// stage takes an action that it may not keep. Its error ends reading.
	stage func(*batch.Action) error

	spec    batch.Spec
	invalid batch.InvalidError
	// index is that of the action being read, or -1 outside of actions.
	index int
	count int
	// ids holds the id of every action, the implied ones included, since a
	// result is known by either.
	ids    map[string]int
	action batch.Action
	buf    []byte // memory of action.Body
}

func newDecoder(r rules, stage func(*batch.Action) error) *decoder {
	return &decoder{
		rules: r, stage: stage, index: -1, ids: make(map[string]int),
		spec: batch.Spec{ExpiresIn: r.limits.ExpiresIn, Retention: r.limits.Retention},
	}
}

// maxItem is how many bytes of the submission one action may take. Six is how
// much longer a string gets when every byte of it is escaped.
func (d *decoder) maxItem() int64 { return 6*d.limits.MaxActionBody + envelopeSize }

// readJSON reads a submission in one JSON document, to the end of the body.
func (d *decoder) readJSON(b *body) (*batch.Spec, error) {
	src := &itemReader{src: bufio.NewReaderSize(b, 16<<10), span: d.maxItem()}
	dec := newJSONDecoder(src)
	whole, err := d.document(dec, src)
	if err == nil {
		src.mark = dec.InputOffset()
		switch _, end := dec.ReadToken(); {
		case errors.Is(end, io.EOF):
		case end != nil:
			err = end
		default:
			d.fault("", "there is more after the end of the document")
		}
	}
	switch {
	case src.exceeded:
		d.tooLong()
	case errors.Is(err, io.EOF):
		d.fault("", "the body is empty: expected a JSON object")
	case isSyntax(err):
		d.syntaxFault("", err)
	case err != nil && !errors.Is(err, errStop):
		return nil, err
	}
	return d.finish("/actions", whole && err == nil)
}

func newJSONDecoder(r io.Reader) *jsontext.Decoder {
	// Duplicate names are faults of their own, reported with all others.
	return jsontext.NewDecoder(r, jsontext.AllowDuplicateNames(true))
}

// document reports whether there was an object, read to its end.
func (d *decoder) document(dec *jsontext.Decoder, src *itemReader) (bool, error) {
	return d.object(dec, batchFields, func(name string) error {
		src.mark = dec.InputOffset()
		switch name {
		case "target":
			return d.option(dec, d.setTarget)
		case "expires_in":
			return d.option(dec, d.setExpiresIn)
		case "retention":
			return d.option(dec, d.setRetention)
		case "webhook":
			_, err := d.object(dec, webhookFields, func(string) error { return d.option(dec, d.setWebhook) })
			return err
		case "metadata":
			_, err := d.object(dec, nil, func(key string) error {
				return d.option(dec, func(value string) error { return d.setMetadata(key, value) })
			})
			return err
		default:
			return d.actions(dec, src)
		}
	})
}

func (d *decoder) actions(dec *jsontext.Decoder, src *itemReader) error {
	if ok, err := d.expect(dec, jsontext.KindBeginArray); !ok {
		return err
	}
	if _, err := dec.ReadToken(); err != nil {
		return err
	}
	for dec.PeekKind() != jsontext.KindEndArray {
		if d.full("/actions") {
			return errStop
		}
		d.index = d.count
		src.mark = dec.InputOffset()
		if err := d.readAction(dec, "/actions/"+strconv.Itoa(d.index)); err != nil {
			return err
		}
		d.count++
		d.index = -1
	}
	_, err := dec.ReadToken()
	return err
}

// full faults the action that would be one too many.
func (d *decoder) full(pointer string) bool {
	if d.count < d.limits.MaxActions {
		return false
	}
	d.fault(pointer, "too many actions: at most %d are allowed", d.limits.MaxActions)
	return true
}

// finish returns what was read, or all faults. Actions is the pointer of the
// list of actions. What is missing is a fault only if the whole submission was read.
func (d *decoder) finish(actions string, whole bool) (*batch.Spec, error) {
	d.index = -1
	if whole {
		if d.count == 0 && !d.faulted("/actions") {
			d.fault(actions, "there are no actions: expected at least one")
		}
		if d.spec.Target == "" && !d.faulted("/target") {
			d.chooseTarget()
		}
	}
	if !d.clean() {
		return nil, &d.invalid
	}
	return &d.spec, nil
}

// faulted reports whether a field of the batch has a fault already.
func (d *decoder) faulted(pointer string) bool {
	return slices.ContainsFunc(d.invalid.Faults, func(f batch.Fault) bool { return f.Pointer == pointer })
}

func (d *decoder) clean() bool { return len(d.invalid.Faults) == 0 }

// fault records a fault of the action being read, or of the batch.
func (d *decoder) fault(pointer, format string, args ...any) {
	if len(d.invalid.Faults) == maxFaults {
		d.invalid.More++
		return
	}
	d.invalid.Faults = append(d.invalid.Faults, batch.Fault{Index: d.index, Pointer: clipPointer(pointer), Detail: fmt.Sprintf(format, args...)})
}

// faultHere records a fault of the value that the decoder read the name of, or read last.
func (d *decoder) faultHere(dec *jsontext.Decoder, format string, args ...any) {
	d.fault(string(dec.StackPointer()), format, args...)
}

func (d *decoder) tooLong() {
	pointer := ""
	if d.index >= 0 {
		pointer = "/actions/" + strconv.Itoa(d.index)
	}
	d.fault(pointer, "more than %d bytes without an end: reading stopped here", d.maxItem())
}

func isSyntax(err error) bool {
	var syntax *jsontext.SyntacticError
	return errors.As(err, &syntax)
}

func (d *decoder) syntaxFault(what string, err error) {
	var syntax *jsontext.SyntacticError
	if !errors.As(err, &syntax) {
		return
	}
	reason := "it ends too early"
	if !errors.Is(syntax.Err, io.ErrUnexpectedEOF) {
		reason = syntax.Err.Error()
	}
	d.fault(string(syntax.JSONPointer), "not valid JSON at byte %d%s: %s", syntax.ByteOffset, what, reason)
}

// object reads an object and calls member after each name, to read its value.
// With fields, no other names are allowed; without, any name is. The result is
// false where the value is no object.
func (d *decoder) object(dec *jsontext.Decoder, fields []string, member func(name string) error) (bool, error) {
	if ok, err := d.expect(dec, jsontext.KindBeginObject); !ok {
		return false, err
	}
	if _, err := dec.ReadToken(); err != nil {
		return false, err
	}
	seen := make(map[string]struct{}, len(fields))
	for dec.PeekKind() != jsontext.KindEndObject {
		token, err := dec.ReadToken()
		if err != nil {
			return false, err
		}
		name := token.String()
		_, twice := seen[name]
		seen[name] = struct{}{}
		switch {
		case twice:
			d.faultHere(dec, "the field %q is there twice", clip(name))
			err = dec.SkipValue()
		case fields != nil && !slices.Contains(fields, name):
			d.faultHere(dec, "%s", unknownField(name, fields))
			err = dec.SkipValue()
		default:
			err = member(name)
		}
		if err != nil {
			return false, err
		}
	}
	_, err := dec.ReadToken()
	return err == nil, err
}

func unknownField(name string, fields []string) string {
	for _, f := range fields {
		if strings.EqualFold(f, name) {
			return fmt.Sprintf("unknown field %q: it is spelt %q", clip(name), f)
		}
	}
	return fmt.Sprintf("unknown field %q: expected one of %s", clip(name), strings.Join(fields, ", "))
}

// expect reports whether the next value is of the kind. One of another kind is
// a fault and is skipped. Where there is no next value, the error says why.
func (d *decoder) expect(dec *jsontext.Decoder, want jsontext.Kind) (bool, error) {
	found := dec.PeekKind()
	if found == want {
		return true, nil
	}
	err := dec.SkipValue()
	if err == nil {
		d.faultHere(dec, "expected %s, found %s", kindName(want), kindName(found))
	}
	return false, err
}

// text reads a string. Anything else is a fault, for which ok is false.
func (d *decoder) text(dec *jsontext.Decoder) (s string, ok bool, err error) {
	if ok, err = d.expect(dec, jsontext.KindString); !ok {
		return "", false, err
	}
	token, err := dec.ReadToken()
	if err != nil {
		return "", false, err
	}
	return token.String(), true, nil
}

// option reads a string and sets something with it.
func (d *decoder) option(dec *jsontext.Decoder, set func(string) error) error {
	s, ok, err := d.text(dec)
	if !ok {
		return err
	}
	if err := set(s); err != nil {
		d.faultHere(dec, "%v", err)
	}
	return nil
}

func kindName(k jsontext.Kind) string {
	switch k {
	case jsontext.KindNull:
		return "null"
	case jsontext.KindTrue, jsontext.KindFalse:
		return "a boolean"
	case jsontext.KindString:
		return "a string"
	case jsontext.KindNumber:
		return "a number"
	case jsontext.KindBeginObject:
		return "an object"
	case jsontext.KindBeginArray:
		return "a list"
	default:
		return "something else"
	}
}

// clipPointer points to the parent of what is nested or named beyond measure,
// because a pointer grows with the depth and the names of the document.
func clipPointer(pointer string) string {
	const most = 512
	if len(pointer) <= most {
		return pointer
	}
	return pointer[:max(0, strings.LastIndexByte(pointer[:most], '/'))]
}

// clip keeps foreign text in a message short.
func clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
