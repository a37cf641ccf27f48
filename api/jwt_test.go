package api

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/internal/apikey"
	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/oidctest"
)

// withJWT authenticates by tokens of an issuer, and lets other credentials through.
func withJWT(i *oidctest.Issuer) func(*Config) {
	return func(c *Config) {
		passthrough(c)
		c.Auth.Modes = []auth.Mode{auth.ModeJWT, auth.ModePassthrough}
		c.Auth.JWT = auth.JWTConfig{Issuer: i.URL, Audience: "batchd"}
	}
}

func whoAmI(t *testing.T, f *fixture, headers ...string) *callerDocument {
	t.Helper()
	w := f.do(t, call{method: "GET", path: "/whoami", headers: headers})
	require.Equal(t, http.StatusOK, w.Code, "%s", w.Body)
	require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
	doc := new(callerDocument)
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), doc))
	return doc
}

func TestWhoAmIKnowsEveryCredential(t *testing.T) {
	t.Parallel()
	i, key, r := oidctest.Start(t), apikey.New(), &ring{}
	f := setup(t, withKeys(r, key), func(c *Config) {
		c.Auth.Modes = []auth.Mode{auth.ModeKeys, auth.ModeJWT, auth.ModePassthrough}
		c.Auth.JWT = auth.JWTConfig{Issuer: i.URL, Audience: "batchd", TargetsClaim: "targets"}
	})
	expires := time.Now().Add(time.Minute).UTC().Truncate(time.Second)
	token := i.Token("batchd", "bob", map[string]any{"scope": "read x", "targets": "billing gone", "exp": expires.Unix()})
	owner := auth.JWTOwner(i.URL, "bob")
	both := []string{"crm", "billing"}
	for header, want := range map[string]callerDocument{
		"Authorization: Bearer " + key:   {Mode: "keys", Name: "all", Owner: "key:alice", Scopes: auth.Scopes{"submit", "read", "cancel"}, Targets: both},
		"X-Batchd-Key: " + key:           {Mode: "keys", Name: "all", Owner: "key:alice", Scopes: auth.Scopes{"submit", "read", "cancel"}, Targets: both},
		"Authorization: Bearer " + token: {Mode: "jwt", Name: "bob", Owner: owner, Scopes: auth.Scopes{"read"}, Targets: []string{"billing"}, Expires: expires.Format("2006-01-02T15:04:05.000Z")},
		"X-Batchd-Key: " + token:         {Mode: "jwt", Name: "bob", Owner: owner, Scopes: auth.Scopes{"read"}, Targets: []string{"billing"}, Expires: expires.Format("2006-01-02T15:04:05.000Z")},
		"Authorization: Basic Zm9v":      {Mode: "passthrough", Scopes: auth.Scopes{"submit", "read", "cancel"}, Targets: both},
	} {
		require.Equal(t, &want, whoAmI(t, f, header), header)
	}
	require.Equal(t, &callerDocument{Mode: "none", Name: "anonymous", Owner: "anonymous", Scopes: auth.Scopes{"submit", "read", "cancel"}, Targets: both}, whoAmI(t, setup(t)))
	none := i.Token("batchd", "bob", map[string]any{"scope": nil, "targets": nil})
	doc := whoAmI(t, f, "Authorization: Bearer "+none)
	require.Empty(t, doc.Scopes, "a caller that may do nothing can ask why")
	require.Empty(t, doc.Targets)
	requireProblem(t, f.do(t, call{method: "GET", path: "/whoami"}), http.StatusUnauthorized)
	requireProblem(t, f.do(t, call{method: "GET", path: "/whoami", headers: []string{"Authorization: Bearer " + apikey.New()}}), http.StatusUnauthorized)
}

