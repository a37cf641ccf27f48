package intake

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/batchd/batchd/internal/batch"
)

// MaxFaults is the most faults that an answer lists. Further faults are only counted.
const MaxFaults = 100

// maxMembers is the most members of an object, and the most values of a list within an
// action, that are kept in memory. An action that is valid has fewer: its headers are
// counted, and its path and query have a longest length.
const maxMembers = 10_000

// maxName is the most bytes of a member's name. The name of a header or of a parameter of
// a query is shorter in an action that is valid. The pointer of each fault below a name
// repeats it.
const maxName = batch.MaxHeaderLength

// Reader reads JSON and collects its faults.
type Reader struct {
	// Invalid holds the faults so far.
	Invalid batch.InvalidError
	// Index is the index of the present action, or -1 outside of actions.
	Index int
	// Skipped is the number of bytes before the text of a decoder, for the offsets of
	// faults: those of a byte order mark, and of blanks on a line.
	Skipped int64
	// Prefix is added in front of the decoder's pointers, if the decoder reads only a
	// part of the document.
	Prefix string
	// Searched are headers in which no key of batchd was found. Check does not search them again in every action.
	Searched []batch.Field
	// Hold accounts for the memory that a check of one value needs beside the value. Its
	// error ends reading. Nil accounts for nothing.
	Hold func(bytes int64) error

	// ids holds the explicit ids of actions. The id of any other action is its index:
	// bare holds these indexes, in ascending order.
	ids  map[string]int
	bare []span
}

// span is the range of indexes from one up to, but without, another.
type span struct{ from, to int }

// NewReader returns a reader outside of actions.
func NewReader() *Reader { return &Reader{Index: -1, ids: make(map[string]int)} }

// NewDecoder returns a decoder for a Reader's methods.
func NewDecoder(r io.Reader) *jsontext.Decoder {
	// The Reader reports duplicate names itself, together with all other faults.
	return jsontext.NewDecoder(r, jsontext.AllowDuplicateNames(true))
}

// Clean reports whether there is no fault so far.
func (r *Reader) Clean() bool { return len(r.Invalid.Faults) == 0 }

// Fault records a fault of the present action, or of the batch.
func (r *Reader) Fault(pointer, format string, args ...any) {
	if r.onlyCounts() {
		return
	}
	r.Invalid.Faults = append(r.Invalid.Faults, batch.Fault{Index: r.Index, Pointer: ClipPointer(pointer), Detail: fmt.Sprintf(format, args...)})
}

// onlyCounts counts a fault and reports true if the list of faults is full. Callers ask
// before they make the pointer of a fault, which is as long as the names on its way.
func (r *Reader) onlyCounts() bool {
	if len(r.Invalid.Faults) < MaxFaults {
		return false
	}
	r.Invalid.More++
	return true
}

// FaultHere records a fault of the decoder's present value: the value of the last name,
// or the last value.
func (r *Reader) FaultHere(dec *jsontext.Decoder, format string, args ...any) {
	if !r.onlyCounts() {
		r.Fault(r.Prefix+string(dec.StackPointer()), format, args...)
	}
}

// faultAround records a fault of the list or object that the decoder's present value is in.
func (r *Reader) faultAround(dec *jsontext.Decoder, format string, args ...any) {
	if !r.onlyCounts() {
		r.Fault(r.Prefix+string(dec.StackPointer().Parent()), format, args...)
	}
}

// SyntaxFault records an error for which [IsSyntax] is true. What describes the text in
// which the offset counts, such as " of the line".
func (r *Reader) SyntaxFault(what string, err error) {
	var syntax *jsontext.SyntacticError
	if !errors.As(err, &syntax) {
		return
	}
	r.Fault(string(syntax.JSONPointer), "not valid JSON at byte %d%s: %s", syntax.ByteOffset+r.Skipped, what, SyntaxReason(syntax))
}

