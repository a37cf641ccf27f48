package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/oauth2-proxy/mockoidc"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/internal/certs/certstest"
	"github.com/batchd/batchd/internal/oidctest"
	"github.com/batchd/batchd/internal/redistest"
)

// caller is what the server says about a caller.
type caller struct {
	Mode, Name, Owner string
	Scopes            []string
	Session           *struct {
		EndsAt string `json:"ends_at"`
	}
}

const oneAction = `{"actions":[{"method":"POST","path":"/orders","body":{"n":1}}]}`

// runs submits a batch in the session of a browser, and reads its results.
func (b *browser) runs() (id string) {
	b.t.Helper()
	var batch struct {
		ID, Status string
		Counts     struct{ Succeeded int }
		Results    []struct{ Body struct{ Order int } }
	}
	b.document(b.fetch("POST", "/batch", oneAction, ""), http.StatusAccepted, &batch)
	id = batch.ID
	require.Eventually(b.t, func() bool {
		b.document(b.fetch("GET", "/batch/"+id, "", ""), http.StatusOK, &batch)
		return batch.Status == "completed"
	}, 30*time.Second, 20*time.Millisecond)
	require.Equal(b.t, 1, batch.Counts.Succeeded)
	require.Equal(b.t, 7, batch.Results[0].Body.Order)
	got := b.fetch("GET", "/batch/"+id+"/results", "", "")
	require.Equal(b.t, http.StatusOK, got.status)
	require.Contains(b.t, got.body, `"order":7`)
	return id
}

// requireSignedOut requires that the server does not know the browser.
func (b *browser) requireSignedOut(id string) {
	b.t.Helper()
	for _, got := range []reply{
		b.open("/whoami"), b.fetch("GET", "/session", "", ""), b.fetch("GET", "/batch/"+id, "", ""), b.fetch("GET", "/batch/"+id+"/results", "", ""), b.fetch("POST", "/batch", oneAction, ""),
	} {
		require.Equal(b.t, http.StatusUnauthorized, got.status, "%s: %s", got.from, got.body)
	}
}

// People sign in with a browser, at an OpenID provider and by a key, at a server with and without TLS.
func TestPeopleSignInWithABrowser(t *testing.T) {
	t.Parallel()
	provider := oidctest.Start(t)
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Cookie")+r.Header.Get("Authorization") != "" {
			w.WriteHeader(http.StatusTeapot) // a credential of batchd's own
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"order":7}`)
	}))
	t.Cleanup(target.Close)
	dir, ca := t.TempDir(), certstest.New(t, "authority")
	cert, key := ca.WritePair(t, dir, "batchd")
	configuration := certstest.Write(t, dir, "batchd.yaml", fmt.Appendf(nil, `
redis: {url: "%s"}
auth:
  modes: [keys, jwt]
  jwt: {issuer: "%s", audience: batchd, scopes_claim: groups, scopes: [{value: team, grant: [submit, read]}]}
  sessions: {client_id: "%s", client_secret: "%s", scopes: [openid, groups]}
