//go:build unix

package dispatch

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// lastWrite is how long a connection waits for the end of a request whose answer
	// has already come. After that it is closed.
	lastWrite = 50 * time.Millisecond
	// partAtOnce is how many bytes of a longer body the system is given at a time.
	partAtOnce = 32 << 10
)

// plainConn is a connection of plainCarrier.
type plainConn struct {
	net.Conn
	d       *plainCarrier
	raw     syscall.RawConn
	begin   func(fd uintptr) bool // writeThenRead as a value, made once
	in      *bufio.Reader
	key     string          // see keyOf
	alone   bool            // it serves one exchange only
	used    bool            // there was an exchange before
	since   time.Time       // when it became idle
	ctx     context.Context // of the last exchange: reads and writes end with it
	unwatch func() bool     // stops watching ctx

	// Of one exchange.
	x         *exchange
	out       []byte // the part of the request that is written at once
	more      []byte // the part that follows
	written   int    // bytes of out
	asked     bool   // the request was written, or as much of it as the system took at once
	early     bool   // bytes came before the request was written
	first     []byte // the first bytes of the answer
	err       error
	framing   framer       // of its answers
	unwritten atomic.Int64 // bytes of the request that the system has not been given
	rest      chan error   // receives the result of writing the rest, if there is a rest
	buffer    [4 << 10]byte
}

func (d *plainCarrier) newConn(dialed net.Conn, key string, alone bool) (*plainConn, error) {
	c := &plainConn{Conn: dialed, d: d, key: key, alone: alone}
	c.framing.unwritten = &c.unwritten
	c.begin = c.writeThenRead
	c.in = bufio.NewReader(c)
	sys, ok := dialed.(syscall.Conn) // as all connections that net dials
	if !ok {
		_ = dialed.Close()
		return nil, fmt.Errorf("a %T is no connection of the system's", dialed)
	}
	var err error
	if c.raw, err = sys.SyscallConn(); err != nil {
		_ = dialed.Close()
		return nil, fmt.Errorf("use the connection: %w", err)
	}
	return c, nil
}

var (
	// errGone: before a byte of the request was written, a connection that was used before was
	// closed, or bytes came over it. errAtOnce: a new connection was closed.
	errGone   = errors.New("the connection is gone")
	errAtOnce = errors.New("the connection was closed before the request was sent")
)

// exchange makes one exchange. After an error the connection is closed. Otherwise it is
// free when the body of the answer was read to its end or closed.
func (c *plainConn) exchange(ctx context.Context, x *exchange, req *http.Request) (*http.Response, error) {
	c.x, c.written, c.asked, c.early, c.first, c.err, c.rest = x, 0, false, false, nil, nil, nil
	c.unwritten.Store(0)
	c.framing.expect(req.Method)
	c.out, c.more = appendRequest(c.out[:0], req, len(x.action.Body)), x.action.Body
	if len(c.more) <= bodyAlong {
		c.out, c.more = append(c.out, c.more...), nil
	}
	err := x.ready(ctx)
	if err == nil {
		err = c.limit(ctx, x.until)
	}
	var res *http.Response
	if err == nil {
		res, err = c.ask(req)
	}
	if err != nil {
		_ = c.Close()
		if c.early {
			c.d.suspicion.report(bytesBefore)
		} else if what := c.framing.unexpected(false); what != "" {
			c.d.suspicion.report(what)
		}
		return nil, cmp.Or(c.framing.fault, err)
	}
	answer := &answer{Reader: res.Body, c: c, last: c.alone || res.Close || res.StatusCode < http.StatusOK || connectionBased(res.Header)}
	if res.Body == http.NoBody {
		answer.end(true)
		return res, nil
	}
	res.Body = answer
	return res, nil
}

// limit ends all later reads and writes with the context, and at a time. Attempts share a
// context, so limit keeps watching it while the connection is used with it.
func (c *plainConn) limit(ctx context.Context, until time.Time) error {
	if c.ctx != ctx {
		if c.unwatch != nil && !c.unwatch() {
			return errGone // the context before may interrupt it at any moment
		}
		c.ctx, c.unwatch = ctx, context.AfterFunc(ctx, c.interrupt)
	}
	_ = c.SetDeadline(until) // it fails only on a closed connection, where it does not matter
	if ctx.Err() != nil {    // the interrupt may have come before the deadline was set
		return context.Cause(ctx) //nolint:wrapcheck // it is not shown
	}
	return nil
}

