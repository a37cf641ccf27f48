package api

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/auth"
)

// listening serves a fixture, and returns a function that sends a request with a Host and headers to it.
func listening(t *testing.T, options ...func(*Config)) (*fixture, string, func(method, path, host string, headers ...string) int) {
	t.Helper()
	f := setup(t, options...)
	srv := httptest.NewServer(f.Handler())
	t.Cleanup(srv.Close)
	_, port, err := net.SplitHostPort(srv.Listener.Addr().String())
	require.NoError(t, err)
	return f, port, func(method, path, host string, headers ...string) int {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, srv.URL+path, strings.NewReader(two))
		require.NoError(t, err)
		r.Host = strings.ReplaceAll(host, "PORT", port)
		r.Header.Set("Content-Type", "application/json")
		for _, h := range headers {
			name, value, _ := strings.Cut(h, ": ")
			if value = strings.ReplaceAll(value, "PORT", port); name == "Content-Type" {
				r.Header.Set(name, value)
			} else {
				r.Header.Add(name, value)
			}
		}
		resp, err := srv.Client().Do(r)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		return resp.StatusCode
	}
}

func TestWithoutAuthenticationTheHostIsTheServers(t *testing.T) {
	t.Parallel()
	hosts := func(c *Config) { c.Auth.Hosts = []string{"Batchd.example", "other.example:81", "[fd00::1]"} }
	_, port, send := listening(t, hosts)
	for _, host := range []string{
		"127.0.0.1:PORT", "localhost:PORT", "LOCALHOST:PORT", "localhost.:PORT", "[::1]:PORT", "[0:0::1]:PORT", "[::ffff:127.0.0.1]:PORT",
		"batchd.example", "BATCHD.example.", "batchd.example:9", "other.example:81", "[fd00::1]:PORT",
	} {
		require.Equal(t, http.StatusAccepted, send("POST", "/batch", host), host)
	}
	for _, host := range []string{
		"evil.example", "evil.example:PORT", "127.0.0.1", "127.0.0.1:1", "localhost", "localhost:1", "localhost.evil.example:PORT", "127.0.0.1.evil.example:PORT",
		"evil-localhost:PORT", "a.localhost:PORT", "0.0.0.0:PORT", "10.0.0.1:PORT", "127.0.0.2:PORT", "2130706433:PORT", "127.1:PORT", "0177.0.0.1:PORT", "localhost:0PORT",
		"batchd.example.evil", "other.example", "other.example:82", "localhost:PORT:PORT", "[localhost]:PORT", "evil.example:PORT@localhost:PORT",
	} {
		require.Contains(t, []int{http.StatusMisdirectedRequest, http.StatusBadRequest}, send("POST", "/batch", host), host)
	}

	// No header of a proxy replaces the Host.
	require.Equal(t, http.StatusMisdirectedRequest, send("GET", "/batch", "evil.example", "X-Forwarded-Host: localhost:"+port, "Forwarded: host=localhost:"+port))

	f, _, send := listening(t, everyDialect)
	for _, r := range append(f.table(), route{method: "GET", path: "/nothing"}, route{method: "PUT", path: "/batch"}) {
		path := strings.NewReplacer(":id", "batch-1", ":instance", "i").Replace(r.path)
		require.Equal(t, http.StatusMisdirectedRequest, send(r.method, path, "evil.example:PORT"), "%s %s", r.method, path)
	}
	require.Empty(t, f.store.batches)

	p := requireProblem(t, serve(setup(t), func() *http.Request {
		r := call{method: "GET", path: "/batch"}.request(t)
		r.Host = "evil.example"
		return r
	}()), http.StatusMisdirectedRequest)
	require.Contains(t, p.Detail, "auth.hosts")
}

func TestWithoutAuthenticationOtherSitesChangeNothing(t *testing.T) {
	t.Parallel()
	f, _, send := listening(t, everyDialect, func(c *Config) { c.Auth.Hosts = []string{"batchd.example", "batchd.example:8443"} })
	foreign := [][]string{
		{"Origin: https://evil.example"},
		{"Origin: null"},
		{"Origin: "},
		{"Origin: http://localhost:1"},
		{"Origin: https://localhost:PORT"},
		{"Origin: http://localhost"},
		{"Origin: http://127.0.0.1:PORT"},
		{"Origin: http://localhost:PORT.evil.example"},
		{"Origin: http://localhost:PORT/"},
		{"Origin: file://"},
		{"Origin: moz-extension://localhost:PORT"},
		{"Origin: http://localhost:PORT", "Origin: https://evil.example"},
		{"Origin: localhost:PORT"},
		{"Sec-Fetch-Site: cross-site"},
		{"Sec-Fetch-Site: same-site"},
		{"Sec-Fetch-Site: same-site", "Origin: http://localhost:PORT"},
		{"Sec-Fetch-Site: same-origin", "Origin: https://evil.example"},
		{"Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: cross-site"},
	}
	for _, headers := range foreign {
		for _, media := range []string{"application/json", "text/plain", "text/plain;charset=utf-8", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/x-ndjson"} {
			require.Equal(t, http.StatusForbidden, send("POST", "/batch", "localhost:PORT", append([]string{"Content-Type: " + media}, headers...)...), "%s %q", media, headers)
		}
		require.Equal(t, http.StatusOK, send("GET", "/batch", "localhost:PORT", headers...), headers)
	}
	for _, r := range append(f.table(), route{method: "PUT", path: "/nothing"}, route{method: "PATCH", path: "/batch"}) {
		path := strings.NewReplacer(":id", "batch-1", ":instance", "i").Replace(r.path)
		switch r.method {
		case http.MethodGet, http.MethodHead, http.MethodOptions:
		default:
			require.Equal(t, http.StatusForbidden, send(r.method, path, "localhost:PORT", "Origin: https://evil.example"), "%s %s", r.method, path)
			require.Equal(t, http.StatusForbidden, send(r.method, path, "localhost:PORT", "Sec-Fetch-Site: cross-site"), "%s %s", r.method, path)
		}
	}
	require.Empty(t, f.store.batches)

	for host, headers := range map[string][]string{
		"localhost:PORT":      {"Origin: http://localhost:PORT", "Sec-Fetch-Site: same-origin"},
		"127.0.0.1:PORT":      {"Origin: http://127.0.0.1:PORT"},
		"[::1]:PORT":          {"Sec-Fetch-Site: none"},
		"batchd.example":      {"Origin: https://batchd.example"}, // a proxy terminates TLS
		"batchd.example:443":  {"Origin: https://batchd.example"},
		"batchd.example:8443": {"Origin: https://batchd.example:8443"},
	} {
		require.Equal(t, http.StatusAccepted, send("POST", "/batch", host, headers...), host)
	}
}

func TestAListenerForOthersNeedsConsent(t *testing.T) {
	t.Parallel()
	f := setup(t)
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "0.0.0.0:0")
	require.NoError(t, err)
	require.ErrorContains(t, f.Run(t.Context(), ln), "auth.allow_open_listener: true")
	_, err = ln.Accept()
	require.ErrorIs(t, err, net.ErrClosed)
	for _, c := range []auth.Config{{Modes: []auth.Mode{auth.ModeNone}, AllowOpenListener: true}, {Modes: []auth.Mode{auth.ModePassthrough}}} {
		require.NoError(t, c.CheckListener(ln.Addr().String()))
	}
}
