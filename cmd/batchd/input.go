package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/batchd/batchd/internal/intake"
)

// The formats of a submission.
const (
	formatAuto   = "auto"
	formatJSON   = "json"
	formatNDJSON = "ndjson"
	formatCSV    = "csv"
)

// maxLine is the longest line of NDJSON that batchd reads.
const maxLine = 64 << 20

// sniffed is how many bytes of an input are examined to detect its format.
const sniffed = 64 << 10

// places holds the line on which each action began, four bytes per action.
type places struct{ lines []uint32 }

func (p *places) add(line int) {
	p.lines = append(p.lines, uint32(line)) //nolint:gosec // a file of more than 4 billion lines has too many actions
}

// line returns the line of an action, or 0 if it is unknown.
func (p *places) line(index int) int {
	if index < 0 || index >= len(p.lines) {
		return 0
	}
	return int(p.lines[index])
}

// detectFormat uses the extension of the file, or else the start of the input.
func detectFormat(name string, in *bufio.Reader) string {
	extension := strings.ToLower(filepath.Ext(name))
	switch extension {
	case ".ndjson", ".jsonl":
		return formatNDJSON
	case ".csv", ".tsv":
		return formatCSV
	}
	start, _ := in.Peek(sniffed) // reading repeats the error
	start = intake.TrimLeftBlank(start)
	switch {
	case bytes.HasPrefix(start, []byte("[")):
		return formatJSON
	case extension == ".json" && !bytes.HasPrefix(start, []byte("{")):
		return formatJSON // the error then names the line
	case len(start) == 0:
		return formatNDJSON // no actions, which the server refuses
	case !bytes.HasPrefix(start, []byte("{")):
		return formatCSV
	}
	// The first line shows whether this is one action per line or a document: a complete
	// object without "actions" is an action.
	line, _, _ := bytes.Cut(start, []byte("\n"))
	_, line = intake.TrimBlank(line)
	if jsontext.Value(line).IsValid() && !hasMember(line, "actions") {
		return formatNDJSON
	}
	return formatJSON
}

func hasMember(object []byte, name string) bool {
	dec := jsontext.NewDecoder(bytes.NewReader(object))
	if _, err := dec.ReadToken(); err != nil {
		return false
	}
	for dec.PeekKind() == '"' {
		key, err := dec.ReadToken()
		if err != nil {
			return false
		}
		if key.String() == name {
			return true
		}
		if dec.SkipValue() != nil {
			return false
		}
	}
	return false
}

// checkEncoding drops a byte order mark, which Windows programs write, and refuses
// input in another encoding than UTF-8.
func checkEncoding(name string, in *bufio.Reader) error {
	const looked = 1 << 10
	start, _ := in.Peek(looked) // reading repeats the error
	if encoding := intake.OtherEncoding(start); encoding != "" {
		return fmt.Errorf("%s: %s", name, intake.NotInUTF8(encoding))
	}
	_, _ = in.Discard(len(start) - len(intake.CutMark(start))) // they are in the buffer
	return nil
}

// readNDJSON yields the lines of the input that are not blank, after checking them.
func readNDJSON(name string, in *bufio.Reader, at *places) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for number := 1; ; number++ {
			line, err := readLine(in)
			end := errors.Is(err, io.EOF)
			switch {
			case errors.Is(err, errLineTooLong):
				yield(nil, fmt.Errorf("%s:%d: %w", name, number, err))
				return
			case err != nil && !end:
				yield(nil, fmt.Errorf("read %s: %w", name, err))
				return
			}
			if blanks, line := intake.TrimBlank(line); len(line) > 0 {
				if err := checkLine(line, blanks); err != nil {
					yield(nil, fmt.Errorf("%s:%d%w", name, number, err))
					return
				}
				at.add(number)
				if !yield(append(line, '\n'), nil) {
					return
				}
			}
			if end {
				return
			}
		}
	}
}

var errLineTooLong = fmt.Errorf("the line has more than %d MiB", maxLine>>20)

// readLine returns the next line, which the caller may keep.
func readLine(in *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		chunk, err := in.ReadSlice('\n')
		line = append(line, chunk...)
		if len(line) > maxLine {
			return nil, errLineTooLong
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

// checkLine returns the fault of a line, with a colon and, if possible, the column in
// front. Blanks is the number of blanks trimmed in front of the action.
func checkLine(line []byte, blanks int) error {
	switch isObject := line[0] == '{'; {
	case isObject && jsontext.Value(line).IsValid():
		return nil
	case !isObject && !intake.HasMark(line) && utf8.Valid(line) && line[0] != 0:
		return fmt.Errorf(": expected an action, which is a JSON object, not %s", visible(clip(string(line))))
	}
	dec := jsontext.NewDecoder(bytes.NewReader(line))
	if _, err := dec.ReadValue(); err != nil {
		column := ""
		if offset, ok := syntaxOffset(err); ok {
			column = fmt.Sprintf(":%d", int64(blanks)+offset+1)
		}
		return fmt.Errorf("%s: %w", column, jsonCause(err))
	}
	return errors.New(": there is something after the JSON object: write one action a line")
}

// syntaxOffset returns the offset of a JSON fault. There is none if the JSON ends too
// early or has a duplicate name.
func syntaxOffset(err error) (int64, bool) {
	syntax, ok := errors.AsType[*jsontext.SyntacticError](err)
	if !ok || isCut(err) || errors.Is(err, jsontext.ErrDuplicateName) {
		return 0, false
	}
	return syntax.ByteOffset, true
}

func isCut(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) }

// jsonCause describes a JSON fault without its offset, because the caller gives line
// and column.
func jsonCause(err error) error {
	syntax, ok := errors.AsType[*jsontext.SyntacticError](err)
	switch {
	case isCut(err):
		return errors.New("the JSON ends too early")
	case !ok:
		return err
	case syntax.JSONPointer != "":
		return fmt.Errorf("%s at %s", intake.SyntaxReason(syntax), intake.ClipPointer(string(syntax.JSONPointer)))
	}
	return errors.New(intake.SyntaxReason(syntax))
}

// chunkReader reads the chunks that an iterator yields. The owner closes it.
type chunkReader struct {
	next func() ([]byte, error, bool)
	stop func()
	rest []byte
}

func newChunkReader(chunks iter.Seq2[[]byte, error]) *chunkReader {
	next, stop := iter.Pull2(chunks)
	return &chunkReader{next: next, stop: stop}
}

// Read implements [io.Reader].
func (r *chunkReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		chunk, err, ok := r.next()
		if !ok {
			return 0, io.EOF
		}
		if err != nil {
			return 0, err
		}
		r.rest = chunk
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// Close releases the iterator.
func (r *chunkReader) Close() { r.stop() }