// interrupt ends reads and writes.
func (c *plainConn) interrupt() { _ = c.SetDeadline(time.Unix(1, 0)) }

// Close implements io.Closer.
func (c *plainConn) Close() error {
	if c.unwatch != nil {
		c.unwatch()
	}
	return c.Conn.Close() //nolint:wrapcheck // net's own
}

// ask sends the request and reads the head of the answer.
func (c *plainConn) ask(req *http.Request) (*http.Response, error) {
	if err := c.raw.Read(c.begin); err != nil && c.err == nil {
		c.err = err
	}
	switch {
	case c.written == 0 && (c.err != nil || !c.asked):
		c.x.phase.Store(int32(waiting))
		switch {
		case c.used:
			return nil, errGone
		case c.early:
			return nil, errEarly
		}
		return nil, cmp.Or(c.err, errAtOnce)
	case c.written < len(c.out) || c.more != nil:
		c.writeRest()
	case c.err != nil:
		return nil, c.err
	}
	return c.readHead(req)
}

// writeThenRead is called first when a request takes the connection, and then whenever
// the connection is readable. It reports whether it has finished.
func (c *plainConn) writeThenRead(fd uintptr) bool {
	if c.asked {
		n, err := retryEINTR(syscall.Read, fd, c.buffer[:])
		if err == syscall.EAGAIN { //nolint:errorlint // errno, as it comes
			return false
		}
		c.took(n, err)
		return true
	}
	// Usually there is nothing to read. What comes before the request is no answer to it.
	n, err := retryEINTR(syscall.Read, fd, c.buffer[:])
	if err != syscall.EAGAIN { //nolint:errorlint // as above
		c.early = err == nil && n > 0
		return true
	}
	c.asked = true
	c.x.advance(sending)
	n, err = retryEINTR(syscall.Write, fd, c.out)
	if n > 0 {
		c.written = n
	}
	if err != nil && err != syscall.EAGAIN { //nolint:errorlint // as above
		c.err = err
	}
	if c.written < len(c.out) || c.more != nil {
		return true
	}
	c.x.advance(awaiting)
	return false
}

// took records the first bytes of the answer.
func (c *plainConn) took(n int, err error) {
	switch {
	case err != nil:
		c.err = err
	case n <= 0:
		c.err = io.EOF
	default:
		c.x.advance(answering)
		c.first = c.buffer[:n]
	}
}

// writeRest writes the part that the system did not take at once. The answer may come before
// the request is complete: a target that refuses a request need not read it.
func (c *plainConn) writeRest() {
	done, x := make(chan error, 1), c.x
	head, body := c.out[c.written:], c.more
	c.unwritten.Store(int64(len(head) + len(body)))
	c.rest, c.err, c.out = done, nil, nil
	go func() {
		err := c.writeParts(head)
		if err == nil {
			err = c.writeParts(body)
		}
		if err == nil {
			x.advance(awaiting)
		}
		done <- err
	}()
}

// writeParts writes p in parts, and takes each from unwritten before it gives it to the system.
func (c *plainConn) writeParts(p []byte) error {
	for len(p) > 0 {
		part := p[:min(len(p), partAtOnce)]
		c.unwritten.Add(-int64(len(part)))
		if _, err := c.Write(part); err != nil {
			return err //nolint:wrapcheck // net's own
		}
		p = p[len(part):]
	}
	return nil
}

// readHead reads status and headers of the answer, after those of informational answers.
func (c *plainConn) readHead(req *http.Request) (*http.Response, error) {
	c.in.Reset(c)
	if _, err := c.in.Peek(1); err != nil {
		return nil, err //nolint:wrapcheck // net's own
	}
	c.x.advance(answering)
	for {
		res, err := http.ReadResponse(c.in, req)
		if err != nil {
			return nil, err //nolint:wrapcheck // net/http's own
		}
		if res.StatusCode >= http.StatusOK || res.StatusCode < http.StatusContinue || res.StatusCode == http.StatusSwitchingProtocols {
			return res, nil
		}
	}
}

