package dispatch

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync/atomic"

	"github.com/batchd/batchd/internal/batch"
)

// framer follows the bytes of the answers on one HTTP/1 connection, in front of
// net/http, which reads them. net/http is lenient: it drops a Content-Length beside
// chunks, ignores Transfer-Encoding in HTTP/1.0 and beside white space, and takes any
// version. If two readers can disagree about the end of an answer, the bytes after it
// may be attributed to the wrong request, so framer refuses what RFC 9112 forbids. It
// also finds the end of each answer, and hands over no byte after it.
//
// framer accepts what RFC 9112 tells a client to accept: a line of a head that ends with
// LF alone, a folded field, a minor version above 1, and a repeated but equal
// Content-Length.
type framer struct {
	state  framingState
	method string // of the request
	// fault is the reason why an answer was refused. It is kept for all later calls.
	fault error
	// spent: no other answer can follow on the connection. dead: a request was
	// attempted nevertheless.
	spent, dead bool

	// unwritten, if it is set, has the number of bytes of the request that are still to be written.
	unwritten *atomic.Int64
	// tooSoon: the present answer began before its request was written. hasty: it is other than
	// an error, or malformed. surplus: bytes came beyond the end of an answer.
	tooSoon, hasty, surplus bool

	budget int64  // how many bytes of heads and trailers may still come
	line   []byte // the beginning of a line that is not whole yet
	fields int    // of the present head, so far
	status int
	old    bool         // HTTP/1.0
	field  framingField // the last one, which may go on in the next line
	value  []byte       // of that field
	length int64        // announced by Content-Length; -1: not announced
	coded  int          // how many Transfer-Encoding fields there are
	left   int64        // bytes of the body, or of the chunk, still to come
}

type framingState uint8

const (
	framingFresh     framingState = iota // no request was made yet
	framingStatus                        // expecting a status line
	framingFields                        // in a head
	framingLength                        // in a body of known length
	framingChunkSize                     // expecting the line before a chunk
	framingChunk                         // in a chunk
	framingChunkEnd                      // expecting the end of the line behind a chunk
	framingTrailers                      // behind the last chunk
	framingUntilEnd                      // in a body that ends with the connection
	framingOver                          // behind an answer
)

type framingField uint8

const (
	otherField framingField = iota
	lengthField
	codingField
)

// longestChunkLine is the most bytes that the line before a chunk may have, which is
// also net/http's bound.
const longestChunkLine = 4096

var (
	// errSurplus: a connection carries bytes that belong to no answer.
	errSurplus = errors.New("the connection carries more than the answer")
	// errEarly: bytes came before the request was written, so nothing was sent.
	errEarly = forbidden("it sent bytes before it was asked, which are no answer, so the connection was closed and nothing was sent")
)

func forbidden(format string, args ...any) error {
	return &answerError{batch.CodeProtocol, fmt.Sprintf(format, args...)}
}

// expect prepares for the answer to a request with that method.
func (f *framer) expect(method string) {
	if f.spent || f.state != framingFresh && f.state != framingOver {
		f.state, f.spent, f.dead = framingOver, true, true
		return
	}
	f.state, f.method, f.budget, f.line, f.tooSoon = framingStatus, method, maxResponseHeaders, f.line[:0], false
	f.hasty = false
}

// unexpected returns which bytes came that no request asked for, or "". Surplus: the caller
// has found some beyond the end of the answer.
//
// A target may answer before it has read a body that it refuses (RFC 9112 §9.5), and the
// connection ends with such an answer. But a target that succeeds without the body may take
// the body for another request.
func (f *framer) unexpected(surplus bool) string {
	switch {
	case f.surplus || surplus:
		return bytesBeyond
	case f.hasty:
		return bytesTooSoon
	}
	return ""
}

// usable reports whether another exchange can follow the present one.
func (f *framer) usable() bool { return f.state == framingOver && !f.spent && f.fault == nil }

