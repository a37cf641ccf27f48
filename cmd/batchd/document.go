package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"

	"github.com/go-json-experiment/json/jsontext"
)

// member is an option that a flag sets, and its value in a document.
type member struct {
	name  string
	value any
}

// readDocument reads a document and yields its actions one by one, with the flags'
// options in place of the document's. It accepts a bare array of actions as a document.
func readDocument(name string, in io.Reader, options []member, at *places) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		d := &document{name: name, in: &lineCounter{in: in}, options: options, at: at}
		d.dec = jsontext.NewDecoder(d.in)
		d.emit = func(chunk []byte) error {
			if !yield(chunk, nil) {
				return errStopped
			}
			return nil
		}
		if err := d.copy(); err != nil && !errors.Is(err, errStopped) {
			yield(nil, err)
		}
	}
}

// errStopped: the caller stopped reading.
var errStopped = errors.New("stopped")

type document struct {
	name    string
	in      *lineCounter
	dec     *jsontext.Decoder
	options []member
	at      *places
	emit    func([]byte) error
	members int
}

func (d *document) copy() error {
	switch d.dec.PeekKind() {
	case '[':
		if err := d.emit([]byte("{")); err != nil {
			return err
		}
		if err := d.copyActions(); err != nil {
			return err
		}
	case '{':
		if err := d.copyObject(); err != nil {
			return err
		}
	default:
		if _, err := d.dec.ReadValue(); err != nil {
			return d.fault(err)
		}
		return fmt.Errorf("%s:%d: expected an object with \"actions\", or an array of actions", d.name, d.line())
	}
	for _, option := range d.options {
		if err := d.emitMember(option.name, option.value); err != nil {
			return err
		}
	}
	if err := d.emit([]byte("}\n")); err != nil {
		return err
	}
	if _, err := d.dec.ReadToken(); err == nil {
		return fmt.Errorf("%s:%d: there is something after the document: for one action a line, use --format ndjson", d.name, d.line())
	} else if !errors.Is(err, io.EOF) {
		return d.fault(err)
	}
	return nil
}

func (d *document) copyObject() error {
	if _, err := d.dec.ReadToken(); err != nil {
		return d.fault(err)
	}
	if err := d.emit([]byte("{")); err != nil {
		return err
	}
	for d.dec.PeekKind() != '}' {
		key, err := d.dec.ReadToken()
		if err != nil {
			return d.fault(err)
		}
		name := key.String()
		if name == "actions" && d.dec.PeekKind() == '[' {
			if err := d.copyActions(); err != nil {
				return err
			}
			continue
		}
		value, err := d.dec.ReadValue()
		if err != nil {
			return d.fault(err)
		}
		if err := d.copyMember(name, value); err != nil {
			return err
		}
	}
	if _, err := d.dec.ReadToken(); err != nil {
		return d.fault(err)
	}
	return nil
}

// copyMember copies a member that no flag sets. It merges metadata.
func (d *document) copyMember(name string, value jsontext.Value) error {
	i := slices.IndexFunc(d.options, func(o member) bool { return o.name == name })
	if i < 0 {
		return d.emitMember(name, json.RawMessage(value))
	}
	given, isMap := d.options[i].value.(map[string]string)
	if !isMap {
		return nil // the flag's value comes at the end
	}
	var merged map[string]json.RawMessage // null would leave the map nil
	if err := json.Unmarshal(value, &merged); err != nil || merged == nil {
		return fmt.Errorf("%s:%d: metadata is not an object", d.name, d.line())
	}
	for key, text := range given {
		merged[key] = json.RawMessage(quote(text, false))
	}
	d.options = slices.Concat(d.options[:i], d.options[i+1:])
	return d.emitMember(name, merged)
}

// copyActions copies the member "actions", whose array is the next value.
func (d *document) copyActions() error {
	if err := d.emitName("actions"); err != nil {
		return err
	}
	if _, err := d.dec.ReadToken(); err != nil {
		return d.fault(err)
	}
	separator := byte('[')
	for d.dec.PeekKind() != ']' {
		action, err := d.dec.ReadValue()
		if err != nil {
			return d.fault(err)
		}
		d.at.add(d.line() - bytes.Count(action, []byte{'\n'}))
		chunk := append(make([]byte, 0, len(action)+1), separator)
		if err := d.emit(append(chunk, action...)); err != nil {
			return err
		}
		separator = ','
	}
	if _, err := d.dec.ReadToken(); err != nil {
		return d.fault(err)
	}
	if separator == '[' {
		return d.emit([]byte("[]"))
	}
	return d.emit([]byte("]"))
}

func (d *document) emitName(name string) error {
	chunk := quote(name, false) + ":"
	if d.members > 0 {
		chunk = "," + chunk
	}
	d.members++
	return d.emit([]byte(chunk))
}

func (d *document) emitMember(name string, value any) error {
	if err := d.emitName(name); err != nil {
		return err
	}
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode %s: %w", name, err)
	}
	return d.emit(text)
}

// line returns the line that the decoder has reached.
func (d *document) line() int {
	return d.in.lines + 1 - bytes.Count(d.dec.UnreadBuffer(), []byte{'\n'})
}

func (d *document) fault(err error) error {
	if d.in.failed != nil {
		return fmt.Errorf("read %s: %w", d.name, d.in.failed)
	}
	line, column := d.line(), ""
	if syntax, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		unread := d.dec.UnreadBuffer()
		ahead := min(max(syntax.ByteOffset-d.dec.InputOffset(), 0), int64(len(unread)))
		line += bytes.Count(unread[:ahead], []byte{'\n'})
	}
	if offset, ok := syntaxOffset(err); ok {
		column = fmt.Sprintf(":%d", offset-d.in.lineStart(offset)+1)
	}
	return fmt.Errorf("%s:%d%s: %w", d.name, line, column, jsonCause(err))
}

// lineCounter counts the lines that are read through it.
type lineCounter struct {
	in     io.Reader
	lines  int
	failed error

	// read counts the bytes; starts holds the offsets of the latest line starts.
	read   int64
	starts []int64
}

// latestStarts is the least number of line starts to keep. A fault is always in the
// text that the decoder read last.
const latestStarts = 64 << 10

// lineStart returns the start of the line that contains the byte at an offset.
func (c *lineCounter) lineStart(offset int64) int64 {
	i, found := slices.BinarySearch(c.starts, offset)
	switch {
	case found:
		return offset
	case i == 0:
		return 0
	}
	return c.starts[i-1]
}

// Read implements [io.Reader].
func (c *lineCounter) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	c.lines += bytes.Count(p[:n], []byte{'\n'})
	for i, b := range p[:n] {
		if b == '\n' {
			c.starts = append(c.starts, c.read+int64(i)+1)
		}
	}
	if extra := len(c.starts) - latestStarts; extra > latestStarts {
		c.starts = slices.Delete(c.starts, 0, extra)
	}
	c.read += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		c.failed = err
	}
	return n, err
}
