package api

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oauth2-proxy/mockoidc"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/internal/apikey"
	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/oidctest"
	"github.com/batchd/batchd/internal/setting"
)

// sessionMap keeps sessions in memory, and counts how often it is asked.
type sessionMap struct {
	mu   sync.Mutex
	kept map[string][]byte
	used map[string]time.Time
	asks int
}

func (s *sessionMap) PutSession(_ context.Context, group, id string, value []byte, _ time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kept == nil {
		s.kept, s.used = map[string][]byte{}, map[string]time.Time{}
	}
	s.kept[group+id], s.used[group+id] = value, time.Now()
	return nil
}

func (s *sessionMap) Session(_ context.Context, group, id string, idle time.Duration, use bool) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asks++
	value, ok := s.kept[group+id]
	if !ok || time.Since(s.used[group+id]) > idle {
		return nil, batch.ErrNoSession
	}
	if use {
		s.used[group+id] = time.Now()
	}
	return value, nil
}

func (s *sessionMap) EndSession(_ context.Context, group, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.kept, group+id)
	return nil
}

// withSessions lets people sign in by keys and at an issuer.
func withSessions(r *ring, key string, i *oidctest.Issuer, store *sessionMap) func(*Config) {
	return func(c *Config) {
		withKeys(r, key)(c)
		c.Sessions, c.Auth.Modes = store, []auth.Mode{auth.ModeKeys, auth.ModePassthrough}
		if i != nil {
			c.Auth.Modes = append(c.Auth.Modes, auth.ModeJWT)
			c.Auth.JWT = auth.JWTConfig{Issuer: i.URL, Audience: "batchd", ScopesClaim: "groups", Scopes: []auth.ScopeRule{{Value: "team", Grant: []auth.Scope{auth.Submit, auth.Read}}}}
			c.Auth.Sessions = auth.SessionConfig{ClientID: i.ClientID, ClientSecret: setting.Secret(i.ClientSecret)}
		}
	}
}

// visit makes a request of a browser over TLS.
func visit(t *testing.T, f *fixture, c call) *httptest.ResponseRecorder {
	t.Helper()
	r := c.request(t)
	r.TLS = &tls.ConnectionState{}
	return serve(f, r)
}

// cookieOf returns the cookie that an answer sets, without its attributes.
func cookieOf(t *testing.T, w *httptest.ResponseRecorder, name string) *http.Cookie {
	t.Helper()
	for _, cookie := range w.Result().Cookies() {
		if cookie.Name == name {
			return cookie
		}
	}
	require.Fail(t, "the answer sets no cookie", "%s: %d %s", name, w.Code, w.Body)
	return nil
}

func signIn(t *testing.T, f *fixture, key string, headers ...string) string {
	t.Helper()
	w := visit(t, f, call{method: "POST", path: "/session", body: `{"key":"` + key + `"}`, headers: headers})
	require.Equal(t, http.StatusNoContent, w.Code, "%s", w.Body)
	return "Cookie: __Host-batchd=" + cookieOf(t, w, "__Host-batchd").Value
}