targets: [{name: crm, base_url: "%s"}]
`, redistest.Start(t).URL(), provider.URL, provider.ClientID, provider.ClientSecret, target.URL))
	for range 4 {
		provider.SignIn(&mockoidc.MockUser{Subject: "alice", Groups: []string{"team"}})
	}
	for name, flags := range map[string][]string{"loopback": nil, "tls": {"--server-tls-cert-file", cert, "--server-tls-key-file", key}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			serve := startProcess(t, nil, append([]string{"serve", "--config", configuration, "--listen", "127.0.0.1:0"}, flags...)...)
			id := signInAtTheProvider(t, newBrowser(t, serve.url, ca), auth.JWTOwner(provider.URL, "alice"))
			signInByAKey(t, newBrowser(t, serve.url, ca), configuration, name, id)
			serve.wait()
			require.NoError(t, serve.Process.Signal(syscall.SIGTERM))
			serve.requireEnd(t)
		})
	}
}

// signInAtTheProvider signs in, uses the session and signs out. It returns the id of a batch.
func signInAtTheProvider(t *testing.T, b *browser, owner string) (id string) {
	t.Helper()
	b.requireSignedOut("x")
	var who caller
	b.document(b.open("/session/login?return_to=/whoami"), http.StatusOK, &who)
	require.Equal(t, []string{"jwt", "alice", owner}, []string{who.Mode, who.Name, who.Owner})
	require.Equal(t, []string{"submit", "read"}, who.Scopes)
	require.NotNil(t, who.Session)

	// Who signs in once more has a new session, and the old one ends. The browser comes back without its cookie.
	first := b.jar.Cookies(b.base)
	b.document(b.open("/session/login"), http.StatusOK, &who)
	second := b.jar.Cookies(b.base)
	b.jar.SetCookies(b.base, first)
	b.requireSignedOut("x")
	b.jar.SetCookies(b.base, second)

	id = b.runs()
	require.Equal(t, http.StatusForbidden, b.fetch("POST", "/batch/"+id+"/cancel", "", "").status, "the group does not grant it")

	// Pages of other sites and origins do nothing with the session: the browser keeps the cookie back, and if it did
	// not, as for another port of the same host, the server refuses.
	for origin, want := range map[string]int{"https://evil.example": http.StatusUnauthorized, b.base.Scheme + "://localhost:1": http.StatusForbidden} {
		for _, row := range [][]string{{"POST", "/batch", oneAction}, {"DELETE", "/batch/" + id, ""}} {
			got := b.fetch(row[0], row[1], row[2], origin)
			require.Equal(t, want, got.status, "%s %s: %s", origin, row[0], got.body)
		}
		require.Empty(t, b.fetch("GET", "/batch/"+id, "", origin).header.Get("Access-Control-Allow-Origin"))
		require.Equal(t, http.StatusForbidden, b.fetch("DELETE", "/session", "", origin).status)
	}
	b.document(b.fetch("GET", "/session", "", ""), http.StatusOK, &who)

	// A copy of the cookie ends with the session, too.
	kept := b.jar.Cookies(b.base)
	require.Len(t, kept, 1)
	require.Equal(t, http.StatusNoContent, b.fetch("DELETE", "/session", "", "").status)
	require.Empty(t, b.jar.Cookies(b.base))
	b.requireSignedOut(id)
	b.jar.SetCookies(b.base, kept)
	b.requireSignedOut(id)
	return id
}

// signInByAKey signs in by a key, with which the session ends. The other batch is of another owner.
func signInByAKey(t *testing.T, b *browser, configuration, name, other string) {
	t.Helper()
	made := batchd(t, "", "keys", "create", name, "--config", configuration)
	require.Equal(t, exitOK, made.code, made.stderr)
	body := `{"key":"` + strings.TrimSpace(made.stdout) + `"}`
	require.Equal(t, http.StatusForbidden, b.fetch("POST", "/session", body, "https://evil.example").status)
	require.Empty(t, b.jar.Cookies(b.base))
	require.Equal(t, http.StatusNoContent, b.fetch("POST", "/session", body, "").status)
	var who caller
	b.document(b.open("/whoami"), http.StatusOK, &who)
	require.Equal(t, []string{"keys", name, "key:" + name}, []string{who.Mode, who.Name, who.Owner})
	require.NotNil(t, who.Session)
	id := b.runs()
	require.Equal(t, http.StatusNotFound, b.fetch("GET", "/batch/"+other, "", "").status)

	got := batchd(t, "", "keys", "revoke", name, "--config", configuration)
	require.Equal(t, exitOK, got.code, got.stderr)
	revoked := time.Now()
	for b.fetch("GET", "/session", "", "").status != http.StatusUnauthorized {
		require.Less(t, time.Since(revoked), 15*time.Second, "it takes at most 5 s, and more on a busy machine")
		time.Sleep(20 * time.Millisecond)
	}
	b.requireSignedOut(id)
	require.Equal(t, http.StatusUnauthorized, b.fetch("POST", "/session", body, "").status)
}
