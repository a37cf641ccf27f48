//go:build unix

package dispatch

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
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
// A request goes over the idle connection of its owner that was used last. Right before it
// writes the first byte, the carrier checks whether the target has closed that connection or
// sent something over it; then it takes the next one. Once a byte was written, the request is
// never sent again.
type plainCarrier struct {
	dial      func(ctx context.Context, network, addr string) (net.Conn, error)
	addr      string
	mode      string // the setting connections
	suspicion *suspicion
	slots     slots // for exchanges

	mu     sync.Mutex
	idle   idleConns
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

// newPlainCarrier returns a carrier for the target at that address.
func newPlainCarrier(addr string, t *batch.Target, suspected *suspicion, dial func(ctx context.Context, network, addr string) (net.Conn, error)) *plainCarrier {
	return &plainCarrier{
		dial: dial, addr: addr, mode: t.Connections, suspicion: suspected,
		slots: make(slots, t.Concurrency), idle: newIdleConns(t.Concurrency),
	}
}

// roundTrip implements carrier. The caller closes the answer's body or reads it to its end.
func (d *plainCarrier) roundTrip(ctx context.Context, x *exchange, req *http.Request) (*http.Response, error) {
	if err := d.slots.enter(ctx, x); err != nil {
		return nil, err
	}
	for {
		c, err := d.connection(ctx, x)
		if err != nil {
			d.slots.leave()
			return nil, err
		}
		req.Close = c.alone
		res, err := c.exchange(ctx, x, req)
		if errors.Is(err, errGone) {
			continue // nothing was written to it
		}
		if err != nil {
			d.slots.leave()
		}
		return res, err
	}
}

// connection returns one that is idle, or a new one.
func (d *plainCarrier) connection(ctx context.Context, x *exchange) (*plainConn, error) {
	if ctx.Err() != nil { // what is sent now would be broken off at once
		return nil, context.Cause(ctx) //nolint:wrapcheck // it is not shown
	}
	key, alone := keyOf(d.mode, d.suspicion, x)
	if !alone {
		if c := d.take(key); c != nil {
			return c, nil
		}
	}
	ctx, cancel := context.WithDeadline(context.WithValue(ctx, exchangeKey{}, x), x.until)
	defer cancel()
	dialed, err := d.dial(ctx, "tcp", d.addr)
	if err != nil {
		return nil, err
	}
	return d.newConn(dialed, key, alone)
}

// take returns the idle connection with that key that was used last, or nil.
func (d *plainCarrier) take(key string) *plainConn {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.idle.take(key)
}

// put takes a connection back.
func (d *plainCarrier) put(c *plainConn) {
	c.used, c.since = true, time.Now()
	c.x, c.more = nil, nil
	if cap(c.out) > keptRequest {
		c.out = nil
	}
	surplus := c
	if !d.suspicion.active() {
		surplus = d.keep(c)
	}
	if surplus != nil {
		surplus.discard()
	}
}

// keep adds a connection to the idle ones, and returns the one that has to go, or nil.
func (d *plainCarrier) keep(c *plainConn) *plainConn {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return c
	}
	if d.reaper == nil {
		d.reaper = time.AfterFunc(idleTimeout, d.reap)
	}
	return d.idle.put(c)
}

// reap closes the connections that were idle for too long.
func (d *plainCarrier) reap() {
	d.mu.Lock()
	old, next := d.idle.expire(time.Now().Add(-idleTimeout))
	d.reaper = nil
	if !next.IsZero() && !d.closed {
		d.reaper = time.AfterFunc(idleTimeout-time.Since(next), d.reap)
	}
	d.mu.Unlock()
	for _, c := range old {
		c.discard()
	}
}

// drop implements carrier.
func (d *plainCarrier) drop() {
	d.mu.Lock()
	all := d.idle.clear()
	d.mu.Unlock()
	for _, c := range all {
		_ = c.Close()
	}
}

// close implements carrier.
func (d *plainCarrier) close() {
	d.mu.Lock()
	d.closed = true
	if d.reaper != nil {
		d.reaper.Stop()
	}
	d.mu.Unlock()
	d.drop()
}