// A JWT is not sent to a target: neither the valid one of the request, in any dialect, nor an invalid one.
func TestAJWTIsNeverSentToATarget(t *testing.T) {
	t.Parallel()
	i := oidctest.Start(t)
	valid := i.Token("batchd", "alice", nil)
	signature := valid[strings.LastIndexByte(valid, '.'):]
	for _, d := range foreigners() {
		f := setup(t, endpoints, withJWT(i))
		f.store.run = func(int, *batch.Action) *batch.Result { return succeeded("1") }
		sent := func() string {
			var text strings.Builder
			for _, b := range f.store.batches {
				for i := range b.actions {
					text.WriteString(b.actions[i].Path + b.actions[i].Query + headerText(b.actions[i].Headers) + string(b.actions[i].Body) + "\n")
				}
			}
			return text.String()
		}
		first := serve(f, d.call("X-Batchd-Key: "+valid).request(t))
		require.Equal(t, http.StatusOK, first.Code, "%s", first.Body)
		require.Contains(t, sent(), "alice", "what is meant for the target")
		bare := d.call("Authorization: Bearer " + valid)
		bare.headers = []string{bare.headers[0], bare.headers[2]}
		bare.path = strings.Replace(bare.path, "?token=alice", "", 1)
		w := serve(f, bare.request(t))
		require.Equal(t, http.StatusOK, w.Code, "%s", w.Body)
		require.Len(t, f.store.batches, 2)
		for _, b := range f.store.batches {
			require.Equal(t, auth.JWTOwner(i.URL, "alice"), b.Owner)
		}
		for _, others := range []map[string]any{{"aud": "other"}, {"exp": 1}, {"sub": nil}} {
			token := i.Token("batchd", "alice", others)
			bare.headers[1] = "Authorization: Bearer " + token
			require.Equal(t, http.StatusUnauthorized, serve(f, bare.request(t)).Code)
		}
		bare.headers[1] = "Authorization: Bearer " + valid
		for _, header := range []string{"X-API-KEY: ", "X-USER-KEY: ", "Cookie: t=", "X-Custom: ", "Proxy-Authorization: Bearer "} {
			c := bare
			c.headers = append(append([]string{}, bare.headers...), header+valid)
			serve(f, c.request(t))
		}
		c := bare
		c.body = strings.Replace(strings.ReplaceAll(c.body, `"x":1`, `"x":"`+valid+`"`), `"body":"x"`, `"body":"`+valid+`"`, 1)
		require.Equal(t, http.StatusBadRequest, serve(f, c.request(t)).Code)
		require.NotContains(t, sent(), signature)
		require.NotContains(t, f.log.String(), signature)
	}
}

func TestAnActionWithTheTokenOfItsRequestIsAFault(t *testing.T) {
	t.Parallel()
	i := oidctest.Start(t)
	f, token := setup(t, withJWT(i)), i.Token("batchd", "alice", nil)
	for pointer, action := range map[string]string{
		"/actions/1/headers/Authorization": `"path":"/","headers":{"Authorization":"Bearer ` + token + `"}`,
		"/actions/1/headers/X-A":           `"path":"/","headers":{"X-A":["1","` + token + `"]}`,
		"/actions/1/path":                  `"path":"/` + token + `"`,
		"/actions/1/query":                 `"path":"/","query":{"t":"` + token + `"}`,
		"/actions/1/body":                  `"path":"/","body":{"a":"` + token + `"}`,
		"/actions/1/undo/headers/X-A":      `"path":"/","group":"g","undo":{"method":"DELETE","path":"/","headers":{"X-A":"` + token + `"}}`,
	} {
		body := `{"target":"crm","actions":[{"method":"GET","path":"/"},{"method":"POST",` + action + `}]}`
		p := requireProblem(t, f.do(t, call{method: "POST", path: "/batch", headers: []string{"Authorization: Bearer " + token}, body: body}), http.StatusBadRequest)
		require.Equal(t, pointer, p.Errors[0].Pointer)
		require.NotContains(t, p.Errors[0].Detail, token)
	}
	require.Zero(t, f.store.holds())
}

