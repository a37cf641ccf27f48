package api

import (
	"net/http"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/internal/apikey"
	"github.com/batchd/batchd/internal/batch"
)

// authenticating sets the modes.
func authenticating(modes ...auth.Mode) func(*Config) {
	return func(c *Config) {
		passthrough(c)
		c.Auth.Modes = modes
		c.Auth.JWT = auth.JWTConfig{Issuer: "https://login.example.com", Audience: "batchd"}
		c.Keys = &ring{}
	}
}

const (
	wantKey    = "a key of batchd as Authorization: Bearer batchd_… or in X-Batchd-Key"
	wantToken  = "a token of the OpenID provider as Authorization: Bearer … or in X-Batchd-Key"
	wantTarget = "the credential of the target API in one Authorization header"
)

func TestARequestWithoutACredentialIsToldWhatTheModesAccept(t *testing.T) {
	t.Parallel()
	all := []string{wantKey, wantToken, wantTarget}
	for _, row := range []struct {
		modes []auth.Mode
		want  []string
	}{
		{[]auth.Mode{auth.ModeKeys}, []string{wantKey}},
		{[]auth.Mode{auth.ModeJWT}, []string{wantToken}},
		{[]auth.Mode{auth.ModeKeys, auth.ModeJWT}, []string{wantKey, wantToken}},
		{[]auth.Mode{auth.ModePassthrough}, []string{wantTarget}},
		{[]auth.Mode{auth.ModeKeys, auth.ModePassthrough}, []string{wantKey, wantTarget}},
		{[]auth.Mode{auth.ModeKeys, auth.ModeJWT, auth.ModePassthrough}, all},
	} {
		f := setup(t, authenticating(row.modes...))
		for _, c := range []call{
			{method: "GET", path: "/batch"},
			{method: "GET", path: "/whoami"},
			{method: "POST", path: "/batch", body: two},
		} {
			w := f.do(t, c)
			p := requireProblem(t, w, http.StatusUnauthorized)
			require.Equal(t, "A valid credential is required", p.Title)
			for _, text := range all {
				if slices.Contains(row.want, text) {
					require.Contains(t, p.Detail, text, "%v %s", row.modes, c.path)
				} else {
					require.NotContains(t, p.Detail, text, "%v %s", row.modes, c.path)
				}
			}
			require.NotEmpty(t, w.Header().Get("WWW-Authenticate"))
		}
	}
}

func TestDialectsNameEveryCredentialThatTheServerAccepts(t *testing.T) {
	t.Parallel()
	for _, modes := range [][]auth.Mode{{auth.ModeKeys}, {auth.ModeKeys, auth.ModePassthrough}} {
		f := setup(t, everyDialect, authenticating(modes...))
		for _, path := range []string{"/asana/batch", "/requests/batch", "/v1/instances/i/batch", "/primaerp/batch"} {
			w := serve(f, call{method: "POST", path: path, body: `{}`}.request(t))
			require.Equal(t, http.StatusUnauthorized, w.Code, "%s", w.Body)
			require.Contains(t, w.Body.String(), wantKey, path)
			if len(modes) > 1 {
				require.Regexp(t, "credential|token", w.Body.String(), path)
			}
		}
	}
}

func TestAKeyInAWrongPlaceIsToldTheRightOne(t *testing.T) {
	t.Parallel()
	key := apikey.New()
	for _, modes := range [][]auth.Mode{{auth.ModeKeys}, {auth.ModeKeys, auth.ModePassthrough}} {
		f := setup(t, everyDialect, authenticating(modes...))
		for _, row := range []struct{ header, query, want string }{
			{"X-API-KEY: " + key, "", "the header X-Api-Key"},
			{"X-USER-KEY: " + key, "", "the header X-User-Key"},
			{"X-Token: " + key, "", "the header X-Token"},
			{"", "?token=" + key, "the query parameter token"},
			{"X-Batchd-Key: Bearer " + key, "", "X-Batchd-Key has the key after the word Bearer"},
			{"Authorization: " + key, "", "without the scheme Bearer"},
			{"Authorization: Token " + key, "", "without the scheme Bearer"},
		} {
			for _, path := range []string{"/batch", "/asana/batch", "/v1/instances/i/batch", "/primaerp/batch"} {
				c := call{method: "POST", path: path + row.query, body: `{}`}
				if row.header != "" {
					c.headers = []string{row.header}
				}
				w := serve(f, c.request(t))
				require.Equal(t, http.StatusUnauthorized, w.Code, "%v %s %s: %s", modes, path, row.want, w.Body)
				require.Contains(t, w.Body.String(), row.want)
				require.Contains(t, w.Body.String(), "Authorization: Bearer")
				require.NotContains(t, w.Body.String(), key[:20])
			}
		}
	}
}

func TestTheScopeAdminAsksForTheCredentialThatHasIt(t *testing.T) {
	t.Parallel()
	key := apikey.New()
	r := []batch.Key{{Name: "plain", Owner: "plain", Scopes: []string{"read"}, Secrets: []batch.KeySecret{{SHA256: apikey.HexHash(key)}}}}
	for _, row := range []struct {
		modes           []auth.Mode
		credential      string
		nobody, lacking string
	}{
		{[]auth.Mode{auth.ModeKeys}, "Authorization: Bearer " + key, wantKey, "batchd keys create NAME --scope admin"},
		{[]auth.Mode{auth.ModeKeys, auth.ModePassthrough}, "Authorization: Basic Zm9v", wantKey, "batchd keys create NAME --scope admin"},
		{[]auth.Mode{auth.ModeJWT, auth.ModePassthrough}, "Authorization: Basic Zm9v", wantToken, "batchd:admin"},
		{[]auth.Mode{auth.ModePassthrough}, "Authorization: Basic Zm9v", "add keys to auth.modes, or set monitor.listen", "add keys to auth.modes, or set monitor.listen"},
	} {
		f := setup(t, authenticating(row.modes...), func(c *Config) { c.Keys = &ring{keys: r} })
		for _, path := range []string{"/readyz?verbose", "/metrics"} {
			p := requireProblem(t, f.do(t, call{method: "GET", path: path}), http.StatusUnauthorized)
			require.Contains(t, p.Detail, row.nobody, "%v", row.modes)
			require.NotContains(t, p.Detail, wantTarget, "%v", row.modes)
			p = requireProblem(t, f.do(t, call{method: "GET", path: path, headers: []string{row.credential}}), http.StatusForbidden)
			require.Contains(t, p.Detail, row.lacking, "%v", row.modes)
		}
	}
}