func TestACookieAuthenticatesAsItsKey(t *testing.T) {
	t.Parallel()
	key, store := apikey.New(), &sessionMap{}
	f := setup(t, withSessions(&ring{}, key, nil, store))
	w := visit(t, f, call{method: "POST", path: "/session", body: `{"key":"` + key + `"}`})
	require.Equal(t, http.StatusNoContent, w.Code, "%s", w.Body)
	set := w.Header().Get("Set-Cookie")
	for _, attribute := range []string{"__Host-batchd=", "; Path=/", "; HttpOnly", "; Secure", "; SameSite=Strict", "; Max-Age=43200"} {
		require.Contains(t, set, attribute)
	}
	require.NotContains(t, set, "Domain")
	cookie := cookieOf(t, w, "__Host-batchd").Value
	for at, value := range store.kept {
		require.NotContains(t, at+string(value), cookie)
		require.NotContains(t, string(value), key)
	}
	w = visit(t, f, call{method: "GET", path: "/session", headers: []string{"Cookie: a=b; __Host-batchd=" + cookie}})
	require.Equal(t, http.StatusOK, w.Code, "%s", w.Body)
	var doc callerDocument
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &doc))
	require.Equal(t, "key:alice", doc.Owner)
	require.NotNil(t, doc.Session)
	w = visit(t, f, call{method: "POST", path: "/batch", body: two, headers: []string{"Cookie: __Host-batchd=" + cookie, "Origin: https://example.com"}})
	require.Equal(t, http.StatusAccepted, w.Code, "%s", w.Body)
	for _, b := range f.store.batches {
		require.Equal(t, "key:alice", b.Owner)
	}
	// Only the cookie with the right name counts, once, and only as it was set.
	for header, want := range map[string]int{
		"Cookie: batchd=" + cookie: 401, "Cookie: __Host-batchd=" + cookie + "; __Host-batchd=" + cookie: 401, "Cookie: __Host-batchd=" + cookie + "A": 401,
		"Cookie: __Host-batchd=": 401, "Cookie: __Host-batchd=x": 401, "Cookie: __host-batchd=" + cookie: 401, "Cookie: __Host-batchd=" + strings.Repeat("A", len(cookie)): 401,
	} {
		require.Equal(t, want, visit(t, f, call{method: "GET", path: "/session", headers: []string{header}}).Code, header)
	}
	require.NotContains(t, f.log.String(), cookie)
}

func TestASessionIsRefusedToOtherSites(t *testing.T) {
	t.Parallel()
	key := apikey.New()
	f := setup(t, withSessions(&ring{}, key, nil, &sessionMap{}))
	cookie := signIn(t, f, key)
	for _, c := range []call{
		{method: "POST", path: "/batch", body: two},
		{method: "DELETE", path: "/batch/x"},
		{method: "POST", path: "/batch/x/cancel"},
		{method: "POST", path: "/batch/x/retry"},
		{method: "DELETE", path: "/session"},
		{method: "POST", path: "/session", body: `{"key":"` + key + `"}`},
	} {
		for _, header := range []string{"Origin: https://evil.example", "Origin: null", "Origin: http://example.com", "Origin: https://example.com:444", "Origin: https://sub.example.com", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site"} {
			c.headers = []string{cookie, header}
			w := visit(t, f, c)
			require.Equal(t, http.StatusForbidden, w.Code, "%s %s %s: %s", c.method, c.path, header, w.Body)
			require.Empty(t, w.Header().Values("Set-Cookie"))
		}
	}
	require.Zero(t, f.store.holds())
	require.Equal(t, http.StatusOK, visit(t, f, call{method: "GET", path: "/session", headers: []string{cookie}}).Code)
	w := visit(t, f, call{method: "GET", path: "http://evil.example/session", headers: []string{cookie}})
	require.Equal(t, http.StatusMisdirectedRequest, w.Code)
}

