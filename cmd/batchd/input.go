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

	"github.com/go-json-experiment/json/jsontext"
)

// The formats of a submission.
const (
	formatAuto   = "auto"
	formatJSON   = "json"
	formatNDJSON = "ndjson"
	formatCSV    = "csv"
)

// maxLine is the longest line of NDJSON that is read.
const maxLine = 64 << 20

// sniffed is how much of an input is looked at to tell its format.
const sniffed = 64 << 10

// places holds the line on which each action began, four bytes an action.
type places struct{ lines []uint32 }

func (p *places) add(line int) {
	p.lines = append(p.lines, uint32(line)) //nolint:gosec // a file of more than 4 billion lines has too many actions
}

// line returns the line of an action, or 0 if it is not known.
func (p *places) line(index int) int {
	if index < 0 || index >= len(p.lines) {
		return 0
	}
	return int(p.lines[index])
}

// detectFormat goes by the extension, or else by how the input begins.
func detectFormat(name string, in *bufio.Reader) string {
	extension := strings.ToLower(filepath.Ext(name))
	switch extension {
	case ".ndjson", ".jsonl":
		return formatNDJSON
	case ".csv", ".tsv":
		return formatCSV
	}
	start, _ := in.Peek(sniffed) // an error comes again on reading
	start = bytes.TrimLeft(start, " \t\r\n")
	switch {
	case bytes.HasPrefix(start, []byte("[")):
		return formatJSON
	case extension == ".json" && !bytes.HasPrefix(start, []byte("{")):
		return formatJSON // whose error names the line
	case len(start) == 0:
		return formatNDJSON // no actions, for the server to refuse
	case !bytes.HasPrefix(start, []byte("{")):
		return formatCSV
	}
	// An action a line, or a document: a line that is whole and has no "actions" is an action.
	line, _, _ := bytes.Cut(start, []byte("\n"))
	line = bytes.TrimSpace(line)
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

// skipBOM drops a byte order mark, which Windows programs write.
func skipBOM(in *bufio.Reader) {
	if start, _ := in.Peek(3); bytes.Equal(start, []byte("\xef\xbb\xbf")) {
		_, _ = in.Discard(3)
	}
}

// readNDJSON yields the lines of the input that are not blank, checked.
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
			if line = bytes.TrimSpace(line); len(line) > 0 {
				if err := checkLine(line); err != nil {
					yield(nil, fmt.Errorf("%s:%d: %w", name, number, err))
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

// readLine returns the next line, whose bytes are the caller's.
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

func checkLine(line []byte) error {
	if line[0] != '{' {
		return fmt.Errorf("expected an action, which is a JSON object, not %s", clip(string(line)))
	}
	if jsontext.Value(line).IsValid() {
		return nil
	}
	dec := jsontext.NewDecoder(bytes.NewReader(line))
	if _, err := dec.ReadValue(); err != nil {
		return jsonCause(err)
	}
	return errors.New("there is something after the JSON object: write one action a line")
}

// jsonCause says what is wrong with JSON, without an offset, which the line replaces.
func jsonCause(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return errors.New("the JSON ends too early")
	}
	if syntax, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		if syntax.JSONPointer != "" {
			return fmt.Errorf("%w at %s", syntax.Err, syntax.JSONPointer)
		}
		return syntax.Err
	}
	return err
}

// chunkReader reads what an iterator yields. It is closed by its owner.
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
