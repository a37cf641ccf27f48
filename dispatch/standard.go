package dispatch

import (
	"cmp"
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/batchd/batchd/internal/batch"
)

// standardCarrier is a carrier over net/http's transport. A transport gives an idle connection
// to any request for the same address, so each key of connections has a transport of its own: a
// copy of one template.
type standardCarrier struct {
	template  *http.Transport
	mode      string // the setting connections
	suspicion *suspicion
	slots     slots // for exchanges

	mu    sync.Mutex
	byKey map[string]*list.Element // of *keyTransport
	keys  *list.List               // those that were used last at the front
	idle  int                      // connections that may be idle, of all keys
	most  int                      // that may be idle
}

// keyTransport makes the connections with one key.
type keyTransport struct {
	*http.Transport

	key    string
	alone  bool // for one exchange
	active int  // exchanges under way
	// idle is the number of connections that are idle at most: one for each exchange that has
	// ended, less those that began since, or one if they share a connection over HTTP/2.
	idle int
}

func newStandardCarrier(template *http.Transport, t *batch.Target, suspected *suspicion) *standardCarrier {
	return &standardCarrier{
		template: template, mode: t.Connections, suspicion: suspected, slots: make(slots, t.Concurrency),
		byKey: make(map[string]*list.Element), keys: list.New(), most: t.Concurrency,
	}
}

// begin returns the transport for an exchange.
func (s *standardCarrier) begin(x *exchange) *keyTransport {
	key, alone := keyOf(s.mode, s.suspicion, x)
	if alone {
		return &keyTransport{Transport: s.template.Clone(), alone: true}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.byKey[key]
	if e == nil {
		e = s.keys.PushFront(&keyTransport{Transport: s.template.Clone(), key: key})
		s.byKey[key] = e
	}
	s.keys.MoveToFront(e)
	t, _ := e.Value.(*keyTransport)
	t.active++
	if t.idle > 0 {
		t.idle--
		s.idle--
	}
	return t
}

// end records that an exchange has ended, over HTTP/2 or not. If there may be too many idle
// connections, it closes those of the keys that were used least recently.
func (s *standardCarrier) end(t *keyTransport, shared bool) {
	if t.alone {
		t.CloseIdleConnections()
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t.active--
	e := s.byKey[t.key]
	if e == nil || e.Value != t { // dropped meanwhile
		if t.active == 0 {
			t.CloseIdleConnections()
		}
		return
	}
	s.keys.MoveToFront(e)
	if !shared || t.active == 0 && t.idle == 0 {
		t.idle++
		s.idle++
	}
	for e := s.keys.Back(); e != nil && s.idle > s.most; {
		before := e.Prev()
		s.shed(e)
		e = before
	}
}

// shed closes the idle connections of one key, with the lock held.
func (s *standardCarrier) shed(e *list.Element) {
	t, _ := e.Value.(*keyTransport)
	t.CloseIdleConnections()
	s.idle -= t.idle
	t.idle = 0
	if t.active == 0 {
		s.keys.Remove(e)
		delete(s.byKey, t.key)
	}
}

// drop implements carrier.
func (s *standardCarrier) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for e := s.keys.Front(); e != nil; e = e.Next() {
		t, _ := e.Value.(*keyTransport)
		t.CloseIdleConnections()
	}
	s.byKey, s.keys, s.idle = make(map[string]*list.Element), list.New(), 0
}

// close implements carrier.
func (s *standardCarrier) close() {
	s.drop()
	s.template.CloseIdleConnections()
}

func (s *standardCarrier) roundTrip(ctx context.Context, x *exchange, req *http.Request) (*http.Response, error) {
	if err := s.slots.enter(ctx, x); err != nil {
		return nil, err
	}
	t := s.begin(x)
	ctx, cancel := x.limited(ctx)
	req = req.WithContext(x.traced(ctx))
	req.Close = t.alone
	x.unwritten = setBody(req, x.action)
	res, err := t.RoundTrip(req)
	if err != nil {
		cancel()
		if x.conn != nil { // net/http may explain half a line in its own way
			err = cmp.Or(x.conn.fault(), err)
		}
		s.end(t, false)
		s.slots.leave()
		return nil, err //nolint:wrapcheck // explain recognizes it by its type
	}
	if x.conn != nil && connectionBased(res.Header) {
		x.conn.retire()
	}
	res.Body = &timedBody{ReadCloser: res.Body, cancel: cancel, ended: sync.OnceFunc(func() {
		if x.conn != nil {
			x.conn.closeIfSpent()
		}
		s.end(t, res.ProtoMajor > 1)
		s.slots.leave()
	})}
	return res, nil
}

// timedBody is the body of an answer. Closing it ends the exchange and its context.
type timedBody struct {
	io.ReadCloser

	cancel context.CancelFunc
	ended  func()
}

// hurry implements readDeadliner.
func (b *timedBody) hurry(within time.Duration) { time.AfterFunc(within, b.cancel) }

// Close implements io.Closer.
func (b *timedBody) Close() error {
	defer b.ended()
	defer b.cancel()
	return b.ReadCloser.Close() //nolint:wrapcheck // net/http's own
}

// newTransport returns a transport that keeps as many connections as the target
// takes requests at once. The answer's headers have no timeout of their own:
// the attempt's deadline covers them.
func newTransport(t *batch.Target, suspected *suspicion) (*http.Transport, error) {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			return follow(conn, suspected), err
		},
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(0)},
		DisableCompression:  true, // decoding is done under the body's cap
		MaxIdleConnsPerHost: t.Concurrency,
		MaxConnsPerHost:     t.Concurrency,
		IdleConnTimeout:     idleTimeout,
		// Not reached: framing has the bound, and for HTTP/2 it is that of the frames.
		MaxResponseHeaderBytes: maxResponseHeaders,
		ForceAttemptHTTP2:      true,
		// A dead HTTP/2 connection would otherwise swallow requests until the
		// kernel gives it up, which takes minutes.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 5 * time.Second},
	}
	var proxy *url.URL
	if t.Proxy != "" {
		var err error
		if proxy, err = url.Parse(t.Proxy); err != nil {
			return nil, errors.New("the proxy's URL cannot be parsed") // the cause repeats the URL, which may hold a password
		}
	}
	secure := &secureDialer{transport: transport, proxy: proxy, suspicion: suspected}
	switch {
	case proxy == nil || strings.HasPrefix(t.BaseURL, "https:"):
	case proxy.Scheme == "socks5":
		// net/http would make the handshake over the framed connection.
		transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := secure.socks(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return follow(conn, suspected), nil
		}
	default:
		transport.Proxy, secure.proxy = http.ProxyURL(proxy), nil
	}
	transport.DialTLSContext = secure.dial
	return transport, nil
}
