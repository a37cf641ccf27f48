package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/batchd/batchd/api/auth"
)

// The bounds of the head of a request, which the server holds in memory before it knows who calls.
const (
	// maxHeaderLines is the most lines of a header. net/http uses about 100 bytes for each, also for an empty one.
	maxHeaderLines = 100
	// freeHead is how long a head may be before it counts for the memory of heads. It is more than most clients send.
	freeHead = 4 << 10
	// headStep is the unit in which heads count.
	headStep = 1 << 10
	// headTimes is how many times a head is in memory at most while net/http parses it.
	headTimes = 3
	// headShare is the part of limits.body_memory that there is for long heads besides, and leastHeadMemory the least.
	headShare       = 8
	leastHeadMemory = 1 << 20
	// netHTTPBuffer is the size of net/http's buffer. It fills the buffer beyond the end of a body, but a longer read
	// ends with the body.
	netHTTPBuffer = 4 << 10
	// readAhead is the most that it reads beyond the end of a body. That part of the next head is not counted.
	readAhead = 1 << 10
	// maxHandshakeBytes is the most that a client sends for a handshake of TLS, with its certificates.
	maxHandshakeBytes = 32 << 10
)

// headConn bounds the head of each request that comes over a connection. The goroutine that serves the connection uses
// it, and net/http's background reads do while that goroutine does not.
type headConn struct {
	net.Conn // a conn, or the TLS connection over it
	client   *conn
	// inHead: what is read belongs to a head.
	inHead bool
	// lines and bytes are those of the head so far, width the bytes of the present line without its end.
	lines, bytes, width int
	// rest was read together with the end of a head.
	rest []byte
	// refused: the connection has had its last answer.
	refused bool
}

// newHeadConn returns a connection whose first bytes are those of a head.
func newHeadConn(c *conn) net.Conn {
	h := &headConn{Conn: c, client: c, inHead: true}
	c.head = c.all.heads.reserve(auth.Anonymous, c.address)
	if c.all.secure == nil {
		return h
	}
	c.handshaking.Store(true)
	secure := tls.Server(c, c.all.secure)
	h.Conn = secure
	return &secureConn{headConn: h, secure: secure}
}

// Read implements [net.Conn]. It returns nothing of what follows a head together with the head.
func (h *headConn) Read(p []byte) (int, error) {
	if !h.inHead && len(p) <= netHTTPBuffer {
		p = p[:min(len(p), readAhead)]
	}
	var (
		n   int
		err error
	)
	if len(h.rest) > 0 {
		n = copy(p, h.rest)
		if h.rest = h.rest[n:]; len(h.rest) == 0 {
			h.rest = nil
		}
	} else if n, err = h.Conn.Read(p); n == 0 {
		return 0, err
	}
	if h.inHead {
		head := h.count(p[:n])
		if refused := h.check(); refused != nil {
			return 0, h.refuse(refused)
		}
		if head < n {
			h.rest = append(bytes.Clone(p[head:n]), h.rest...)
			n, err = head, nil // an error comes again when the rest has been read
		}
	}
	return n, err
}

// count counts what was read of a head, up to the blank line at its end. It also stops behind a blank line that comes
// first, which is the end of a head if net/http has read the lines before it with the body of the request before: then
// net/http says that the head has ended, and otherwise it reads on.
func (h *headConn) count(p []byte) int {
	for i, b := range p {
		switch {
		case b == '\r':
		case b != '\n':
			h.width++
		case h.width > 0:
			h.lines++
			h.width = 0
		default:
			h.inHead = h.lines == 0
			h.bytes += i + 1
			return i + 1
		}
	}
	h.bytes += len(p)
	return len(p)
}

// check refuses a head that is too large, or for which there is no memory.
func (h *headConn) check() *requestError {
	if h.lines > maxHeaderLines+1 { // one is the request line
		return refuse(kindHeaderTooLarge, "the header of the request has more than %d lines: send fewer", maxHeaderLines)
	}
	if most := h.client.all.headBytes; h.bytes > most {
		return refuse(kindHeaderTooLarge, "the header of the request has more than %d bytes: send fewer", most)
	}
	return h.hold(headTimes)
}

