package dispatch

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/proxy"
)

// secureDialer makes the TLS connections of a transport, through a proxy if there is
// one. net/http can do that itself, but gives no access to the decrypted bytes.
type secureDialer struct {
	transport *http.Transport
	proxy     *url.URL
	suspicion *suspicion
}

// dial returns a *tls.Conn if the target speaks HTTP/2, and else a *framedConn.
func (d *secureDialer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := d.connect(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	if trace := httptrace.ContextClientTrace(ctx); trace != nil && trace.TLSHandshakeStart != nil {
		trace.TLSHandshakeStart()
	}
	secured, err := d.handshake(ctx, conn, addr, "h2", "http/1.1")
	if err != nil {
		return nil, err
	}
	if secured.ConnectionState().NegotiatedProtocol == "h2" {
		return secured, nil
	}
	return follow(secured, d.suspicion), nil
}

// connect returns a connection over which the handshake can be made.
func (d *secureDialer) connect(ctx context.Context, network, addr string) (net.Conn, error) {
	switch {
	case d.proxy == nil:
		return d.unfollowed(ctx, network, addr)
	case strings.HasPrefix(d.proxy.Scheme, "socks5"):
		return d.socks(ctx, network, addr)
	}
	conn, err := d.unfollowed(ctx, network, hostPort(d.proxy))
	if err == nil && d.proxy.Scheme == "https" {
		conn, err = d.handshake(ctx, conn, hostPort(d.proxy), "http/1.1")
	}
	if err != nil {
		return nil, fmt.Errorf("connect to the proxy: %w", err)
	}
	if err := d.tunnel(ctx, conn, addr); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// unfollowed dials as the transport does, without a framer: bytes that come before the
// request is sent are no answer.
func (d *secureDialer) unfollowed(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := d.transport.DialContext(ctx, network, addr)
	if framed, ok := conn.(*framedConn); ok {
		conn = framed.Conn
	}
	return conn, err //nolint:wrapcheck // explain recognizes it by its type
}

// handshake closes the connection if it fails.
func (d *secureDialer) handshake(ctx context.Context, conn net.Conn, addr string, protocols ...string) (*tls.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("read the address: %w", err)
	}
	config := d.transport.TLSClientConfig.Clone()
	config.ServerName, config.NextProtos = host, protocols
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	secured := tls.Client(conn, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err //nolint:wrapcheck // explain recognizes it by its type
	}
	return secured, nil
}

// socks has a SOCKS5 proxy connect to the address, whose name it resolves.
func (d *secureDialer) socks(ctx context.Context, network, addr string) (net.Conn, error) {
	var auth *proxy.Auth
	if u := d.proxy.User; u != nil {
		password, _ := u.Password()
		auth = &proxy.Auth{User: u.Username(), Password: password}
	}
	dialer, err := proxy.SOCKS5(network, hostPort(d.proxy), auth, forward(dial))
	if err != nil {
		return nil, fmt.Errorf("use the proxy: %w", err)
	}
	contextual, ok := dialer.(proxy.ContextDialer)
	if !ok {
		return nil, fmt.Errorf("a %T cannot be given up", dialer)
	}
	conn, err := contextual.DialContext(ctx, network, addr)
	if err != nil {
		return nil, fmt.Errorf("connect through the proxy: %w", err)
	}
	return conn, nil
}

// forward is a function that dials, as package proxy wants it.
type forward func(ctx context.Context, network, addr string) (net.Conn, error)

// DialContext implements [proxy.ContextDialer].
func (f forward) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return f(ctx, network, addr)
}

// Dial implements [proxy.Dialer].
func (f forward) Dial(network, addr string) (net.Conn, error) {
	return f(context.Background(), network, addr)
}

// tunnel has an HTTP proxy connect to the address (RFC 9110 §9.3.6).
func (d *secureDialer) tunnel(ctx context.Context, conn net.Conn, addr string) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = conn.SetDeadline(time.Now().Add(connectTimeout)) // it fails only on a closed connection, where it does not matter
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: addr}, Host: addr, Header: http.Header{"User-Agent": {""}}}
	if u := d.proxy.User; u != nil {
		password, _ := u.Password()
		req.SetBasicAuth(u.Username(), password)
		req.Header["Proxy-Authorization"] = req.Header["Authorization"]
		delete(req.Header, "Authorization")
	}
	status, err := ask(conn, req)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx) //nolint:wrapcheck // it is not shown
	case err != nil:
		return fmt.Errorf("ask the proxy: %w", err)
	case status != http.StatusOK:
		return fmt.Errorf("the proxy answered with status %d", status)
	}
	if !stop() { // the deadline may be overwritten at any moment
		return context.Cause(ctx) //nolint:wrapcheck // it is not shown
	}
	_ = conn.SetDeadline(time.Time{})
	return nil
}

// ask makes an exchange with a proxy, and returns the status of its answer. Its reader can
// hold no byte beyond the answer, since a TLS server does not speak first.
func ask(conn net.Conn, req *http.Request) (int, error) {
	if err := req.Write(conn); err != nil {
		return 0, err //nolint:wrapcheck // the caller does
	}
	res, err := http.ReadResponse(bufio.NewReader(io.LimitReader(conn, maxResponseHeaders)), req)
	if err != nil {
		return 0, err //nolint:wrapcheck // as above
	}
	_ = res.Body.Close() // the connection stays open
	return res.StatusCode, nil
}
