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

// plainCarrier speaks HTTP/1.1 without TLS, on the goroutine of its caller. http.Transport
// needs two more goroutines for each connection, and passing a request and its answer
// between them is most of the cost of an exchange. net/http parses the answers all the same.
//
// A request goes over the idle connection that was used last. Right before it writes the
// first byte, the carrier checks whether the target has closed that connection; then it
// takes the next one. Once a byte was written, the request is never sent again.
type plainCarrier struct {
	dial  func(ctx context.Context, network, addr string) (net.Conn, error)
	addr  string
	slots chan struct{} // as many as there may be connections

	mu     sync.Mutex
	idle   []*plainConn // those that were used last at the end
	reaper *time.Timer
	closed bool
}

// isPlain reports whether plainCarrier can reach a target. It supports neither TLS nor
// proxies, nor host names that are not ASCII or have a zone.
func isPlain(base *url.URL, t *batch.Target) bool {
	for _, c := range []byte(base.Host) {
		if c >= utf8.RuneSelf || c == '%' {
			return false
		}
	}
	return base.Scheme == "http" && t.Proxy == ""
}

// newPlainCarrier returns a carrier for the target at that address, with at most so many
// connections.
func newPlainCarrier(addr string, connections int, dial func(ctx context.Context, network, addr string) (net.Conn, error)) *plainCarrier {
	return &plainCarrier{dial: dial, addr: addr, slots: make(chan struct{}, connections)}
}

// roundTrip implements carrier. The caller closes the answer's body or reads it to its end.
func (d *plainCarrier) roundTrip(ctx context.Context, x *exchange, req *http.Request) (*http.Response, error) {
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
func (d *plainCarrier) wait(ctx context.Context, x *exchange) error {
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
func (d *plainCarrier) connection(ctx context.Context, x *exchange) (*plainConn, error) {
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
func (d *plainCarrier) take() *plainConn {
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
func (d *plainCarrier) put(c *plainConn) {
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
func (d *plainCarrier) reap() {
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
func (d *plainCarrier) close() {
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
