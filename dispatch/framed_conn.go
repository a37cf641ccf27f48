package dispatch

import (
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/batchd/batchd/internal/batch"
)

// framedConn is a connection of net/http's transport with a framer. Bytes that come before
// the first request are held back until there is one, which the connection then refuses:
// otherwise net/http would log them and close the connection without a reason.
type framedConn struct {
	net.Conn

	begun   chan struct{} // closed with the first request, or with the connection
	beginIt sync.Once

	suspicion *suspicion

	mu       sync.Mutex
	framing  framer
	early    bool // something came before the first request
	reported bool // unexpected bytes
}

// follow puts a framer in front of a connection to a target.
func follow(conn net.Conn, suspected *suspicion) net.Conn {
	if conn == nil {
		return nil
	}
	return &framedConn{Conn: conn, suspicion: suspected, begun: make(chan struct{})}
}

func (c *framedConn) begin() { c.beginIt.Do(func() { close(c.begun) }) }

// expect prepares for the answer to a request with that method. Unwritten, if it is not nil,
// has the number of its bytes that are still to be written. expect reports whether the
// connection can take the request. It cannot if bytes have come, such as a farewell: they are
// no answer (RFC 9112 §9.2).
func (c *framedConn) expect(method string, unwritten *atomic.Int64) bool {
	c.mu.Lock()
	early := c.early || (c.framing.state == framingFresh || c.framing.usable()) && readable(c.Conn)
	what := ""
	if early {
		c.framing.spent = true
		what = c.unreported(bytesBefore)
	}
	c.framing.unwritten = unwritten
	c.framing.expect(method)
	if early && c.framing.fault == nil {
		c.framing.fault = errEarly
	}
	usable := !c.framing.dead
	c.mu.Unlock()
	if what != "" {
		c.suspicion.report(what)
	}
	return usable
}

// unreported returns unexpected bytes that were not reported for this connection, or "".
func (c *framedConn) unreported(what string) string {
	if c.reported {
		return ""
	}
	c.reported = what != ""
	return what
}

// retire has the connection take no other request. The present answer is still read.
func (c *framedConn) retire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.framing.spent = true
}

// closeIfSpent closes the connection if it can take no other request.
func (c *framedConn) closeIfSpent() {
	c.mu.Lock()
	spent := c.framing.spent
	c.mu.Unlock()
	if spent {
		_ = c.Close()
	}
}

// fault returns why the answer was refused, or nil.
func (c *framedConn) fault() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.framing.fault
}

// Read implements io.Reader.
func (c *framedConn) Read(p []byte) (int, error) {
	c.mu.Lock()
	fault, over := c.framing.fault, c.framing.state == framingOver && c.framing.spent
	c.mu.Unlock()
	switch {
	case fault != nil:
		return 0, fault
	case over:
		return 0, errSurplus
	}
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.wait()
	}
	c.mu.Lock()
	allowed, fault := c.framing.feed(p[:n])
	what := c.unreported(c.framing.unexpected(false))
	c.mu.Unlock()
	if what != "" {
		c.suspicion.report(what)
	}
	if fault != nil && allowed == 0 {
		return 0, fault
	}
	if fault != nil {
		err = nil // it comes with the next call
	}
	return allowed, err //nolint:wrapcheck // net's own
}

// wait waits for the first request.
func (c *framedConn) wait() {
	select {
	case <-c.begun:
		return
	default:
	}
	c.mu.Lock()
	c.early = c.early || c.framing.state == framingFresh
	c.mu.Unlock()
	<-c.begun
}

// Close implements io.Closer.
func (c *framedConn) Close() error {
	c.begin()
	return c.Conn.Close() //nolint:wrapcheck // net's own
}

// Write implements io.Writer. It fails on a connection that already holds bytes, which could
// be mistaken for the answer. The transport then takes another connection.
func (c *framedConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	dead := c.framing.dead
	c.mu.Unlock()
	c.begin()
	if dead {
		return 0, errSurplus
	}
	return c.Conn.Write(p) //nolint:wrapcheck // net's own
}

// connectionBased reports whether an answer asks for credentials that authenticate its
// connection and not a request, or says that they did (RFC 4559 §6).
func connectionBased(h http.Header) bool {
	for _, key := range []string{"Www-Authenticate", "Proxy-Authenticate"} {
		for _, value := range h[key] {
			for challenge := range strings.SplitSeq(value, ",") {
				scheme, _, _ := strings.Cut(strings.TrimSpace(challenge), " ")
				if batch.ConnectionBased(scheme) {
					return true
				}
			}
		}
	}
	return len(h["Persistent-Auth"]) > 0
}
