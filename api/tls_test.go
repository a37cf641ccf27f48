package api

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/internal/certs"
	"github.com/batchd/batchd/internal/certs/certstest"
)

// secured gives a server a certificate, and returns the authority.
func secured(t *testing.T) (*certstest.Authority, func(*Config)) {
	t.Helper()
	ca := certstest.New(t, "authority")
	var files certs.Server
	files.CertFile, files.KeyFile = ca.WritePair(t, t.TempDir(), "batchd.example")
	return ca, func(c *Config) { c.Server.TLS = files }
}

func askTLS(t *testing.T, conn *tls.Conn, text string) *http.Response {
	t.Helper()
	_, err := io.WriteString(conn, text)
	require.NoError(t, err)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	return res
}

func dialTLS(t *testing.T, addr string, cfg *tls.Config) *tls.Conn {
	t.Helper()
	cfg.ServerName = "localhost"
	conn := tls.Client(dial(t, addr, ""), cfg)
	require.NoError(t, conn.SetDeadline(time.Now().Add(30*time.Second)))
	return conn
}

const health = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"

// The bounds count connections, and one of HTTP/2 would have many requests.
func TestTLSHasOneRequestPerConnection(t *testing.T) {
	t.Parallel()
	ca, files := secured(t)
	f := setup(t, files)
	addr, stop := f.running(t)
	conn := dialTLS(t, addr, &tls.Config{RootCAs: ca.Pool(), NextProtos: []string{"h2", "http/1.1"}})
	res := askTLS(t, conn, health)
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Equal(t, "http/1.1", conn.ConnectionState().NegotiatedProtocol)
	require.Error(t, dialTLS(t, addr, &tls.Config{RootCAs: ca.Pool(), NextProtos: []string{"h2"}}).HandshakeContext(t.Context()))
	require.NoError(t, stop())
}

func TestConnectionsAreBoundedWithTLS(t *testing.T) {
	t.Parallel()
	ca, files := secured(t)
	f := setup(t, files, func(c *Config) {
		c.Auth.Modes = []auth.Mode{auth.ModePassthrough}
		c.Owner = func(_ context.Context, credential string) (string, error) { return credential, nil }
		c.Limits.Capacity.Connections, c.Limits.Capacity.ConnectionsPerOwner = 3, 2
	})
	addr, stop := f.running(t)
	dialed := func() *tls.Conn { return dialTLS(t, addr, &tls.Config{RootCAs: ca.Pool()}) }
	const list = "GET /batch HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a\r\n\r\n"
	for range 2 {
		require.Equal(t, http.StatusOK, askTLS(t, dialed(), list).StatusCode)
	}
	third := dialed()
	require.Equal(t, http.StatusTooManyRequests, askTLS(t, third, list).StatusCode, "the owner has two")
	require.Eventually(t, func() bool {
		third = dialed()
		res := askTLS(t, third, health)
		return res.StatusCode == http.StatusOK
	}, 30*time.Second, 10*time.Millisecond)
	res := askTLS(t, dialed(), health)
	require.Equal(t, http.StatusServiceUnavailable, res.StatusCode, "the process has three")
	require.NotEmpty(t, res.Header.Get("Strict-Transport-Security"))
	requireSecurityHeaders(t, res.Header)
	require.NoError(t, stop())
}

// bubble serves the API with TLS in a bubble, and calls client with a connection to it.
func bubble(t *testing.T, client func(t *testing.T, f *fixture, ca *certstest.Authority, conn net.Conn)) {
	t.Helper()
	ca, files := secured(t)
	synctest.Test(t, func(t *testing.T) {
		f := setup(t, files, func(c *Config) { c.Auth.AllowOpenListener = true })
		ln := newPipes()
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- f.Run(ctx, ln) }()
		conn := ln.dial()
		client(t, f, ca, conn)
		require.NoError(t, conn.Close())
		cancel()
		require.NoError(t, <-done)
	})
}

