package api

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/internal/setting"
)

const friend = "https://console.example"

func corsFor(credentials bool) func(*Config) {
	return func(c *Config) {
		c.Server.CORS = CORS{Origins: []string{friend, "http://localhost:3000"}, Credentials: credentials}
	}
}

func corsHeaders(h http.Header) []string {
	var found []string
	for name := range h {
		if strings.HasPrefix(name, "Access-Control-") {
			found = append(found, name)
		}
	}
	return found
}

func preflight(path, origin string) call {
	return call{method: "OPTIONS", path: path, headers: []string{
		"Origin: " + origin, "Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization,content-type",
	}}
}

func TestCORSIsOffByDefault(t *testing.T) {
	t.Parallel()
	f := setup(t, everyDialect)
	for _, r := range f.table() {
		path := strings.NewReplacer(":id", "none", ":instance", "i").Replace(r.path)
		for _, one := range []call{{method: r.method, path: path, headers: []string{"Origin: " + friend}}, preflight(path, friend)} {
			w := serve(f, one.request(t))
			require.Empty(t, corsHeaders(w.Header()), "%s %s", one.method, path)
			require.NotContains(t, w.Header().Values("Vary"), "Origin")
		}
		require.NotEqual(t, http.StatusNoContent, serve(f, preflight(path, friend).request(t)).Code, path)
	}
}

func TestAPageOfAConfiguredOriginMayAsk(t *testing.T) {
	t.Parallel()
	f := setup(t, everyDialect, passthrough, corsFor(false))
	for _, r := range f.table() {
		path := strings.NewReplacer(":id", "none", ":instance", "i").Replace(r.path)
		w := serve(f, preflight(path, friend).request(t))
		require.Equal(t, http.StatusNoContent, w.Code, "a preflight has no credential: %s", path)
		require.Equal(t, friend, w.Header().Get("Access-Control-Allow-Origin"))
		require.Equal(t, "GET, HEAD, POST, DELETE", w.Header().Get("Access-Control-Allow-Methods"))
		require.Contains(t, w.Header().Get("Access-Control-Allow-Headers"), "Authorization")
		require.Contains(t, w.Header().Get("Access-Control-Allow-Headers"), "X-Batchd-Key")
		require.NotContains(t, w.Header(), "Access-Control-Allow-Credentials")
		requireSecurityHeaders(t, w.Header())

		w = serve(f, call{method: r.method, path: path, headers: []string{"Origin: " + friend}}.request(t))
		require.Equal(t, friend, w.Header().Get("Access-Control-Allow-Origin"), "an error, too: %s %s", r.method, path)
		require.Contains(t, w.Header().Values("Vary"), "Origin")
	}
	// A page can read every header by which the API tells something.
	w := f.do(t, call{method: "POST", path: "/batch", body: two, headers: []string{"Origin: " + friend, "Authorization: Bearer a"}})
	exposed := strings.Split(w.Header().Get("Access-Control-Expose-Headers"), ", ")
	for name := range w.Header() {
		switch {
		case name == "Content-Type", name == "Cache-Control", name == "Vary", strings.HasPrefix(name, "Access-Control-"):
		case w.Header().Get(name) != "" && !isSecurityHeader(name):
			require.True(t, contains(exposed, name), name)
		}
	}
}

func isSecurityHeader(name string) bool {
	for _, h := range securityHeaders {
		if h[0] == name {
			return true
		}
	}
	return false
}

func contains(names []string, name string) bool {
	for _, n := range names {
		if strings.EqualFold(n, name) {
			return true
		}
	}
	return false
}