// SyntaxReason describes a JSON syntax error without its place.
func SyntaxReason(syntax *jsontext.SyntacticError) string {
	switch reason := syntax.Err.Error(); {
	case errors.Is(syntax.Err, io.ErrUnexpectedEOF):
		return "it ends too early"
	case strings.Contains(reason, `'\ufeff'`):
		return MarkInside
	case strings.Contains(reason, `'\xff'`), strings.Contains(reason, `'\xfe'`), strings.Contains(reason, `'\x00'`):
		return reason + ": text in UTF-16 has such bytes, which begins here if it was appended to this text: save all of it as UTF-8"
	case strings.Contains(reason, "exceeded max depth"):
		return fmt.Sprintf("it is nested more than 10000 levels deep: at most %d are allowed", batch.MaxDepth)
	default:
		return reason
	}
}

// Begin skips a byte order mark at the start of a text, and adds a fault for text in
// another encoding. It reports whether the text can be read.
func (r *Reader) Begin(text *bufio.Reader) bool {
	const looked = 16
	start, _ := text.Peek(looked) // reading repeats the error
	if encoding := OtherEncoding(start); encoding != "" {
		r.Fault("", "%s", NotInUTF8(encoding))
		return false
	}
	if HasMark(start) {
		n, _ := text.Discard(len(byteOrderMark)) // they are in the buffer
		r.Skipped = int64(n)
	}
	return true
}

// IsSyntax reports whether an error means that a text is not JSON.
func IsSyntax(err error) bool {
	var syntax *jsontext.SyntacticError
	return errors.As(err, &syntax)
}

// Document reads a whole document with read. It reports whether the whole document is
// JSON. An error that is not a syntax error comes from read.
func (r *Reader) Document(document []byte, read func(*jsontext.Decoder) error) (bool, error) {
	if encoding := OtherEncoding(document); encoding != "" {
		r.Fault("", "%s", NotInUTF8(encoding))
		return false, nil
	}
	text := CutMark(document)
	r.Skipped = int64(len(document) - len(text))
	dec := NewDecoder(bytes.NewBuffer(text))
	err := read(dec)
	if err == nil {
		switch _, end := dec.ReadToken(); {
		case errors.Is(end, io.EOF):
		case end != nil:
			err = end
		default:
			r.Fault("", "there is more after the end of the document")
			return false, nil
		}
	}
	switch {
	case errors.Is(err, io.EOF):
		r.Fault("", "the body is empty: expected JSON")
	case IsSyntax(err):
		r.Index = -1
		r.SyntaxFault("", err)
	default:
		return err == nil, err
	}
	return false, nil
}

