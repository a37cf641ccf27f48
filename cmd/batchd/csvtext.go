package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"

	"github.com/batchd/batchd/internal/intake"
)

// maxRow is the longest row of CSV that batchd reads. The bound matters for an open
// quote, which takes in all the text after it.
const maxRow = maxLine

// csvText reads CSV for a [csv.Reader], which changes some text and accepts some faulty
// text. csvText keeps a line end CRLF within quotes. It returns an error of the type
// [textError] for text that is not UTF-8, zero bytes, a quote without an end, and a
// byte order mark in front of a row.
type csvText struct {
	in    *bufio.Reader
	comma rune

	line, column int // of the next byte, from 1
	field        int // of the row, from 0
	quoted       bool
	opened       intake.TextPlace // position of the last opening quote
	last         rune
	row, most    int // bytes of the row so far, and the most allowed
	err          error
}

func newCSVText(in *bufio.Reader, comma rune) *csvText {
	return &csvText{in: in, comma: comma, line: 1, column: 1, most: maxRow}
}

// textError is a fault of a text, with its position.
type textError struct {
	at     intake.TextPlace
	field  int // of the row, from 0
	detail string
}

// Error implements error.
func (e *textError) Error() string { return fmt.Sprintf("%d:%d: %s", e.at.Line, e.at.Column, e.detail) }

// Read implements [io.Reader].
func (t *csvText) Read(p []byte) (int, error) {
	const longest = 5 // a character, with a CR in front of it
	n := 0
	for t.err == nil && n+longest <= len(p) && (n == 0 || t.in.Buffered() > 0) {
		if k := t.copyPlain(p[n:]); k > 0 {
			n += k
			continue
		}
		var added []byte
		added, t.err = t.next(p[n:n])
		n += len(added)
	}
	if n > 0 {
		return n, nil
	}
	return 0, t.err
}

// copyPlain copies buffered characters that need no check, which most are: ASCII within
// a line, without quotes. It returns their number.
func (t *csvText) copyPlain(to []byte) int {
	read, _ := t.in.Peek(min(t.in.Buffered(), len(to), t.most-t.row)) // they are in the buffer
	n := bytes.IndexFunc(read, func(r rune) bool { return r < ' ' || r > '~' || r == '"' })
	if n < 0 {
		n = len(read)
	}
	if n == 0 || t.last == '\r' {
		return 0
	}
	n, _ = t.in.Discard(copy(to, read[:n]))
	if !t.quoted {
		t.field += bytes.Count(to[:n], []byte(string(t.comma)))
	}
	t.last = rune(to[n-1])
	t.row += n
	t.column += n
	return n
}

// next appends the next character, in the form for csv.Reader.
func (t *csvText) next(to []byte) ([]byte, error) {
	r, size, err := t.in.ReadRune()
	switch {
	case errors.Is(err, io.EOF) && t.quoted:
		return nil, &textError{t.opened, t.field, "the quote that opens here has no end: a quote within a quoted value is written twice"}
	case err != nil:
		return nil, err
	}
	if err := t.check(r, size); err != nil {
		return nil, err
	}
	switch {
	case r == '"':
		if t.quoted = !t.quoted; t.quoted {
			t.opened = intake.TextPlace{Line: t.line, Column: t.column}
		}
	case r == t.comma && !t.quoted:
		t.field++
	case r == '\n' && t.last == '\r' && t.quoted:
		to = append(to, '\r') // csv.Reader drops one CR in front of every line end
	}
	t.last = r
	t.row += size
	t.column += size
	if r == '\n' {
		t.line, t.column = t.line+1, 1
		if !t.quoted {
			t.row, t.field = 0, 0
		}
	}
	return append(to, string(r)...), nil
}

func (t *csvText) check(r rune, size int) error {
	fault := func(format string, args ...any) error {
		return &textError{intake.TextPlace{Line: t.line, Column: t.column}, t.field, fmt.Sprintf(format, args...)}
	}
	switch {
	case r == '\ufffd' && size == 1:
		_ = t.in.UnreadRune() // a rune was just read
		bad, err := t.in.ReadByte()
		if err != nil {
			return err
		}
		return fault("the byte 0x%02x is not UTF-8: save the file as UTF-8", bad)
	case r == 0:
		return fault("there is a zero byte here: expected text")
	case r == '\ufeff' && t.row == 0:
		return fault("%s", intake.MarkInside)
	case t.last == '\r' && r != '\n' && !t.quoted:
		return fault("a line ends before this with CR alone, as on old Macs: save the file with LF or CRLF")
	case t.row >= t.most && t.quoted:
		return &textError{t.opened, t.field, fmt.Sprintf("the row has more than %d MiB: the quote that opens here may have no end", t.most>>20)}
	case t.row >= t.most:
		return fault("the row has more than %d MiB", t.most>>20)
	}
	return nil
}

// separatorLine matches a first line that declares the delimiter for Excel.
var separatorLine = regexp.MustCompile(`^(?i:"?(sep=([^\r\n]?))"?)(\r?\n|\r|$)`)

// checkStart refuses a file whose first line is not a row.
func checkStart(name string, in *bufio.Reader) error {
	start, _ := in.Peek(16) // its error comes again on reading
	if found := separatorLine.FindSubmatch(start); found != nil {
		advice := "delete it"
		if len(found[2]) > 0 {
			advice += ", and use --delimiter " + shellQuoted(string(found[2]))
		}
		return fmt.Errorf("%s:1: the first line is %q, which is for Excel and no row: %s", name, found[1], advice)
	}
	return nil
}

// shellQuoted quotes a delimiter for a shell.
func shellQuoted(delimiter string) string {
	switch delimiter {
	case "\t":
		return "tab"
	case "'":
		return `"'"`
	}
	return "'" + delimiter + "'"
}