func TestAnotherOriginGetsNoPermission(t *testing.T) {
	t.Parallel()
	for _, credentials := range []bool{false, true} {
		f := setup(t, passthrough, corsFor(credentials))
		for _, origin := range []string{
			"https://evil.example", "null", "", "*", "http://console.example", "https://console.example:443", "https://console.example.evil.example", "https://evil.console.example",
			"https://console.example/", "https://console.example evil", "https://CONSOLE.example", "HTTPS://console.example", "https://consolexexample", "http://localhost", "http://localhost:30000",
			"https://console.example, https://evil.example", "https://console.example\t",
		} {
			r := call{method: "GET", path: "/healthz"}.request(t)
			r.Header["Origin"] = []string{origin}
			w := serve(f, r)
			require.Empty(t, corsHeaders(w.Header()), origin)
			require.Contains(t, w.Header().Values("Vary"), "Origin", "a cache must not give this answer to another origin")
			r = preflight("/batch", "x").request(t)
			r.Header["Origin"] = []string{origin}
			w = serve(f, r)
			require.Empty(t, corsHeaders(w.Header()), origin)
			require.Equal(t, http.StatusMethodNotAllowed, w.Code)
		}
		r := call{method: "GET", path: "/healthz", headers: []string{"Origin: " + friend, "Origin: https://evil.example"}}.request(t)
		require.Empty(t, corsHeaders(serve(f, r).Header()))
		id := f.created(t, call{body: two, headers: []string{"Authorization: Bearer a"}})
		w := serve(f, call{method: "GET", path: "/batch/" + id + "/results", headers: []string{"Origin: " + friend, "Authorization: Bearer a"}}.request(t))
		require.Equal(t, credentials, w.Header().Get("Access-Control-Allow-Credentials") == "true")
		require.Equal(t, []string{"Origin", "Accept"}, w.Header().Values("Vary"))
	}
}

// Without authentication a page of a configured origin may read, as the guard lets it, and no more.
func TestCORSDoesNotWeakenTheGuard(t *testing.T) {
	t.Parallel()
	f := setup(t, corsFor(true), everyDialect)
	for _, r := range f.table() {
		path := strings.NewReplacer(":id", "none", ":instance", "i").Replace(r.path)
		if r.method == http.MethodPost || r.method == http.MethodDelete {
			w := serve(f, call{method: r.method, path: path, headers: []string{"Origin: " + friend, "Content-Type: text/plain"}, body: two}.request(t))
			require.Equal(t, http.StatusForbidden, w.Code, path)
		}
	}
	require.Empty(t, f.store.batches)
	for _, one := range []call{preflight("/batch", friend), {method: "GET", path: "/batch", headers: []string{"Origin: " + friend}}} {
		r := one.request(t)
		r.Host = "evil.example"
		w := serve(f, r)
		require.Equal(t, http.StatusMisdirectedRequest, w.Code)
		require.Empty(t, corsHeaders(w.Header()))
	}
	require.Equal(t, http.StatusOK, serve(f, call{method: "GET", path: "/batch", headers: []string{"Origin: " + friend}}.request(t)).Code)
}

func TestSettingsOfCORS(t *testing.T) {
	t.Parallel()
	for origin, want := range map[string]string{
		friend: "", "http://localhost:3000": "", "https://[::1]:8443": "", "http://x:443": "",
		"*": "unknown sites", "https://*.example.com": "unknown sites", "null": "as an origin", "": "as an origin", "https://": "as an origin",
		"console.example": "as an origin", "https://console.example/": "as an origin", "https://Console.example": "as an origin", "https://u@console.example": "as an origin",
		"https://console.example?x": "as an origin", "ftp://console.example": "as an origin", "file://x": "as an origin",
		"https://console.example:443": "default port", "http://x:80": "default port", "https://x:": "default port",
	} {
		var faults setting.Faults
		CORS{Origins: []string{origin}, Credentials: true}.Check(setting.NewChecker(&faults))
		if want == "" {
			require.NoError(t, faults.Err(), origin)
		} else {
			require.ErrorContains(t, faults.Err(), want, origin)
		}
	}
	_, err := New(Config{Store: newFakeStore(), Targets: []string{"crm"}, Auth: auth.Config{}, Server: ServerConfig{CORS: CORS{Credentials: true}}})
	require.ErrorContains(t, err, "server.cors.credentials: there are no origins")
}