// feed follows the next bytes of the connection. It returns how many of them the caller
// may read, and an error if the caller may not read the bytes after them. For a head that
// is refused, the error comes before the end of the head.
func (f *framer) feed(p []byte) (n int, err error) {
	if f.fault != nil {
		return 0, f.fault
	}
	for n < len(p) {
		switch f.state {
		case framingUntilEnd:
			return len(p), nil
		case framingFresh, framingOver:
			f.spent, f.surplus = true, true
			return n, errSurplus
		case framingLength, framingChunk:
			part := min(f.left, int64(len(p)-n))
			n += int(part)
			if f.left -= part; f.left > 0 {
				continue
			}
			if f.state == framingLength {
				f.state = framingOver
			} else {
				f.state = framingChunkEnd
			}
		default:
			if f.state == framingStatus && len(f.line) == 0 && f.unwritten != nil && f.unwritten.Load() > 0 {
				f.tooSoon = true
			}
			read, err := f.feedLine(p[n:])
			if err != nil {
				f.fault, f.hasty = err, f.tooSoon
				if n == 0 && f.state == framingStatus {
					// Hand over one byte: otherwise net/http assumes that the connection
					// was closed while it was idle, and repeats a GET.
					return 1, err
				}
				return n, err
			}
			n += read
		}
	}
	return n, nil
}

// feedLine follows up to one line.
func (f *framer) feedLine(p []byte) (n int, err error) {
	end := bytes.IndexByte(p, '\n')
	if n = end + 1; end < 0 {
		n = len(p)
	}
	if f.state != framingChunkSize && f.state != framingChunkEnd {
		if f.budget -= int64(n); f.budget < 0 {
			return 0, forbidden("the headers of its answer are over %d KiB", maxResponseHeaders>>10)
		}
	} else if len(f.line)+n > longestChunkLine {
		return 0, forbidden("its answer has a chunk without a usable length")
	}
	line := p[:n]
	if len(f.line) > 0 || end < 0 {
		f.line = append(f.line, line...)
		line = f.line
	}
	if end < 0 {
		return n, nil
	}
	f.line = f.line[:0]
	return n, f.take(line)
}

// take follows one line, its end included.
func (f *framer) take(line []byte) error {
	text, crlf := bytes.CutSuffix(line[:len(line)-1], []byte{'\r'})
	switch f.state {
	case framingStatus:
		return f.takeStatus(text)
	case framingFields:
		if len(text) == 0 {
			return f.endHead()
		}
		return f.takeField(text)
	case framingChunkSize:
		if !crlf || bytes.IndexByte(text, '\r') >= 0 {
			return forbidden("its answer has a chunk without a usable length")
		}
		return f.takeChunkSize(text)
	case framingChunkEnd:
		if !crlf || len(text) > 0 {
			return forbidden("its answer has a chunk that is longer than it says")
		}
		f.state = framingChunkSize
	case framingTrailers:
		// net/http reads trailers only once it has seen CR LF CR LF, and would wait for it.
		if !crlf || bytes.IndexByte(text, '\r') >= 0 {
			return forbidden("its answer has a trailer whose line does not end with CR LF")
		}
		if len(text) == 0 {
			f.state = framingOver
		}
	default:
	}
	return nil
}

// takeStatus follows a status line (RFC 9112 §4).
func (f *framer) takeStatus(line []byte) error {
	version, rest, _ := bytes.Cut(line, []byte{' '})
	if len(version) != len("HTTP/1.1") || string(version[:len("HTTP/1.")]) != "HTTP/1." || !isDigit(version[len(version)-1]) {
		return forbidden("its answer is not HTTP/1.1")
	}
	code := bytes.TrimLeft(rest, " ")
	if len(code) < 3 || !isDigit(code[0]) || !isDigit(code[1]) || !isDigit(code[2]) || len(code) > 3 && code[3] != ' ' {
		return forbidden("its answer has no status")
	}
	for _, c := range code {
		if c < ' ' && c != '\t' || c == 0x7f {
			return forbidden("its status line holds the control character 0x%02x", c)
		}
	}
	f.status, _ = strconv.Atoi(string(code[:3]))
	f.old = version[len(version)-1] == '0'
	f.state, f.fields, f.field, f.length, f.coded = framingFields, 0, otherField, -1, 0
	return nil
}

