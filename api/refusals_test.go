package api

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

// withOpenTarget lets the target billing accept two headers that crm refuses.
func withOpenTarget(c *Config) {
	c.Policies = []batch.Target{{Name: "crm"}, {Name: "billing", Headers: batch.HeaderPolicy{Allow: []string{"X-Forwarded-For", "Via"}}}}
	c.Endpoints = []Endpoint{
		{Path: "/crm/batch", Target: "crm"},
		{Path: "/billing/batch", Target: "billing"},
		{Path: "/api/batch", Dialect: "requests", Target: "crm"},
		{Path: "/open/batch", Dialect: "requests", Target: "billing"},
		{Path: "/v1/batch", Dialect: "primaerp", Target: "crm"},
		{Path: "/v2/batch", Dialect: "primaerp", Target: "billing"},
	}
}

func TestHeadersThatTheTargetRefusesAreFaults(t *testing.T) {
	t.Parallel()
	f := setup(t, withOpenTarget)
	const forwarded = `{"method":"GET","path":"/","headers":{"X-Forwarded-For":["::1","::2"]}}`
	const override = `{"method":"POST","path":"/","headers":{"x_http_method_override":"DELETE"}}`
	const framed = `{"method":"POST","path":"/","headers":{"Content_Length":"0","Connection":"X-Tx"}}`
	const undo = `{"method":"POST","path":"/","group":"g","undo":{"method":"DELETE","path":"/","headers":{"X-Original-URL":"/admin"}}},{"method":"GET","path":"/","group":"g"}`
	const allowed = "headers.allow"
	for name, row := range map[string]struct {
		path, body string
		want       []fault
	}{
		"target first":         {"/batch", `{"target":"crm","actions":[{"method":"GET","path":"/"},` + forwarded + `,` + override + `]}`, []fault{{1, "/actions/1/headers/X-Forwarded-For", allowed}, {2, "/actions/2/headers/x_http_method_override", allowed}}},
		"target last":          {"/batch", `{"actions":[` + forwarded + `,` + override + `],"target":"crm"}`, []fault{{0, "/actions/0/headers/X-Forwarded-For", allowed}, {1, "/actions/1/headers/x_http_method_override", allowed}}},
		"another target last":  {"/batch", `{"actions":[` + forwarded + `,` + override + `],"target":"billing"}`, []fault{{1, "/actions/1/headers/x_http_method_override", allowed}}},
		"another target first": {"/batch", `{"target":"billing","actions":[` + forwarded + `,` + override + `]}`, []fault{{1, "/actions/1/headers/x_http_method_override", allowed}}},
		"framing":              {"/batch", `{"target":"billing","actions":[` + framed + `]}`, []fault{{0, "/actions/0/headers/Content_Length", "content-length"}, {0, "/actions/0/headers/Connection", "X-Tx"}}},
		"an undo":              {"/batch", `{"target":"crm","actions":[` + undo + `]}`, []fault{{0, "/actions/0/undo/headers/X-Original-URL", allowed}}},
		"an undo, target last": {"/batch", `{"actions":[` + undo + `],"target":"crm"}`, []fault{{0, "/actions/0/undo/headers/X-Original-URL", allowed}}},
		"an endpoint":          {"/crm/batch", `{"actions":[` + forwarded + `]}`, []fault{{0, "/actions/0/headers/X-Forwarded-For", allowed}}},
		"an unknown target":    {"/batch", `{"actions":[` + override + `],"target":"crn"}`, []fault{{-1, "/target", "unknown target"}}},
		"a name that is none":  {"/batch", `{"target":"crm","actions":[{"method":"GET","path":"/","headers":{"X-Forwarded-For ":"1"}}]}`, []fault{{0, "/actions/0/headers/X-Forwarded-For ", "0x20"}}},
	} {
		t.Log(name)
		w := f.serve(t, call{method: "POST", path: row.path, body: row.body})
		requireFaults(t, w, row.want)
	}
	require.Zero(t, f.store.holds())
	for _, c := range []call{
		{path: "/batch", body: `{"actions":[` + forwarded + `],"target":"billing"}`},
		{path: "/billing/batch", body: `{"actions":[` + forwarded + `]}`},
	} {
		c.method = http.MethodPost
		require.Equal(t, http.StatusAccepted, f.serve(t, c).Code, c.path)
	}
	w := f.do(t, call{method: "POST", path: "/batch?target=crm", body: override + "\n" + forwarded, headers: []string{"Content-Type: application/x-ndjson"}, bad: true})
	requireFaults(t, w, []fault{{0, "/headers/x_http_method_override", allowed}, {1, "/headers/X-Forwarded-For", allowed}})
}