// Object reads an object and calls member after each name, to read its value. With
// fields, other names are faults; without, all names are allowed. The result is false
// if the value is not an object.
func (r *Reader) Object(dec *jsontext.Decoder, fields []string, member func(name string) error) (bool, error) {
	if ok, err := r.Expect(dec, jsontext.KindBeginObject); !ok {
		return false, err
	}
	if _, err := dec.ReadToken(); err != nil {
		return false, err
	}
	var seen names
	for n := 0; dec.PeekKind() != jsontext.KindEndObject; n++ {
		if n >= maxMembers {
			if n == maxMembers {
				r.faultAround(dec, "the object has more than %d members", maxMembers)
			}
			for range 2 { // the name and the value
				if err := dec.SkipValue(); err != nil {
					return false, err
				}
			}
			continue
		}
		name, known, err := readName(dec, fields)
		if err != nil {
			return false, err
		}
		switch {
		case len(name) > maxName:
			r.faultAround(dec, "the name %q has %d bytes: at most %d are allowed", Clip(name), len(name), maxName)
			err = dec.SkipValue()
		case seen.twice(name, known):
			r.FaultHere(dec, "the field %q appears twice", Clip(name))
			err = dec.SkipValue()
		case fields != nil && known < 0:
			r.FaultHere(dec, "%s", unknownField(name, fields))
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

// readName reads the name of a member. It also returns the index of the name in fields,
// or -1.
func readName(dec *jsontext.Decoder, fields []string) (name string, known int, err error) {
	raw, err := dec.ReadValue()
	if err != nil {
		return "", 0, err
	}
	text := []byte(raw[1 : len(raw)-1])
	if bytes.IndexByte(text, '\\') >= 0 {
		if text, err = jsontext.AppendUnquote(nil, raw); err != nil {
			return "", 0, err
		}
	}
	for i, field := range fields {
		if string(text) == field {
			return field, i, nil
		}
	}
	return string(text), -1, nil
}

// names records the names of an object's members.
type names struct {
	known  uint64 // the fields that were read, as bits
	others map[string]struct{}
}

// twice records a name, and reports whether it is a duplicate.
func (n *names) twice(name string, known int) bool {
	if known >= 0 && known < 64 {
		bit := uint64(1) << known
		was := n.known&bit != 0
		n.known |= bit
		return was
	}
	_, was := n.others[name]
	if n.others == nil {
		n.others = make(map[string]struct{})
	}
	n.others[name] = struct{}{}
	return was
}

func unknownField(name string, fields []string) string {
	for _, f := range fields {
		if strings.EqualFold(f, name) {
			return fmt.Sprintf("unknown field %q: it is spelt %q", Clip(name), f)
		}
	}
	return fmt.Sprintf("unknown field %q: expected one of %s", Clip(name), strings.Join(fields, ", "))
}

// List reads a list and calls item before each value, to read it. The result is false
// if the value is not a list.
func (r *Reader) List(dec *jsontext.Decoder, item func() error) (bool, error) {
	if ok, err := r.Expect(dec, jsontext.KindBeginArray); !ok {
		return false, err
	}
	if _, err := dec.ReadToken(); err != nil {
		return false, err
	}
	for dec.PeekKind() != jsontext.KindEndArray {
		if err := item(); err != nil {
			return false, err
		}
	}
	_, err := dec.ReadToken()
	return err == nil, err
}

// OneOrMany calls read for a value, or for each value of a list.
func (r *Reader) OneOrMany(dec *jsontext.Decoder, read func() error) error {
	if dec.PeekKind() != jsontext.KindBeginArray {
		return read()
	}
	n := 0
	_, err := r.List(dec, func() error {
		if n++; n <= maxMembers {
			return read()
		}
		if n == maxMembers+1 {
			r.faultAround(dec, "the list has more than %d values", maxMembers)
		}
		return dec.SkipValue()
	})
	return err
}

// Expect reports whether the next value is of the kind. It skips a value of another
// kind and adds a fault. If there is no next value, it returns an error.
func (r *Reader) Expect(dec *jsontext.Decoder, want jsontext.Kind) (bool, error) {
	found := dec.PeekKind()
	if found == want {
		return true, nil
	}
	err := dec.SkipValue()
	if err == nil {
		r.FaultHere(dec, "expected %s, found %s", kindName(want), kindName(found))
	}
	return false, err
}

// Text reads a string and passes it to set. An error of set becomes a fault, and so
// does a value that is not a string.
func (r *Reader) Text(dec *jsontext.Decoder, set func(string) error) error {
	if ok, err := r.Expect(dec, jsontext.KindString); !ok {
		return err
	}
	token, err := dec.ReadToken()
	if err != nil {
		return err
	}
	if err := set(token.String()); err != nil {
		r.FaultHere(dec, "%v", err)
	}
	return nil
}

// Scalar reads a string, a number or a boolean as text.
func (r *Reader) Scalar(dec *jsontext.Decoder, set func(string)) error {
	switch found := dec.PeekKind(); found {
	case jsontext.KindString, jsontext.KindNumber, jsontext.KindTrue, jsontext.KindFalse:
		token, err := dec.ReadToken()
		if err == nil {
			set(token.String())
		}
		return err
	default:
		err := dec.SkipValue()
		if err == nil {
			r.FaultHere(dec, "expected a string, a number, a boolean or a list of those, found %s", kindName(found))
		}
		return err
	}
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

// ClipPointer shortens the pointer to a deeply nested or long-named value to one of its
// parents, because a pointer grows with the depth and the names of the document.
func ClipPointer(pointer string) string {
	const most = 512
	if len(pointer) <= most {
		return pointer
	}
	return strings.Clone(pointer[:max(0, strings.LastIndexByte(pointer[:most], '/'))]) // the rest may be large
}

// Clip keeps foreign text in a message short.
func Clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