func TestOnlyJSONSignsIn(t *testing.T) {
	t.Parallel()
	key, store := apikey.New(), &sessionMap{}
	f := setup(t, withSessions(&ring{}, key, nil, store))
	good := `{"key":"` + key + `"}`
	for _, row := range []struct {
		media, body string
		want        int
	}{
		{"text/plain", good, 415},
		{"application/x-www-form-urlencoded", "key=" + key, 415},
		{"", good, 415},
		{"multipart/form-data; boundary=x", good, 415},
		{"application/json", `{"key":"` + apikey.New() + `"}`, 401},
		{"application/json", `{"key":"x"}`, 401},
		{"application/json", `{}`, 400},
		{"application/json", `{"key":7}`, 400},
		{"application/json", `{"key":"` + key + `","key":"` + key + `"}`, 400},
		{"application/json", `{"key":"` + key + `","owner":"root"}`, 400},
		{"application/json", good + good, 400},
		{"application/json", `{"key":"` + strings.Repeat("a", 5000) + `"}`, 413},
	} {
		r := httptest.NewRequest(http.MethodPost, "/session", strings.NewReader(row.body))
		r.Header.Set("Content-Type", row.media)
		r.TLS = &tls.ConnectionState{}
		w := serve(f, r)
		require.Equal(t, row.want, w.Code, "%s %s: %s", row.media, row.body, w.Body)
		require.Empty(t, w.Header().Values("Set-Cookie"))
	}
	require.Empty(t, store.kept)
	// Without TLS the cookie would cross the network in clear, except on a loopback address.
	w := serve(f, call{method: "POST", path: "/session", body: good}.request(t))
	require.Equal(t, http.StatusForbidden, w.Code)
	local := call{method: "POST", path: "http://127.0.0.1:8080/session", body: good}.request(t)
	local = local.WithContext(context.WithValue(local.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8080}))
	w = serve(f, local)
	require.Equal(t, http.StatusNoContent, w.Code, "%s", w.Body)
	plain := cookieOf(t, w, "batchd")
	require.False(t, plain.Secure)
	require.True(t, plain.HttpOnly)
	require.Equal(t, http.SameSiteStrictMode, plain.SameSite)
	requireProblem(t, serve(setup(t), call{method: "POST", path: "/session", body: good}.request(t)), http.StatusNotFound)
}

func TestASignInHasANewIDAndEndsTheOldSession(t *testing.T) {
	t.Parallel()
	key, store := apikey.New(), &sessionMap{}
	f := setup(t, withSessions(&ring{}, key, nil, store))
	first := signIn(t, f, key)
	second := signIn(t, f, key, first)
	require.NotEqual(t, first, second)
	require.Equal(t, http.StatusUnauthorized, visit(t, f, call{method: "GET", path: "/session", headers: []string{first}}).Code)
	require.Equal(t, http.StatusOK, visit(t, f, call{method: "GET", path: "/session", headers: []string{second}}).Code)
	w := visit(t, f, call{method: "DELETE", path: "/session", headers: []string{second}})
	require.Equal(t, http.StatusNoContent, w.Code)
	require.Negative(t, cookieOf(t, w, "__Host-batchd").MaxAge)
	require.Empty(t, store.kept)
	require.Equal(t, http.StatusUnauthorized, visit(t, f, call{method: "GET", path: "/session", headers: []string{second}}).Code)
	require.Equal(t, http.StatusNoContent, visit(t, f, call{method: "DELETE", path: "/session"}).Code)
}

func TestSessionsEndWithTheirKeyAndWithTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		key, r, store := apikey.New(), &ring{}, &sessionMap{}
		f := setup(t, withSessions(r, key, nil, store))
		is := func(cookie string) int {
			return visit(t, f, call{method: "GET", path: "/session", headers: []string{cookie}}).Code
		}
		cookie := signIn(t, f, key)
		for range 13 {
			require.Equal(t, http.StatusOK, is(cookie))
			time.Sleep(50 * time.Minute)
		}
		require.Equal(t, http.StatusOK, is(cookie))
		time.Sleep(50 * time.Minute)
		time.Sleep(30 * time.Minute)
		require.Equal(t, http.StatusUnauthorized, is(cookie), "use does not go beyond the lifetime")
		cookie = signIn(t, f, key)
		time.Sleep(61 * time.Minute)
		require.Equal(t, http.StatusUnauthorized, is(cookie), "it was idle")

		cookie = signIn(t, f, key)
		id := f.created(t, call{body: two, headers: []string{"X-Batchd-Key: " + key}})
		done := make(chan string)
		go func() {
			done <- visit(t, f, call{method: "GET", path: "/batch/" + id + "/events", headers: []string{cookie}}).Body.String()
		}()
		time.Sleep(time.Minute)
		store.mu.Lock()
		asks := store.asks
		store.mu.Unlock()
		require.Less(t, asks, 200, "a stream asks for its session from time to time only")
		r.set(nil, 1)
		start := time.Now()
		require.Contains(t, <-done, "no longer valid")
		require.Less(t, time.Since(start), 8*time.Second)
		require.Equal(t, http.StatusUnauthorized, is(cookie), "the key was revoked")
	})
}

