package dispatch

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/batchd/batchd/internal/batch"
)

// standardCarrier is a carrier over net/http's transport.
type standardCarrier struct{ *http.Transport }

func (t standardCarrier) roundTrip(ctx context.Context, x *exchange, req *http.Request) (*http.Response, error) {
	ctx, cancel := x.limited(ctx)
	req = req.WithContext(x.traced(ctx))
	setBody(req, x.action)
	res, err := t.RoundTrip(req)
	if err != nil {
		cancel()
		if x.conn != nil { // net/http may explain half a line in its own way
			err = cmp.Or(x.conn.fault(), err)
		}
		return nil, err //nolint:wrapcheck // explain recognizes it by its type
	}
	res.Body = &timedBody{res.Body, cancel}
	return res, nil
}

// timedBody is the body of an answer. Closing it ends the exchange's context.
type timedBody struct {
	io.ReadCloser

	cancel context.CancelFunc
}

// hurry implements readDeadliner.
func (b *timedBody) hurry(within time.Duration) { time.AfterFunc(within, b.cancel) }

// Close implements io.Closer.
func (b *timedBody) Close() error {
	defer b.cancel()
	return b.ReadCloser.Close() //nolint:wrapcheck // net/http's own
}

func (t standardCarrier) close() { t.CloseIdleConnections() }

// newTransport returns a transport that keeps as many connections as the target
// takes requests at once. The answer's headers have no timeout of their own:
// the attempt's deadline covers them.
func newTransport(t *batch.Target) (*http.Transport, error) {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			return follow(conn), err
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
	secure := &secureDialer{transport: transport, proxy: proxy}
	switch {
	case proxy == nil || strings.HasPrefix(t.BaseURL, "https:"):
	case proxy.Scheme == "socks5":
		// net/http would make the handshake over the framed connection.
		transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := secure.socks(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return follow(conn), nil
		}
	default:
		transport.Proxy, secure.proxy = http.ProxyURL(proxy), nil
	}
	transport.DialTLSContext = secure.dial
	return transport, nil
}
