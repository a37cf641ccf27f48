package api

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/auth"
)

// only is an authenticator of one principal.
type only struct{ p *auth.Principal }

func (o only) Authenticate(context.Context, *http.Request) (*auth.Principal, error) { return o.p, nil }

// everyDialect mounts an endpoint of each format.
func everyDialect(c *Config) {
	c.Endpoints = []Endpoint{
		{Path: "/crm/batch", Target: "crm"},
		{Path: "/asana/batch", Dialect: "asana", Target: "crm"},
		{Path: "/requests/batch", Dialect: "requests", Target: "crm"},
		{Path: "/v1/instances/:instance/batch", Dialect: "syncano", Target: "crm"},
		{Path: "/primaerp/batch", Dialect: "primaerp", Target: "crm"},
	}
}

func TestEveryRouteNeedsItsScope(t *testing.T) {
	t.Parallel()
	f := setup(t, everyDialect)
	for _, r := range f.table() {
		ask := call{method: r.method, path: strings.NewReplacer(":id", "batch-1", ":instance", "i").Replace(r.path)}
		for _, scope := range auth.AllScopes() {
			f.auth = only{&auth.Principal{Owner: "alice", Scopes: auth.Scopes{scope}}}
			w := serve(f, ask.request(t))
			allowed := r.scope == auth.Open || r.scope == auth.Any || r.scope == scope
			require.Equal(t, !allowed, w.Code == http.StatusForbidden, "%s %s with the scope %s: %d %s", r.method, r.path, scope, w.Code, w.Body)
		}
		f.auth = only{}
		require.Equal(t, r.scope != auth.Open, serve(f, ask.request(t)).Code == http.StatusUnauthorized, "%s %s without a principal", r.method, r.path)
	}
}

func TestOnlyProbesTheDescriptionAndSignInsAreOpen(t *testing.T) {
	t.Parallel()
	f := setup(t, everyDialect, func(c *Config) { c.Auth.Modes, c.Keys = []auth.Mode{auth.ModeKeys}, &ring{} })
	var open []string
	for _, r := range f.table() {
		if r.scope == auth.Open && r.endpoint == nil {
			open = append(open, r.method+" "+r.path)
		}
		require.False(t, r.scope == auth.Open && r.method == http.MethodPost && r.path != "/session", r.path)
	}
	slices.Sort(open)
	require.Equal(t, []string{
		"DELETE /session", "GET /healthz", "GET /openapi.yaml", "GET /readyz", "GET /session/callback", "GET /session/login", "POST /session",
	}, open)
}

func TestAPrincipalUsesOnlyItsTargets(t *testing.T) {
	t.Parallel()
	f := setup(t, everyDialect)
	f.auth = only{&auth.Principal{Owner: "alice", Scopes: auth.AllScopes(), Targets: []string{"billing"}}}
	w := f.do(t, call{method: "POST", path: "/batch", body: `{"target":"crm","actions":[{"method":"GET","path":"/"}]}`})
	require.Contains(t, requireProblem(t, w, http.StatusBadRequest).Errors[0].Detail, `unknown target "crm": expected one of billing`)
	id := f.created(t, call{body: `{"actions":[{"method":"GET","path":"/"}]}`})
	require.Equal(t, "billing", f.store.batches[id].Target, "the only target that is left")
	for _, r := range f.table() {
		if r.endpoint != nil && r.scope == auth.Submit {
			w := serve(f, call{method: "POST", path: strings.Replace(r.path, ":instance", "i", 1)}.request(t))
			require.Equal(t, http.StatusForbidden, w.Code, r.path)
		}
	}
	f.auth = only{&auth.Principal{Owner: "alice", Scopes: auth.AllScopes(), Targets: []string{"another"}}}
	requireProblem(t, f.do(t, call{method: "POST", path: "/batch", body: two}), http.StatusForbidden)
}