// begin begins a sign-in at the provider, and returns the cookie and where the provider sends the browser.
func begin(t *testing.T, f *fixture, returnTo string, headers ...string) (cookie, back string) {
	t.Helper()
	w := visit(t, f, call{method: "GET", path: "/session/login" + returnTo, headers: headers})
	require.Equal(t, http.StatusSeeOther, w.Code, "%s", w.Body)
	set := cookieOf(t, w, "__Host-batchd-login")
	require.True(t, set.HttpOnly && set.Secure && set.SameSite == http.SameSiteLaxMode && set.Path == "/" && set.MaxAge == 600, set.Raw)
	location, err := url.Parse(w.Header().Get("Location"))
	require.NoError(t, err)
	query := location.Query()
	require.Equal(t, "S256", query.Get("code_challenge_method"))
	for _, name := range []string{"state", "nonce", "code_challenge"} {
		require.Len(t, query.Get(name), 43, name)
		require.NotContains(t, set.Value, query.Get(name))
	}
	require.Equal(t, "https://example.com/session/callback", query.Get("redirect_uri"))
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Get(location.String())
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	client.CloseIdleConnections()
	return "Cookie: __Host-batchd-login=" + set.Value, strings.TrimPrefix(resp.Header.Get("Location"), "https://example.com")
}

func TestPeopleSignInAtTheProvider(t *testing.T) {
	t.Parallel()
	i, store := oidctest.Start(t), &sessionMap{}
	f := setup(t, withSessions(&ring{}, apikey.New(), i, store), func(c *Config) { c.Auth.Sessions.Scopes = []string{"openid", "groups"} })
	i.SignIn(&mockoidc.MockUser{Subject: "alice", Groups: []string{"team"}})
	cookie, back := begin(t, f, "?return_to=/batch%3Flimit=5%26x=%2527")
	w := visit(t, f, call{method: "GET", path: back, headers: []string{cookie}})
	require.Equal(t, http.StatusOK, w.Code, "%s", w.Body)
	require.Regexp(t, `content="0; url=/batch\?limit=5&amp;x=%27"`, w.Body.String())
	require.Equal(t, "text/html; charset=utf-8", w.Header().Get("Content-Type"))
	require.Negative(t, cookieOf(t, w, "__Host-batchd-login").MaxAge)
	session := "Cookie: __Host-batchd=" + cookieOf(t, w, "__Host-batchd").Value
	w = visit(t, f, call{method: "GET", path: "/whoami", headers: []string{session}})
	var doc callerDocument
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &doc))
	require.Equal(t, auth.JWTOwner(i.URL, "alice"), doc.Owner)
	require.Equal(t, auth.Scopes{auth.Submit, auth.Read}, doc.Scopes)
	require.Len(t, doc.Targets, 2)

	// A code works once, in the browser that began, and with its own state.
	require.Equal(t, http.StatusUnauthorized, visit(t, f, call{method: "GET", path: back, headers: []string{cookie}}).Code)
	_, attackers := begin(t, f, "")
	victims, own := begin(t, f, "")
	state := regexp.MustCompile(`state=[^&]*`)
	for about, c := range map[string]call{
		"without a cookie":          {path: own},
		"an attacker's code":        {path: attackers, headers: []string{victims}},
		"without a state":           {path: state.ReplaceAllString(own, ""), headers: []string{victims}},
		"two states":                {path: own + "&state=x", headers: []string{victims}},
		"two cookies":               {path: own, headers: []string{victims + "; " + strings.TrimPrefix(cookie, "Cookie: ")}},
		"the cookie without __Host": {path: own, headers: []string{strings.Replace(victims, "__Host-", "", 1)}},
		"another issuer":            {path: own + "&iss=https://evil.example", headers: []string{victims}},
		"a refusal":                 {path: "/session/callback?error=access_denied&" + state.FindString(own), headers: []string{victims}},
		"no code":                   {path: "/session/callback?" + state.FindString(own), headers: []string{victims}},
	} {
		c.method = "GET"
		w := visit(t, f, c)
		require.Equal(t, http.StatusUnauthorized, w.Code, "%s: %s", about, w.Body)
		for _, set := range w.Result().Cookies() {
			require.NotEqual(t, "__Host-batchd", set.Name, about)
		}
	}
	require.Equal(t, http.StatusOK, visit(t, f, call{method: "GET", path: own, headers: []string{victims}}).Code, "the victim's own sign-in still works")

	// A sign-in asks the provider once, also about a wrong code.
	for about, path := range map[string]string{"the code with the state": attackers, "an invented code": "/session/callback?code=x&state="} { // nonce and verifier
		cookie, own := begin(t, f, "")
		w := visit(t, f, call{method: "GET", path: state.ReplaceAllString(path, state.FindString(own)), headers: []string{cookie}})
		require.Equal(t, http.StatusUnauthorized, w.Code, "%s: %s", about, w.Body)
		asked := i.Requests()
		require.Equal(t, http.StatusUnauthorized, visit(t, f, call{method: "GET", path: own, headers: []string{cookie}}).Code, about)
		require.Equal(t, asked, i.Requests(), about)
	}
}