func TestAHandshakeThatStallsIsCut(t *testing.T) {
	t.Parallel()
	hello := []byte{22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3}
	for name, send := range map[string]func(net.Conn){
		"at once":      func(net.Conn) {},
		"in the hello": func(c net.Conn) { _, _ = c.Write(hello) },
		"a byte a second": func(c net.Conn) {
			for i := range 500 {
				if _, err := c.Write(append(hello, make([]byte, 500)...)[i : i+1]); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, f *fixture, _ *certstest.Authority, conn net.Conn) { //nolint:thelper // the test itself, in a bubble
				start := time.Now()
				var sent sync.WaitGroup
				sent.Go(func() { send(conn) })
				_, err := io.Copy(io.Discard, conn)
				require.NoError(t, err)
				require.LessOrEqual(t, time.Since(start), 2*readHeaderTimeout)
				sent.Wait()
				synctest.Wait()
				require.Contains(t, f.log.String(), "TLS handshake error")
			})
		})
	}
}

func TestABodyThatStallsIsCutWithTLS(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, f *fixture, ca *certstest.Authority, raw net.Conn) { //nolint:thelper // the test itself, in a bubble
		ca.Pool()                                                      // the clock of a bubble is in another year than the certificate
		conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // see above
		start := time.Now()
		res := askTLS(t, conn, "POST /batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
		require.Equal(t, http.StatusRequestTimeout, res.StatusCode)
		require.LessOrEqual(t, time.Since(start), 3*stallTimeout)
		require.Zero(t, f.memory.inUse())
	})
}

func TestARefusalReachesAClientThatUploadsWithTLS(t *testing.T) {
	t.Parallel()
	ca, files := secured(t)
	f := setup(t, files, func(c *Config) { c.Limits.MaxBody, c.Limits.MaxActionBody = 1<<20, 1<<10 })
	addr, stop := f.running(t)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.Pool()}}}
	defer client.CloseIdleConnections()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+addr+"/batch", io.LimitReader(zeros{}, hundredMB/10))
	require.NoError(t, err)
	r.Header.Set("Content-Type", mediaJSON)
	res, err := client.Do(r)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Contains(t, []int{http.StatusRequestEntityTooLarge, http.StatusBadRequest}, res.StatusCode)
	require.NoError(t, stop())
}

func TestAServerTakesARenewedCertificate(t *testing.T) {
	t.Parallel()
	ca, files := secured(t)
	var cfg Config
	files(&cfg)
	f := setup(t, files)
	addr, stop := f.running(t)
	name := func() string {
		conn := dialTLS(t, addr, &tls.Config{RootCAs: ca.Pool()})
		require.NoError(t, conn.HandshakeContext(t.Context()))
		return conn.ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	require.Equal(t, "batchd.example", name())
	cert, key := ca.Pair(t, "renewed.example", 2*time.Hour)
	require.NoError(t, os.WriteFile(cfg.Server.TLS.CertFile, cert, 0o600))
	require.NoError(t, os.WriteFile(cfg.Server.TLS.KeyFile, key, 0o600))
	require.Eventually(t, func() bool { return name() == "renewed.example" }, time.Minute, 100*time.Millisecond)
	require.Contains(t, serve(f, call{method: "GET", path: "/metrics"}.request(t)).Body.String(), "batchd_tls_certificate_expires_timestamp_seconds 1.")
	require.NoError(t, stop())
}

func TestAServerDoesNotStartWithoutItsCertificate(t *testing.T) {
	t.Parallel()
	_, err := New(Config{Store: newFakeStore(), Targets: []string{"crm"}, Server: ServerConfig{TLS: certs.Server{CertFile: "/none.pem", KeyFile: "/none.key"}}})
	require.ErrorContains(t, err, "server.tls: cannot read /none.pem")
}

func TestFailedHandshakesDoNotFloodTheLog(t *testing.T) {
	t.Parallel()
	f := setup(t)
	synctest.Test(t, func(t *testing.T) {
		l := f.newErrorLog()
		for range 1000 {
			l.Print("http: TLS handshake error from 192.0.2.1:1: EOF")
		}
		require.Equal(t, mostFaults, strings.Count(f.log.String(), "a TLS handshake failed"))
		l.Print("http: something else")
		require.Contains(t, f.log.String(), "something else")
		time.Sleep(time.Minute)
		l.Print("http: TLS handshake error from 192.0.2.1:1: EOF")
		require.Contains(t, f.log.String(), `"suppressed":990`)
	})
	require.Contains(t, serve(f, call{method: "GET", path: "/metrics"}.request(t)).Body.String(), "batchd_tls_handshake_errors_total 1001\n")
}

func TestCredentialsInClearTextAreWarnedOf(t *testing.T) {
	t.Parallel()
	_, files := secured(t)
	for _, row := range []struct {
		mode    auth.Mode
		listen  string
		options []func(*Config)
		warns   bool
	}{
		{auth.ModePassthrough, "0.0.0.0:0", nil, true},
		{auth.ModePassthrough, "127.0.0.1:0", nil, false},
		{auth.ModePassthrough, "0.0.0.0:0", []func(*Config){files}, false},
		{auth.ModeNone, "0.0.0.0:0", nil, false},
	} {
		f := setup(t, append(row.options, func(c *Config) {
			c.Auth.Modes, c.Auth.AllowOpenListener = []auth.Mode{row.mode}, row.mode == auth.ModeNone
			c.Owner = func(_ context.Context, credential string) (string, error) { return credential, nil }
		})...)
		ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", row.listen)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := f.Run(ctx, ln); err != nil {
			require.ErrorIs(t, err, context.Canceled)
		}
		require.Equal(t, row.warns, strings.Contains(f.log.String(), "in clear text"), "%+v", row)
	}
	require.NotEmpty(t, auth.Config{Modes: []auth.Mode{auth.ModeKeys}}.PlainListener("10.0.0.1:80"))
}

