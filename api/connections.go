package api

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// A connection that ends before the client has sent its whole body reads on for that
	// long and for that many bytes, because bytes that arrive at a closed connection make
	// the client's system drop the answer. A client that sends nothing for lingerPause has
	// seen the answer.
	lingerTime  = 30 * time.Second
	lingerPause = 5 * time.Second
	lingerBytes = 256 << 20
	// maxRefusing is how many connections beyond a bound get an answer at one time. Further
	// ones are closed without one.
	maxRefusing = 64
)

// connections accepts the connections of an API, and bounds their number.
type connections struct {
	net.Listener
	limits Capacity
	// heads is the memory for the heads of requests, beyond what is free.
	heads *memory
	// headBytes is how long one head may be.
	headBytes int
	// failed logs handshakes that fail, as net/http does.
	failed *log.Logger
	// secure is the configuration of TLS, or nil.
	secure *tls.Config

	mu        sync.Mutex
	open      map[*conn]struct{}
	addresses map[netip.Prefix]int // connections without an authenticated owner
	owners    map[string]int
	refusing  int
}

func newConnections(ln net.Listener, limits Capacity) *connections {
	heads := newMemory(max(limits.BodyMemory/headShare, leastHeadMemory))
	heads.step = headStep
	return &connections{Listener: ln, limits: limits, heads: heads, headBytes: maxHeaderBytes, open: make(map[*conn]struct{}), addresses: make(map[netip.Prefix]int), owners: make(map[string]int)}
}

// conn is a connection of a client.
type conn struct {
	net.Conn
	all     *connections
	address netip.Prefix
	// linger: the client may still be sending when the connection is closed.
	linger atomic.Bool
	once   sync.Once
	// head is what the head of the present request holds. Only the goroutine that serves the connection uses it.
	head *reservation
	// handshaking: what is read belongs to a handshake of TLS, which has had that many bytes.
	handshaking    atomic.Bool
	handshakeBytes int
	// owner is the last owner of a request, counted if it is not empty. unknown: the
	// connection counts for its address. Both are guarded by all.mu.
	owner   string
	unknown bool
}

// Accept implements [net.Listener].
func (l *connections) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &conn{Conn: raw, all: l, address: networkOf(raw.RemoteAddr()), unknown: true}
		if answer := l.add(c); answer != "" {
			l.refuse(l.wrap(raw), answer)
			continue
		}
		return newHeadConn(c), nil
	}
}

// wrap adds TLS to a connection that is refused, if the server speaks TLS. The first read or write makes the handshake.
func (l *connections) wrap(raw net.Conn) net.Conn {
	if l.secure == nil {
		return raw
	}
	return tls.Server(raw, l.secure)
}

// add counts a connection. If there is no room for it, add returns the answer to it.
func (l *connections) add(c *conn) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case len(l.open) >= l.limits.Connections:
		return l.refusal(kindBusy, "the server has as many connections as it may have: try again later")
	case c.address.IsValid() && l.addresses[c.address] >= l.limits.ConnectionsPerAddress:
		return l.refusal(kindLimited, "your address has as many connections as one address may have: close some, or reuse them")
	}
	l.open[c] = struct{}{}
	l.addresses[c.address]++
	return ""
}

// refusal is a whole answer, because no request has been read.
func (l *connections) refusal(k kind, detail string) string {
	body, err := encodeJSON(k.problem(detail))
	if err != nil {
		return "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
	}
	var security strings.Builder
	h := make(http.Header)
	SetSecurityHeaders(h, l.secure != nil)
	if k != kindHeaderTooLarge {
		h.Set("Retry-After", "1")
	}
	_ = h.Write(&security) // a builder does not fail
	return fmt.Sprintf("HTTP/1.1 %d %s\r\nContent-Type: application/problem+json\r\n%sConnection: close\r\nContent-Length: %d\r\n\r\n%s",
		k.status, http.StatusText(k.status), &security, len(body), body)
}

// refuse answers a connection and closes it. It does not wait for the client.
func (l *connections) refuse(raw net.Conn, answer string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refusing == maxRefusing {
		_ = raw.Close()
		return
	}
	l.refusing++
	go func() {
		_ = raw.SetDeadline(time.Now().Add(lingerPause))
		if _, err := io.WriteString(raw, answer); err == nil && closeWrite(raw) {
			_, _ = io.CopyN(io.Discard, raw, maxHeaderBytes)
		}
		_ = raw.Close()
		l.mu.Lock()
		defer l.mu.Unlock()
		l.refusing--
	}()
}

// report logs that a handshake failed.
func (l *connections) report(from net.Addr, err error) {
	if l.failed != nil {
		l.failed.Printf("%s from %s: %v", handshakeFault, from, err)
	}
}

// end closes all connections, also those that linger.
func (l *connections) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.open {
		_ = c.Conn.Close()
	}
}