// Without a credential, a visitor can neither stop the sign-ins of others nor flood the provider.
func TestAVisitorDoesNotStopTheSignInsOfOthers(t *testing.T) {
	t.Parallel()
	i := oidctest.Start(t)
	f := setup(t, withSessions(&ring{}, apikey.New(), i, &sessionMap{}), func(c *Config) { c.Auth.Sessions.Scopes = []string{"openid", "groups"} })
	callback := func(from, path, cookie string) *httptest.ResponseRecorder {
		r := call{method: "GET", path: path, headers: []string{cookie}}.request(t)
		r.TLS, r.RemoteAddr = &tls.ConnectionState{}, from+":1234"
		return serve(f, r)
	}
	state := regexp.MustCompile(`state=[^&]*`)
	cookie, back := begin(t, f, "")
	replay := "/session/callback?code=bogus&" + state.FindString(back)
	require.Equal(t, http.StatusUnauthorized, callback("192.0.2.1", replay, cookie).Code)
	asked := i.Requests()
	for range 200 {
		w := callback("192.0.2.1", replay, cookie)
		require.Equal(t, http.StatusUnauthorized, w.Code, "%s", w.Body)
	}
	require.Equal(t, asked, i.Requests(), "a cookie that comes again costs the provider nothing")

	busy := 0
	for n := range 40 { // with new cookies, which cost nothing
		w := visit(t, f, call{method: "GET", path: "/session/login"})
		location, err := url.Parse(w.Header().Get("Location"))
		require.NoError(t, err)
		w = callback("192.0.2.1", "/session/callback?code=bogus&state="+location.Query().Get("state"), "Cookie: __Host-batchd-login="+cookieOf(t, w, "__Host-batchd-login").Value)
		if w.Code == http.StatusServiceUnavailable {
			busy++
			require.Equal(t, kindBusy.problem("").Type, requireProblem(t, w, http.StatusServiceUnavailable).Type)
			require.NotContains(t, w.Body.String(), "keys")
			require.NotEmpty(t, w.Header().Get("Retry-After"))
			continue
		}
		require.Equal(t, http.StatusUnauthorized, w.Code, "%d: %s", n, w.Body)
	}
	require.NotZero(t, busy)
	i.SignIn(&mockoidc.MockUser{Subject: "alice", Groups: []string{"team"}})
	cookie, back = begin(t, f, "")
	require.Equal(t, http.StatusOK, callback("192.0.2.2", back, cookie).Code)
}