// takeField follows a line of a head (RFC 9112 §5).
func (f *framer) takeField(line []byte) error {
	if line[0] == ' ' || line[0] == '\t' {
		if f.fields == 0 {
			return forbidden("its answer begins with a folded header")
		}
		if f.field != otherField {
			f.value = append(append(f.value, ' '), line...) // the field before goes on
		}
		return nil
	}
	if err := f.endField(); err != nil {
		return err
	}
	name, value, _ := bytes.Cut(line, []byte{':'})
	if len(name) == 0 || len(name) == len(line) || bytes.IndexByte(name, ' ') >= 0 || bytes.IndexByte(name, '\t') >= 0 { // net/http looks at the rest
		return forbidden("its answer has a header whose name is not followed by a colon")
	}
	f.fields++
	switch {
	case len(name) == len("Content-Length") && bytes.EqualFold(name, []byte("Content-Length")):
		f.field = lengthField
	case len(name) == len("Transfer-Encoding") && bytes.EqualFold(name, []byte("Transfer-Encoding")):
		f.field = codingField
	default:
		f.field = otherField
	}
	if f.value = f.value[:0]; f.field != otherField {
		f.value = append(f.value, value...)
	}
	return nil
}

// endField follows the end of the field before.
func (f *framer) endField() error {
	if f.field == otherField {
		return nil
	}
	value := bytes.Trim(f.value, " \t")
	switch f.field {
	case lengthField:
		n, err := strconv.ParseUint(string(value), 10, 63)
		if err != nil || f.length >= 0 && f.length != int64(n) {
			return forbidden("its answer has a Content-Length that is not one number")
		}
		f.length = int64(n)
	case codingField:
		if f.coded++; f.coded > 1 || !bytes.EqualFold(value, []byte("chunked")) {
			return forbidden("its answer has a Transfer-Encoding other than chunked")
		}
	case otherField:
	}
	f.field = otherField
	return nil
}

// endHead follows the end of a head, and determines how the answer ends (RFC 9112 §6.3).
func (f *framer) endHead() error {
	if err := f.endField(); err != nil {
		return err
	}
	f.spent = f.spent || f.tooSoon
	switch {
	case f.coded > 0 && f.old:
		return forbidden("its answer is HTTP/1.0 and has a Transfer-Encoding")
	case f.coded > 0 && f.length >= 0:
		return forbidden("its answer has both a Transfer-Encoding and a Content-Length")
	case f.status < http.StatusContinue || f.status == http.StatusSwitchingProtocols:
		f.state, f.spent = framingUntilEnd, true
	case f.status < http.StatusOK:
		// It has no body either. The answer is still to come.
		f.state, f.spent, f.tooSoon = framingStatus, f.spent || f.coded > 0 || f.length > 0, false
	case f.method == http.MethodHead || f.status == http.StatusNotModified:
		f.state = framingOver
	case f.status == http.StatusNoContent:
		// The answer has no body, whatever its headers say. If they announce one, the target may send it nevertheless.
		f.state, f.spent = framingOver, f.spent || f.coded > 0 || f.length > 0
	case f.coded > 0:
		f.state = framingChunkSize
	case f.length > 0:
		f.state, f.left = framingLength, f.length
	case f.length == 0:
		f.state = framingOver
	default:
		f.state, f.spent = framingUntilEnd, true
	}
	f.hasty = f.tooSoon && f.status < http.StatusBadRequest
	return nil
}

// takeChunkSize follows the line before a chunk (RFC 9112 §7.1). Blanks after the number
// are accepted: old servers reserve room for it, and all readers agree on their meaning.
func (f *framer) takeChunkSize(line []byte) error {
	size, _, _ := bytes.Cut(line, []byte{';'})
	size = bytes.TrimRight(size, " \t")
	n, err := strconv.ParseUint(string(size), 16, 63)
	if err != nil || len(size) > 16 {
		return forbidden("its answer has a chunk without a usable length")
	}
	if f.left = int64(n); n == 0 {
		f.state = framingTrailers
	} else {
		f.state = framingChunk
	}
	return nil
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