func TestABatchOfATokenBelongsToItsOwner(t *testing.T) {
	t.Parallel()
	i := oidctest.Start(t)
	f := setup(t, withJWT(i))
	alice, bob := "Authorization: Bearer "+i.Token("batchd", "alice", nil), "Authorization: Bearer "+i.Token("batchd", "bob", nil)
	id := f.created(t, call{body: two, headers: []string{alice}})
	for header, want := range map[string]int{
		alice: http.StatusOK, "X-Batchd-Key: " + i.Token("batchd", "alice", map[string]any{"jti": "another"}): http.StatusOK,
		bob: http.StatusNotFound, "Authorization: Basic YWxpY2U6": http.StatusNotFound,
		"Authorization: Bearer " + i.Token("batchd", "alice", map[string]any{"scope": "submit"}): http.StatusForbidden,
		"Authorization: Bearer " + i.Token("other", "alice", nil):                                http.StatusUnauthorized,
	} {
		require.Equal(t, want, f.do(t, call{method: "GET", path: "/batch/" + id, headers: []string{header}}).Code, header)
	}
}

func TestWhileTheIssuerIsAwayTokensGet503(t *testing.T) {
	t.Parallel()
	i := oidctest.Start(t)
	i.SetAway(true)
	f := setup(t, withJWT(i), everyDialect)
	token := "Authorization: Bearer " + i.Token("batchd", "alice", nil)
	w := f.do(t, call{method: "POST", path: "/batch", body: two, headers: []string{token}})
	require.Contains(t, requireProblem(t, w, http.StatusServiceUnavailable).Detail, "the issuer of tokens")
	require.NotEmpty(t, w.Header().Get("Retry-After"))
	require.Equal(t, http.StatusServiceUnavailable, serve(f, call{method: "POST", path: "/asana/batch", body: "{}", headers: []string{token}}.request(t)).Code)
	require.Equal(t, http.StatusOK, f.do(t, call{method: "GET", path: "/batch", headers: []string{"Authorization: Basic Zm9v"}}).Code, "other credentials work")
	require.Zero(t, f.store.holds())
}

func TestTheExpiryOfATokenEndsStreamsAndWaits(t *testing.T) {
	t.Parallel()
	i := oidctest.Start(t)
	f := setup(t, withJWT(i))
	id := f.created(t, call{body: two, headers: []string{"Authorization: Bearer " + i.Token("batchd", "alice", nil)}})
	short := "Authorization: Bearer " + i.Token("batchd", "alice", map[string]any{"exp": time.Now().Add(3 * time.Second).Unix()})
	start := time.Now()
	done := make(chan string, 2)
	for _, c := range []call{
		{method: "GET", path: "/batch/" + id + "/events", headers: []string{short}},
		{method: "GET", path: "/batch/" + id, headers: []string{short, "Prefer: wait=60"}},
	} {
		go func() {
			w := serve(f, c.request(t))
			done <- http.StatusText(w.Code) + w.Body.String()
		}()
	}
	both := <-done + <-done
	require.Contains(t, both, "the credential is no longer valid")
	require.Contains(t, both, "the credential has expired")
	require.Less(t, time.Since(start), 30*time.Second)
}

// A long list of results does not outlive its credential.
func TestTheExpiryOfATokenEndsAListOfResults(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.store.run = func(int, *batch.Action) *batch.Result { return succeeded(`"x"`) }
	valid, pages := true, 0
	f.auth = only{&auth.Principal{Owner: "alice", Scopes: auth.AllScopes(), Check: func(context.Context) error {
		if pages++; pages > 1 {
			valid = false
			return &batch.UnavailableError{}
		}
		return nil
	}}}
	id := f.created(t, call{body: actions(3000)})
	pages = 0
	require.Panics(t, func() {
		serve(f, call{method: "GET", path: "/batch/" + id + "/results", headers: []string{"Accept: application/x-ndjson"}}.request(t))
	}, "the answer breaks off")
	require.False(t, valid)
}