// The provider sends the browser back without its cookie, because that is SameSite=Strict.
func TestASignInAtTheProviderEndsTheSessionBefore(t *testing.T) {
	t.Parallel()
	i, key, store := oidctest.Start(t), apikey.New(), &sessionMap{}
	f := setup(t, withSessions(&ring{}, key, i, store), func(c *Config) { c.Auth.Sessions.Scopes = []string{"openid", "groups"} })
	before := signIn(t, f, key)
	cookie, back := begin(t, f, "", before)
	require.Equal(t, http.StatusOK, visit(t, f, call{method: "GET", path: "/session", headers: []string{before}}).Code, "until the sign-in ends")
	for _, more := range []string{".x.y", "." + strings.Repeat("a", 16), ".a.b.c.d", strings.Repeat("0", 4)} {
		require.Equal(t, http.StatusUnauthorized, visit(t, f, call{method: "GET", path: back, headers: []string{cookie + more}}).Code, more)
	}
	w := visit(t, f, call{method: "GET", path: back, headers: []string{cookie}})
	require.Equal(t, http.StatusOK, w.Code, "%s", w.Body)
	require.Equal(t, http.StatusUnauthorized, visit(t, f, call{method: "GET", path: "/session", headers: []string{before}}).Code)
	require.Len(t, store.kept, 1)
	require.NotContains(t, cookie, strings.TrimPrefix(before, "Cookie: __Host-batchd="))
}

func TestSignInsLeadToNoOtherSite(t *testing.T) {
	t.Parallel()
	i := oidctest.Start(t)
	f := setup(t, withSessions(&ring{}, apikey.New(), i, &sessionMap{}))
	for _, to := range []string{
		"https://evil.example", "//evil.example", "/\\evil.example", "\\\\evil.example", "/\t/evil.example", "/\n/evil.example", "\t//evil.example", " //evil.example", "javascript:alert(1)", "evil.example", "",
		"/..//evil.example", "/a/../../evil", "/./x", "/%2e%2e/x", "/%2f/evil.example", "/%5cevil.example", "/a//b", "/%0d%0aSet-Cookie:x", "/é", "/\x00", "/\"><script>", "http:/evil", "///evil.example", "/" + strings.Repeat("a", 1000),
	} {
		w := visit(t, f, call{method: "GET", path: "/session/login?return_to=" + url.QueryEscape(to)})
		require.Equal(t, http.StatusBadRequest, w.Code, "%q: %s", to, w.Body)
	}
	for _, to := range []string{"/", "/session", "/ui/batches?x=1#top", "/ui/a%20b"} {
		require.Equal(t, http.StatusSeeOther, visit(t, f, call{method: "GET", path: "/session/login?return_to=" + url.QueryEscape(to)}).Code, to)
	}
	w := visit(t, f, call{method: "GET", path: "http://evil.example/session/login"})
	require.Equal(t, http.StatusMisdirectedRequest, w.Code, "the provider would be told to send the code there")
	asked := i.Requests()
	i.SetAway(true)
	for range 50 {
		visit(t, f, call{method: "GET", path: "/session/login"})
	}
	require.Equal(t, asked, i.Requests(), "sign-ins that begin cost the provider nothing")
}

// A sign-out must not depend on what is left of the session.
func TestASessionThatCannotBeReadEnds(t *testing.T) {
	t.Parallel()
	key, store := apikey.New(), &sessionMap{}
	f := setup(t, withSessions(&ring{}, key, nil, store))
	cookie := signIn(t, f, key)
	for id := range store.kept {
		store.kept[id] = []byte("damaged")
	}
	require.Equal(t, http.StatusNoContent, visit(t, f, call{method: "DELETE", path: "/session", headers: []string{cookie}}).Code)
	require.Empty(t, store.kept)
}
