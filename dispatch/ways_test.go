package dispatch

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/batchd/batchd/internal/batch"
)

// way is a way to a raw target.
type way struct {
	name string
	// reach starts a target that answers by the script, and returns a dispatcher for it.
	reach func(t *testing.T, script func(w *wire)) (*rawTarget, *Dispatcher)
}

func ways() []way {
	certificate := func(t *testing.T) (*httptest.Server, *tls.Config) {
		t.Helper()
		srv := httptest.NewTLSServer(http.NotFoundHandler())
		t.Cleanup(srv.Close)
		return srv, &tls.Config{Certificates: srv.TLS.Certificates, MinVersion: tls.VersionTLS12}
	}
	secured := func(t *testing.T, script func(w *wire)) (*rawTarget, *httptest.Server) {
		t.Helper()
		srv, config := certificate(t)
		target := newRawTarget(t, func(w *wire) {
			conn := tls.Server(w.Conn, config)
			script(&wire{Conn: conn, in: bufio.NewReader(conn), target: w.target, number: w.number})
			_ = conn.CloseWrite()
		})
		return target, srv
	}
	return []way{
		{"plain", func(t *testing.T, script func(w *wire)) (*rawTarget, *Dispatcher) {
			t.Helper()
			target := newRawTarget(t, script)
			return target, newDispatcher(t, batch.Target{BaseURL: target.url})
		}},
		{"secured", func(t *testing.T, script func(w *wire)) (*rawTarget, *Dispatcher) {
			t.Helper()
			target, srv := secured(t, script)
			return target, trusting(newDispatcher(t, batch.Target{BaseURL: strings.Replace(target.url, "http:", "https:", 1)}), srv)
		}},
		{"proxied", func(t *testing.T, script func(w *wire)) (*rawTarget, *Dispatcher) {
			t.Helper()
			target := newRawTarget(t, script)
			return target, newDispatcher(t, batch.Target{BaseURL: "http://crm.invalid", Proxy: target.url})
		}},
		{"through a SOCKS5 proxy", func(t *testing.T, script func(w *wire)) (*rawTarget, *Dispatcher) {
			t.Helper()
			target := newRawTarget(t, script)
			return target, newDispatcher(t, batch.Target{BaseURL: target.url, Proxy: newSocks(t)})
		}},
		{"secured through a proxy", func(t *testing.T, script func(w *wire)) (*rawTarget, *Dispatcher) {
			t.Helper()
			target, srv := secured(t, script)
			proxy := newTunnel(t)
			return target, trusting(newDispatcher(t, batch.Target{BaseURL: strings.Replace(target.url, "http:", "https:", 1), Proxy: proxy}), srv)
		}},
	}
}

// newTunnel is a proxy that makes tunnels.
func newTunnel(t *testing.T) string {
	t.Helper()
	proxy := newRawTarget(t, func(w *wire) {
		req := w.request()
		if req == nil || req.Method != http.MethodConnect {
			return
		}
		to, err := net.Dial("tcp", req.Host)
		if err != nil {
			return
		}
		w.say("HTTP/1.1 200 Connected\r\n\r\n")
		go func() { _, _ = io.Copy(to, w.in); _ = to.Close() }()
		_, _ = io.Copy(w.Conn, to)
	})
	return proxy.url
}

// newSocks is a proxy that speaks SOCKS5 (RFC 1928), for IPv4 addresses.
func newSocks(t *testing.T) string {
	t.Helper()
	proxy := newRawTarget(t, func(w *wire) {
		var greeting [3]byte // the version, and one method
		if _, err := io.ReadFull(w.in, greeting[:]); err != nil || !w.say("\x05\x00") {
			return
		}
		var command [10]byte
		if _, err := io.ReadFull(w.in, command[:]); err != nil {
			return
		}
		to, err := net.DialTCP("tcp", nil, &net.TCPAddr{IP: command[4:8], Port: int(command[8])<<8 | int(command[9])})
		if err != nil {
			return
		}
		w.say("\x05\x00\x00\x01" + "\x7f\x00\x00\x01" + "\x00\x50")
		go func() { _, _ = io.Copy(to, w.in); _ = to.Close() }()
		_, _ = io.Copy(w.Conn, to)
	})
	return strings.Replace(proxy.url, "http:", "socks5:", 1)
}

// everyWay runs a test for all ways.
func everyWay(t *testing.T, test func(t *testing.T, reach func(t *testing.T, script func(w *wire)) (*rawTarget, *Dispatcher))) {
	t.Helper()
	for _, way := range ways() {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			test(t, way.reach)
		})
	}
}