// networkOf returns what counts as one client: an IPv4 address, or the network of an IPv6
// address, all of which a client may use.
func networkOf(a net.Addr) netip.Prefix {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{} // not a network
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64
	}
	network, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return network
}

// claim counts the connection for the owner of a request instead of its last owner. With
// authenticated, it and the head of the request no longer count for its address.
func (c *conn) claim(owner string, authenticated bool) error {
	l := c.all
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.owner != owner {
		// Refused, the connection still counts for whom it counted: it may stay open for a while.
		if l.owners[owner] >= l.limits.ConnectionsPerOwner {
			return refuse(kindLimited, "you have as many connections as one owner may have: close some, or reuse them").with("Retry-After", "1")
		}
		l.leaveOwner(c)
		c.owner = owner
		l.owners[owner]++
	}
	if authenticated {
		c.head.countFor(owner, netip.Prefix{})
	}
	if c.unknown && authenticated {
		c.unknown = false
		l.leaveAddress(c)
	}
	return nil
}

func (l *connections) leaveAddress(c *conn) {
	if l.addresses[c.address]--; l.addresses[c.address] == 0 {
		delete(l.addresses, c.address)
	}
}

func (l *connections) leaveOwner(c *conn) {
	if c.owner == "" {
		return
	}
	if l.owners[c.owner]--; l.owners[c.owner] == 0 {
		delete(l.owners, c.owner)
	}
	c.owner = ""
}

// Read implements [net.Conn].
func (c *conn) Read(p []byte) (int, error) {
	if !c.handshaking.Load() {
		return c.Conn.Read(p)
	}
	if c.handshakeBytes > maxHandshakeBytes {
		return 0, errLongHandshake
	}
	n, err := c.Conn.Read(p)
	c.handshakeBytes += n
	return n, err
}

// CloseWrite tells the client that nothing more comes.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// Close implements [net.Conn]. A connection that lingers is closed in the background.
func (c *conn) Close() error {
	var err error
	c.once.Do(func() {
		if c.linger.Load() && closeWrite(c.Conn) {
			go func() {
				c.drain()
				_ = c.closeNow()
			}()
			return
		}
		err = c.closeNow()
	})
	return err
}

func (c *conn) closeNow() error {
	l := c.all
	l.mu.Lock()
	delete(l.open, c)
	if c.unknown {
		c.unknown = false
		l.leaveAddress(c)
	}
	l.leaveOwner(c)
	l.mu.Unlock()
	return c.Conn.Close()
}

// drain reads what the client still sends.
func (c *conn) drain() {
	end := time.Now().Add(lingerTime)
	buf := make([]byte, 16<<10)
	for left := lingerBytes; left > 0; {
		deadline := time.Now().Add(lingerPause)
		if deadline.After(end) {
			deadline = end
		}
		if err := c.SetReadDeadline(deadline); err != nil {
			return
		}
		n, err := c.Conn.Read(buf)
		if err != nil {
			return
		}
		left -= n
	}
}

// closeWrite closes one direction of a connection. It reports whether that is possible.
func closeWrite(raw net.Conn) bool {
	half, ok := raw.(interface{ CloseWrite() error })
	return ok && half.CloseWrite() == nil
}

// Guard bounds the connections that a server accepts from a listener, and the heads of their requests. It sets the
// server's MaxHeaderBytes, if that is not set, and its hooks. Serve the listener that it returns, and call end after that.
func Guard(srv *http.Server, ln net.Listener, most Capacity) (guarded net.Listener, end func()) {
	all := newConnections(ln, most.WithDefaults())
	all.guard(srv)
	return all, all.end
}

func (l *connections) guard(srv *http.Server) {
	srv.MaxHeaderBytes = cmp.Or(srv.MaxHeaderBytes, maxHeaderBytes)
	srv.ConnContext, srv.ConnState = withConn, connChanged
	l.headBytes, l.failed = srv.MaxHeaderBytes, srv.ErrorLog
}

type connKey struct{}

// withConn is the server's ConnContext.
func withConn(ctx context.Context, raw net.Conn) context.Context {
	if c, ok := raw.(interface{ connection() *conn }); ok {
		ctx = context.WithValue(ctx, connKey{}, c.connection())
	}
	return ctx
}

// connChanged is the server's ConnState.
func connChanged(raw net.Conn, to http.ConnState) {
	if c, ok := raw.(interface{ changed(to http.ConnState) }); ok {
		c.changed(to)
	}
}

// connOf returns the connection of a request, or nil.
func connOf(ctx context.Context) *conn {
	c, _ := ctx.Value(connKey{}).(*conn)
	return c
}

// lingerAfter lets the connection of a request read on when it is closed.
func lingerAfter(ctx context.Context) {
	if c := connOf(ctx); c != nil {
		c.linger.Store(true)
	}
}