// Write implements [net.Conn]. net/http may answer the end of a head that was refused.
func (h *headConn) Write(p []byte) (int, error) {
	if h.refused {
		return 0, net.ErrClosed
	}
	return h.Conn.Write(p)
}

// hold reserves memory for the part of the head that is not free.
func (h *headConn) hold(times int) *requestError {
	err := h.client.head.set(int64(max(0, h.bytes-freeHead) * times))
	switch refused, _ := errors.AsType[*requestError](err); {
	case err == nil:
		return nil
	case refused != nil && refused.kind == kindLimited:
		return refuse(kindLimited, "the headers of requests from your address use all of the memory that those of one address may use at one time: send shorter ones, or try again later")
	default:
		return refuse(kindBusy, "the headers of requests use all of the memory for them: send a shorter one, or try again later")
	}
}

// headError is why a connection ends within a head. net/http sends no answer of its own to an error of the network.
type headError struct{ *requestError }

// Timeout and Temporary implement [net.Error].
func (headError) Timeout() bool   { return true }
func (headError) Temporary() bool { return false }

// refuse answers the request whose head is being read. net/http has sent all answers before it.
func (h *headConn) refuse(err *requestError) error {
	h.inHead, h.refused, h.rest = false, true, nil
	h.client.linger.Store(true)
	_ = h.SetWriteDeadline(time.Now().Add(lingerPause)) // if it fails, the write does
	_, _ = io.WriteString(h.Conn, h.client.all.refusal(err.kind, err.detail))
	return headError{err}
}

// changed follows the state of the connection. The goroutine that serves the connection calls it.
func (h *headConn) changed(to http.ConnState) {
	switch to {
	case http.StateActive: // a head has been read
		h.inHead = false
		_ = h.hold(1) // giving back cannot fail
	case http.StateIdle:
		h.inHead, h.lines, h.bytes, h.width = true, 0, 0, 0
		h.client.head.release()
		h.client.head.countFor(auth.Anonymous, h.client.address)
	case http.StateClosed, http.StateHijacked: // a background read may go on, but not within a head
		h.client.head.release()
	case http.StateNew:
	}
}

// CloseWrite tells the client that nothing more comes.
func (h *headConn) CloseWrite() error {
	if closeWrite(h.Conn) {
		return nil
	}
	return errors.ErrUnsupported
}

// connection returns the connection of the client, also below TLS.
func (h *headConn) connection() *conn { return h.client }

// secureConn is a headConn over TLS. net/http takes any connection with a ConnectionState for one over TLS.
type secureConn struct {
	*headConn
	secure *tls.Conn
}

// ConnectionState makes the handshake. If it fails, so does the next read.
func (s *secureConn) ConnectionState() tls.ConnectionState {
	if err := s.handshake(); err != nil {
		s.client.all.report(s.RemoteAddr(), err)
	}
	return s.secure.ConnectionState()
}

func (s *secureConn) handshake() error {
	ctx, cancel := context.WithTimeout(context.Background(), readHeaderTimeout)
	defer cancel()
	if err := s.secure.HandshakeContext(ctx); err != nil {
		if plain, ok := errors.AsType[tls.RecordHeaderError](err); ok && plain.Conn != nil && startsLikeHTTP(plain.RecordHeader) {
			_ = plain.Conn.SetWriteDeadline(time.Now().Add(lingerPause))
			_, _ = io.WriteString(plain.Conn, "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
			err = errors.New("client sent an HTTP request to an HTTPS server")
		}
		return err
	}
	s.client.handshaking.Store(false)
	return nil
}

// startsLikeHTTP reports whether the first bytes of a connection are those of a method.
func startsLikeHTTP(start [5]byte) bool {
	switch string(start[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO", "DELET", "PATCH":
		return true
	}
	return false
}

// errLongHandshake ends a handshake of TLS.
var errLongHandshake = errors.New("the handshake has more bytes than it may have")
