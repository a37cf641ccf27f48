package api

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/internal/apikey"
	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/oidctest"
)

// withEveryMode authenticates by keys, sessions, tokens of an issuer, and credentials of the target.
func withEveryMode(i *oidctest.Issuer, key string) func(*Config) {
	return func(c *Config) {
		endpoints(c)
		passthrough(c)
		withSessions(&ring{}, key, nil, &sessionMap{})(c)
		c.Auth.Modes = []auth.Mode{auth.ModeKeys, auth.ModeJWT, auth.ModePassthrough}
		c.Auth.JWT = auth.JWTConfig{Issuer: i.URL, Audience: "batchd"}
		c.Policies = []batch.Target{{Name: "crm", Headers: batch.HeaderPolicy{Allow: []string{"Proxy-Authorization"}}}}
	}
}

// Whoever authenticates the request: a token for batchd in what would be sent is refused, before anything is stored.
func TestATokenForBatchdIsRefusedWhoeverAuthenticates(t *testing.T) {
	t.Parallel()
	i, key := oidctest.Start(t), apikey.New()
	f := setup(t, withEveryMode(i, key))
	f.store.run = func(int, *batch.Action) *batch.Result { return succeeded("1") }
	token := i.Token("batchd", "alice", nil)
	others := i.Token("batchd", "bob", map[string]any{"aud": []string{"crm", "batchd"}, "exp": 1})
	session := signIn(t, f, key)
	callers := map[string]string{"a key": "X-Batchd-Key: " + key, "a session": session, "a token": "X-Batchd-Key: " + i.Token("batchd", "carol", nil), "nobody": "X-None: 1"}
	for who, caller := range callers {
		for _, one := range []string{token, others} {
			inside := base64.StdEncoding.EncodeToString([]byte("u:" + one))
			// Headers with it.
			for _, c := range []call{
				{path: "/batch", headers: []string{"Authorization: Bearer " + one}, body: two},
				{path: "/batch", headers: []string{"Authorization: Basic " + inside}, body: two},
				{path: "/api/1.0/batch", headers: []string{"Authorization: Bearer " + one}},
				{path: "/api/batch", headers: []string{"Authorization: Basic " + inside}},
				{path: "/v1.1/instances/i/batch/", headers: []string{"X-API-KEY: " + one}},
				{path: "/v1.1/instances/i/batch/", headers: []string{"X-API-KEY: a", "X-USER-KEY: " + one}},
				{path: "/v1/batch/?token=" + one},
				{path: "/v1/batch/?token=a", headers: []string{"X-Custom: " + one}},
				{path: "/v1/batch/?token=a", headers: []string{"Cookie: a=" + one}},
			} {
				for _, d := range foreigners() {
					if before, _, _ := strings.Cut(d.path, "?"); strings.HasPrefix(strings.TrimSuffix(c.path, "/"), strings.TrimSuffix(before, "/")) {
						c.body = d.body
					}
				}
				if (who == "nobody" || who == "a session") && len(c.headers) > 0 && strings.HasPrefix(c.headers[0], "Authorization: Bearer") {
					continue // it is the token of a caller
				}
				c.method, c.headers = "POST", append(c.headers, caller, "Content-Type: application/json")
				if caller == session && strings.HasPrefix(c.headers[0], "Cookie: ") {
					c.headers = []string{session + "; " + strings.TrimPrefix(c.headers[0], "Cookie: "), "Content-Type: application/json"}
				}
				w := visit(t, f, c)
				require.Contains(t, []int{http.StatusBadRequest, http.StatusUnauthorized}, w.Code, "%s: %s %s: %s", who, c.path, c.headers[0], w.Body)
				require.NotContains(t, w.Body.String(), one)
			}
			if who == "nobody" {
				continue
			}
			// Actions with it.
			for pointer, action := range map[string]string{
				"/actions/0/headers/Authorization": `"path":"/","headers":{"Authorization":"bearer ` + one + `"}`,
				"/actions/0/headers/X-A":           `"path":"/","headers":{"X-A":"Basic ` + inside + `"}`,
				"/actions/0/headers/Cookie":        `"path":"/","headers":{"Cookie":"a=1; t=` + one + `"}`,
				"/actions/0/query":                 `"path":"/?t=` + strings.ReplaceAll(one, ".", "%2E") + `"`,
				"/actions/0/body":                  `"path":"/","body":{"a":"` + inside + `"}`,
				"/actions/0/undo/body":             `"path":"/","group":"g","undo":{"method":"POST","path":"/","body":"` + one + `"}`,
				"/webhook/url":                     `"path":"/"`,
				"/metadata":                        `"path":"/"`,
			} {
				body := `{"target":"crm","actions":[{"method":"POST",` + action + `}]}`
				switch pointer {
				case "/webhook/url":
					body = `{"webhook":{"url":"https://example.com/?t=` + one + `"},` + body[1:]
				case "/metadata":
					body = `{"metadata":{"t":"` + one[:strings.LastIndexByte(one, '.')+2] + `"},` + body[1:]
				}
				w := visit(t, f, call{method: "POST", path: "/batch", headers: []string{caller}, body: body})
				p := requireProblem(t, w, http.StatusBadRequest)
				require.Equal(t, pointer, p.Errors[0].Pointer, "%s: %s", who, w.Body)
			}
		}
	}
	require.Zero(t, f.store.holds())
	require.Empty(t, f.store.batches)
}

// A target may trust the same issuer. A token for it is a credential like others.
func TestATokenForTheTargetsOwnAudienceIsSent(t *testing.T) {
	t.Parallel()
	i, key := oidctest.Start(t), apikey.New()
	f := setup(t, withEveryMode(i, key))
	own := i.Token("crm", "alice", nil)
	for _, caller := range []string{"X-Batchd-Key: " + key, "X-Batchd-Key: " + i.Token("batchd", "alice", nil)} {
		w := serve(f, call{method: "POST", path: "/batch", headers: []string{caller, "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("u:"+own))}, body: two}.request(t))
		require.Equal(t, http.StatusAccepted, w.Code, "%s", w.Body)
	}
	w := serve(f, call{method: "POST", path: "/batch", headers: []string{"X-Batchd-Key: " + key, "Authorization: Bearer " + own}, body: two}.request(t))
	require.Equal(t, http.StatusAccepted, w.Code, "%s", w.Body)
	value, _ := f.store.batches["batch-3"].actions[0].Header("Authorization")
	require.Equal(t, "Bearer "+own, value)
}