func requireSecurityHeaders(t *testing.T, h http.Header) {
	t.Helper()
	for name, want := range map[string]string{
		"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
		"Referrer-Policy": "no-referrer", "Cross-Origin-Resource-Policy": "same-origin",
	} {
		require.Equal(t, []string{want}, h.Values(name), name)
	}
	require.Empty(t, h.Values("Server"))
	require.Empty(t, h.Values("X-Powered-By"))
}

// No answer may be shown as a page, whatever it has of a request or of a target.
func TestEveryAnswerHasSecurityHeaders(t *testing.T) {
	t.Parallel()
	f := setup(t, everyDialect)
	addr, stop := f.running(t)
	id := f.created(t, call{body: actions(1)})
	asked := append(f.table(), []route{
		{method: "GET", path: "/"},
		{method: "GET", path: "/<script>"},
		{method: "PUT", path: "/batch"},
		{method: "TRACE", path: "/batch"},
		{method: "OPTIONS", path: "/batch"},
		{method: "OPTIONS", path: "*"},
		{method: "HEAD", path: "/batch/" + id},
		{method: "FOO", path: "/batch"},
		{method: "CONNECT", path: "x:80"},
		{method: "GET", path: "/batch/" + id + "/results"},
		{method: "GET", path: "//"},
		{method: "GET", path: "/batch/%2e%2e"},
		{method: "GET", path: "http://x/healthz"},
	}...)
	for _, r := range asked {
		path := strings.NewReplacer(":id", id, ":instance", "i").Replace(r.path)
		if strings.HasSuffix(path, "/events") {
			path = "/batch/none/events"
		}
		for _, rest := range []string{"\r\n", "Content-Type: application/json\r\nContent-Length: 3\r\n\r\n<b>", "Host: evil\r\n\r\n"} {
			conn := dial(t, addr, r.method+" "+path+" HTTP/1.1\r\nConnection: close\r\n"+map[bool]string{true: "", false: "Host: x\r\n"}[strings.HasPrefix(rest, "Host")]+rest)
			require.NoError(t, conn.SetReadDeadline(time.Now().Add(30*time.Second)))
			res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: r.method})
			require.NoError(t, err, "%s %s", r.method, path)
			requireSecurityHeaders(t, res.Header)
			require.Empty(t, res.Header.Get("Strict-Transport-Security"))
			media := res.Header.Get("Content-Type")
			require.False(t, strings.Contains(media, "html") || strings.Contains(media, "xml") || strings.Contains(media, "svg") || strings.Contains(media, "script"), "%s %s: %s", r.method, path, media)
			require.True(t, media != "" || res.ContentLength == 0 || res.StatusCode == http.StatusNoContent, "%s %s: %d", r.method, path, res.StatusCode)
			require.NoError(t, conn.Close())
		}
	}
	require.NoError(t, stop())
}