// Read implements io.Reader, for the answer.
func (c *plainConn) Read(p []byte) (int, error) {
	if c.framing.fault != nil {
		return 0, c.framing.fault
	}
	var n int
	var err error
	if len(c.first) > 0 {
		n = copy(p, c.first)
		c.first = c.first[n:]
	} else {
		n, err = c.Conn.Read(p)
	}
	allowed, fault := c.framing.feed(p[:n])
	switch {
	case fault != nil && allowed == 0:
		return 0, fault
	case fault != nil:
		err = nil // it comes with the next call, if there is one
	}
	return allowed, err //nolint:wrapcheck // net's own
}

// answer is the body of an answer. The connection is free when the body has been read to its
// end or closed.
type answer struct {
	io.Reader

	c    *plainConn
	last bool // no other exchange can follow
	over bool
}

// Read implements io.Reader.
func (a *answer) Read(p []byte) (int, error) {
	if a.over {
		return 0, io.EOF
	}
	n, err := a.Reader.Read(p)
	if err != nil {
		a.end(err == io.EOF)
	}
	return n, err //nolint:wrapcheck // net/http's own
}

// hurry implements readDeadliner.
func (a *answer) hurry(within time.Duration) {
	if at := time.Now().Add(within); !a.over && at.Before(a.c.x.until) {
		_ = a.c.SetReadDeadline(at)
	}
}

// Close implements io.Closer.
func (a *answer) Close() error {
	a.end(false)
	return nil
}

// end frees the connection, which can be used again only if the answer is whole.
func (a *answer) end(whole bool) {
	if a.over {
		return
	}
	a.over = true
	c := a.c
	what := c.framing.unexpected(whole && c.in.Buffered()+len(c.first) > 0)
	if whole && !a.last && what == "" && c.framing.usable() && c.allWritten() {
		c.d.put(c)
	} else {
		_ = c.Close()
	}
	if what != "" {
		c.d.suspicion.report(what)
	}
	c.d.slots.leave()
}

// discard closes an idle connection, and looks whether bytes came over it meanwhile.
func (c *plainConn) discard() {
	came := readable(c.Conn)
	_ = c.Close()
	if came {
		c.d.suspicion.report(bytesBeyond)
	}
}

// allWritten reports whether the whole request was written. It waits for lastWrite at most.
func (c *plainConn) allWritten() bool {
	if c.rest == nil {
		return true
	}
	limit := time.NewTimer(lastWrite)
	defer limit.Stop()
	select {
	case err := <-c.rest:
		return err == nil
	case <-limit.C:
		return false
	}
}

// appendRequest writes a request line and headers (RFC 9112 §3), in the order in which
// net/http has them. Names and values were checked with the action.
func appendRequest(out []byte, req *http.Request, length int) []byte {
	out = append(out, req.Method...)
	out = append(out, ' ')
	out = append(out, req.URL.RequestURI()...)
	out = append(out, " HTTP/1.1\r\n"...)
	out = appendField(out, "Host", req.Host)
	if agents := req.Header[userAgent]; len(agents) > 0 && agents[0] != "" {
		out = appendField(out, userAgent, agents[0])
	}
	if req.Close {
		out = append(out, "Connection: close\r\n"...)
	}
	switch {
	case length > 0:
		out = append(out, "Content-Length: "...)
		out = strconv.AppendInt(out, int64(length), 10)
		out = append(out, "\r\n"...)
	case req.Method == http.MethodPost, req.Method == http.MethodPut, req.Method == http.MethodPatch:
		out = append(out, "Content-Length: 0\r\n"...)
	}
	var room [16]string
	keys := room[:0]
	for key := range req.Header {
		if key != userAgent {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	for _, key := range keys {
		for _, value := range req.Header[key] {
			out = appendField(out, key, value)
		}
	}
	return append(out, "\r\n"...)
}

func appendField(out []byte, name, value string) []byte {
	out = append(out, name...)
	out = append(out, ": "...)
	out = append(out, value...)
	return append(out, "\r\n"...)
}

// retryEINTR makes a system call again as long as signals interrupt it.
func retryEINTR(call func(fd int, p []byte) (int, error), fd uintptr, p []byte) (int, error) {
	for {
		n, err := call(int(fd), p)
		if err != syscall.EINTR { //nolint:errorlint // errno, as it comes
			return n, err
		}
	}
}