func TestRefusalsAreCountedBeyondAHundred(t *testing.T) {
	t.Parallel()
	f := setup(t, withOpenTarget)
	one := `{"method":"GET","path":"/","headers":{"Via":"1"}}`
	list := strings.Repeat(one+",", 149) + one
	for _, body := range []string{`{"target":"crm","actions":[` + list + `]}`, `{"actions":[` + list + `],"target":"crm"}`} {
		p := requireProblem(t, f.do(t, call{method: "POST", path: "/batch", body: body, bad: true}), http.StatusBadRequest)
		require.Len(t, p.Errors, 100)
		require.Equal(t, 50, p.More)
	}
}

func TestHeadersThatTheTargetRefusesAreFaultsInEveryDialect(t *testing.T) {
	t.Parallel()
	f := setup(t, withOpenTarget)
	const items = `{"requests":[{"method":"GET","path":"/"},{"method":"GET","path":"/","headers":{"X-Forwarded-For":"::1"}}]}`
	const lines = `[{"method":"GET","path":"/","headers":"X_Forwarded_For: ::1\nX-A: 1"}]`
	for path, row := range map[string]struct{ body, pointer string }{
		"/api/batch": {items, "/requests/1/headers/X-Forwarded-For"}, "/v1/batch?token=t": {lines, "/0/headers"}, "/v2/batch?token=t": {lines, "/0/headers"},
	} {
		w := f.serve(t, call{method: "POST", path: path, body: row.body, headers: []string{"Content-Type: application/json"}})
		require.Equal(t, http.StatusBadRequest, w.Code, path)
		require.Contains(t, w.Body.String(), `"`+row.pointer+`"`)
		require.Contains(t, w.Body.String(), "headers.allow")
	}
	require.Zero(t, f.store.holds())
	w := f.serve(t, call{method: "POST", path: "/open/batch", body: items, headers: []string{"Content-Type: application/json", "Prefer: respond-async"}})
	require.Equal(t, http.StatusAccepted, w.Code, "%s", w.Body)
}

// Proxies in front of batchd add such headers to the request of a batch, so its items do
// not inherit them.
func TestItemsInheritNoHeadersThatTheTargetRefuses(t *testing.T) {
	t.Parallel()
	f := setup(t, withOpenTarget)
	for path, want := range map[string][]string{"/v1/batch?token=t": {"X-A"}, "/v2/batch?token=t": {"X-A", "X-Forwarded-For"}} {
		w := f.serve(t, call{method: "POST", path: path, body: `[{"method":"GET","path":"/"}]`, headers: []string{
			"Content-Type: application/json", "Prefer: respond-async", "X-A: 1", "X-Forwarded-For: ::1", "X_Forwarded_For: ::1", "X-Real-Ip: ::1", "X-Http-Method-Override: PUT", "Upgrade: h2c", "Remote-User: root",
		}})
		require.Equal(t, http.StatusAccepted, w.Code, "%s", w.Body)
		_, id, _ := strings.Cut(w.Header().Get("Location"), "/batch/")
		var names []string
		for _, h := range f.store.stored(id)[0].Headers {
			if h.Name != "Content-Type" {
				names = append(names, h.Name)
			}
		}
		require.Equal(t, want, names, path)
	}
}

// serve makes a call that the description does not have.
func (f *fixture) serve(t *testing.T, c call) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	f.Handler().ServeHTTP(w, c.request(t))
	return w
}
