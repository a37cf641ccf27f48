package api

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/internal/batch"
)

// answers makes a request on every route of the API that needs a credential, with an id.
func answers(t *testing.T, f *fixture, id string, headers ...string) map[string]*httptest.ResponseRecorder {
	t.Helper()
	all := map[string]*httptest.ResponseRecorder{}
	for _, r := range f.table() {
		if r.scope == auth.Open {
			continue
		}
		path := strings.NewReplacer(":id", id, ":instance", "i").Replace(r.path)
		require.NotContains(t, path, ":", "a parameter that the test does not know")
		all[r.method+" "+r.path] = serve(f, call{method: r.method, path: path, headers: headers}.request(t))
	}
	return all
}

// A route that forgets to compare the owner fails here: the routes come from the table.
func TestNoRouteTellsAnotherOwnersBatchFromAnUnknownOne(t *testing.T) {
	t.Parallel()
	for name, as := range map[string]func(*fixture, string) []string{
		"by an owner": func(f *fixture, who string) []string {
			f.auth = only{&auth.Principal{Name: who, Owner: "key:" + who, Scopes: auth.AllScopes()[:3]}}
			return nil
		},
		"by one of several credentials": func(f *fixture, who string) []string {
			f.auth = auth.Passthrough{}
			return []string{"Authorization: Bearer " + who, "X-API-KEY: " + who}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := setup(t, everyDialect, passthrough, func(c *Config) { c.Endpoints = append(c.Endpoints, Endpoint{Path: "/more", Target: "billing"}) })
				headers := as(f, "alice")
				f.store.run = func(int, *batch.Action) *batch.Result { return succeeded(`"of alice"`) }
				id := f.created(t, call{body: `{"target":"crm","actions":[{"method":"GET","path":"/a"}],"webhook":{"url":"https://example.com/"}}`, headers: headers})
				headers = as(f, "bob")
				foreign, unknown := answers(t, f, id, headers...), answers(t, f, strings.Replace(id, "-1", "-2", 1), headers...)
				for route, w := range foreign {
					if strings.Contains(route, ":id") {
						require.Equal(t, http.StatusNotFound, w.Code, route)
					}
					require.NotContains(t, w.Body.String(), id, route)
					require.NotContains(t, w.Body.String(), "of alice", route)
					other := unknown[route]
					w.Header().Del("X-Request-ID")
					other.Header().Del("X-Request-ID")
					require.Equal(t, other.Code, w.Code, route)
					require.Equal(t, other.Body.String(), w.Body.String(), route)
					require.Equal(t, other.Header(), w.Header(), route)
				}
				require.Len(t, f.store.batches, 1)
				headers = as(f, "alice")
				require.Equal(t, http.StatusOK, serve(f, call{method: "GET", path: "/batch/" + id, headers: headers}.request(t)).Code)
			})
		})
	}
}
