package api

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/internal/batch"
)

// access is what a route answers to each caller. Open says that the batch has not ended.
type access struct {
	none, scope, foreign, own, admin int

	open        bool
	query, body string
}

// open is a route that needs no credential.
func open(status int) access {
	return access{none: status, scope: status, foreign: status, own: status, admin: status}
}

// ofBatch is a route about one batch.
func ofBatch(status int) access {
	return access{none: 401, scope: 403, foreign: 404, own: status, admin: status}
}

// ofCaller is a route about what belongs to the caller, whoever it is.
func ofCaller(status int) access {
	return access{none: 401, scope: 403, foreign: status, own: status, admin: status}
}

// accesses has every route of the API; see [Server.table]. A route that is not in it makes the test fail.
var accesses = map[string]access{
	"GET /healthz":      open(200),
	"GET /readyz":       open(200),
	"GET /openapi.yaml": open(200),
	"GET /metrics":      {none: 401, scope: 403, foreign: 403, own: 403, admin: 200},
	"GET /whoami":       {none: 401, scope: 200, foreign: 200, own: 200, admin: 200},
	// Without sessions. The tests of sessions have the answers with them.
	"POST /session":                     open(404),
	"GET /session":                      {none: 401, scope: 404, foreign: 404, own: 404, admin: 404},
	"DELETE /session":                   open(404),
	"GET /session/login":                open(404),
	"GET /session/callback":             open(404),
	"POST /batch":                       {none: 401, scope: 403, foreign: 202, own: 202, admin: 202, body: two},
	"GET /batch":                        ofCaller(200),
	"GET /batch/:id":                    ofBatch(200),
	"DELETE /batch/:id":                 ofBatch(204),
	"GET /batch/:id/results":            ofBatch(200),
	"GET /batch/:id/events":             ofBatch(200),
	"POST /batch/:id/cancel":            {none: 401, scope: 403, foreign: 404, own: 200, admin: 200, open: true},
	"POST /batch/:id/retry":             ofBatch(202),
	"GET /batch/:id/webhook":            ofBatch(200),
	"POST /batch/:id/webhook/redeliver": ofBatch(202),
	"GET /webhook-secret":               {none: 401, scope: 403, foreign: 404, own: 200, admin: 404, query: "?batch=:id"},
}

// mountedAccess returns what the route of an endpoint answers.
func mountedAccess(r *route) access {
	switch {
	case r.scope == auth.Open:
		return open(http.StatusMethodNotAllowed)
	case r.dialect == nil:
		a := ofCaller(http.StatusAccepted)
		a.body = `{"actions":[{"method":"GET","path":"/"}]}`
		return a
	}
	return ofCaller(http.StatusUnsupportedMediaType) // the right caller, without a body in the dialect
}

func TestEveryRouteAnswersEveryCallerAsItShould(t *testing.T) {
	t.Parallel()
	f := setup(t, everyDialect, func(c *Config) { c.Auth.Modes, c.Keys = []auth.Mode{auth.ModeKeys}, &ring{} })
	as := func(owner string, scopes ...auth.Scope) {
		f.auth = only{&auth.Principal{Mode: auth.ModeKeys, Owner: owner, Scopes: scopes}}
	}
	all := []auth.Scope{auth.Submit, auth.Read, auth.Cancel}
	fresh := func(ended bool) string { // a batch of alice
		as("alice", all...)
		f.store.run = nil
		if ended {
			f.store.run = func(int, *batch.Action) *batch.Result { return &batch.Result{Outcome: batch.Failed} }
		}
		id := f.created(t, call{body: `{"target":"crm","actions":[{"method":"GET","path":"/"}],"webhook":{"url":"https://example.com/"}}`})
		f.store.run = nil
		return id
	}
	var known []string
	for _, r := range f.table() {
		name := r.method + " " + r.path
		want, listed := accesses[name]
		if r.endpoint != nil {
			want, listed = mountedAccess(&r), true
		} else {
			known = append(known, name)
		}
		require.True(t, listed, "%s is not in the table: say what it answers to whom", name)
		for _, row := range []struct {
			caller string
			as     func()
			status int
		}{
			{"without a credential", func() { f.auth = only{} }, want.none},
			{"without the scope", func() {
				as("alice", slices.DeleteFunc(slices.Clone(append(all, auth.Admin)), func(s auth.Scope) bool { return s == r.scope })...)
			}, want.scope},
			{"as another owner", func() { as("bob", all...) }, want.foreign},
			{"as the owner", func() { as("alice", all...) }, want.own},
			{"as an admin", func() { as("root", append(all, auth.Admin)...) }, want.admin},
			{"as an admin without other scopes", func() { as("root", auth.Admin) }, map[bool]int{true: want.admin, false: want.scope}[slices.Contains([]auth.Scope{auth.Open, auth.Any, auth.Admin}, r.scope)]},
		} {
			id := fresh(!want.open)
			row.as()
			c := call{method: r.method, path: strings.NewReplacer(":id", id, ":instance", "i").Replace(r.path + want.query), body: want.body}
			w := serve(f, c.request(t))
			require.Equal(t, row.status, w.Code, "%s %s: %s", name, row.caller, w.Body)
			if row.status == http.StatusNotFound || row.status == http.StatusForbidden {
				require.NotContains(t, w.Body.String(), id)
				require.NotContains(t, fmt.Sprint(w.Header()), "alice")
			}
			_, still := f.store.batches[id]
			require.Equal(t, r.method != http.MethodDelete || row.status != http.StatusNoContent, still, "%s %s", name, row.caller)
		}
	}
	require.Len(t, known, len(accesses), "a route of the table does not exist any more")
}
