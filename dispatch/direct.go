//go:build unix

package dispatch

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/batchd/batchd/internal/batch"
)

// keptRequest is the most memory that an idle connection keeps of its last request.
const keptRequest = 4 << 10

// direct makes exchanges with a target over HTTP/1.1 without TLS, each in the
// goroutine of its caller. http.Transport needs two more for each connection, and
// what these four tell each other is most of what an exchange costs. Answers are
// read by net/http all the same.
//
// A request goes over a connection that is idle, the one that was used last. What
// its peer did to it meanwhile is looked at right before the first byte is written:
// if it was closed, the next one is taken. Once a byte was written, the request is
// never sent again.
type direct struct {
	dial  func(ctx context.Context, network, addr string) (net.Conn, error)
	addr  string
	slots chan struct{} // as many as there may be connections

	mu     sync.Mutex
	idle   []*conn // those that were used last at the end
	reaper *time.Timer
	closed bool
}

// directly reports whether a target's exchanges are made like that. A proxy, TLS, and
// names that are not ASCII or have a zone are the transport's business.
func directly(base *url.URL, t *batch.Target) bool {
	for _, c := range []byte(base.Host) {
		if c >= utf8.RuneSelf || c == '%' {
			return false
		}
	}
	return base.Scheme == "http" && t.Proxy == ""
}

// newDirect returns what makes the exchanges with the target at that address, of
// which there are at most so many at a time.
func newDirect(addr string, connections int, dial func(ctx context.Context, network, addr string) (net.Conn, error)) *direct {
	return &direct{dial: dial, addr: addr, slots: make(chan struct{}, connections)}
}

// roundTrip implements carrier. The answer's body is to be closed, or read to its end.
func (d *direct) roundTrip(ctx context.Context, x *exchange, req *http.Request) (*http.Response, error) {
	select {
	case d.slots <- struct{}{}:
	default:
		if err := d.wait(ctx, x); err != nil {
			return nil, err
		}
	}
	for {
		c, err := d.connection(ctx, x)
		if err != nil {
			<-d.slots
			return nil, err
		}
		res, err := c.exchange(ctx, x, req)
		if errors.Is(err, errGone) {
			continue // nothing was written to it
		}
		if err != nil {
			<-d.slots
		}
		return res, err
	}
}

// wait waits until there may be another connection.
func (d *direct) wait(ctx context.Context, x *exchange) error {
	timer := time.NewTimer(time.Until(x.until))
	defer timer.Stop()
	select {
	case d.slots <- struct{}{}:
		return nil
	case <-timer.C:
		return os.ErrDeadlineExceeded
	case <-ctx.Done():
		return context.Cause(ctx) //nolint:wrapcheck // it is not shown
	}
}

// connection returns one that is idle, or a new one.
func (d *direct) connection(ctx context.Context, x *exchange) (*conn, error) {
	if ctx.Err() != nil { // what is sent now would be broken off at once
		return nil, context.Cause(ctx) //nolint:wrapcheck // it is not shown
	}
	if c := d.take(); c != nil {
		return c, nil
	}
	ctx, cancel := context.WithDeadline(context.WithValue(ctx, exchangeKey{}, x), x.until)
	defer cancel()
	dialed, err := d.dial(ctx, "tcp", d.addr)
	if err != nil {
		return nil, err
	}
	return d.newConn(dialed)
}

// take returns the connection that was used last, or nil.
func (d *direct) take() *conn {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := len(d.idle) - 1
	if n < 0 {
		return nil
	}
	c := d.idle[n]
	d.idle[n] = nil
	d.idle = d.idle[:n]
	return c
}

// put takes a connection back.
func (d *direct) put(c *conn) {
	c.used, c.since = true, time.Now()
	c.x, c.more = nil, nil
	if cap(c.out) > keptRequest {
		c.out = nil
	}
	d.mu.Lock()
	closed := d.closed
	if !closed {
		d.idle = append(d.idle, c)
		if d.reaper == nil {
			d.reaper = time.AfterFunc(idleTimeout, d.reap)
		}
	}
	d.mu.Unlock()
	if closed {
		_ = c.Close()
	}
}

// reap closes the connections that were idle for too long.
func (d *direct) reap() {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for n < len(d.idle) && time.Since(d.idle[n].since) >= idleTimeout {
		_ = d.idle[n].Close()
		n++
	}
	d.idle = slices.Delete(d.idle, 0, n)
	d.reaper = nil
	if len(d.idle) > 0 && !d.closed {
		d.reaper = time.AfterFunc(idleTimeout-time.Since(d.idle[0].since), d.reap)
	}
}

// close implements carrier.
func (d *direct) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	if d.reaper != nil {
		d.reaper.Stop()
	}
	for _, c := range d.idle {
		_ = c.Close()
	}
	d.idle = nil
}
