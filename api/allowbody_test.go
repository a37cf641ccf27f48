package api

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

// allowingBodies has the target crm, and no other, accept all bodies.
func allowingBodies(c *Config) {
	c.Policies = []batch.Target{{Name: "crm", AllowBody: []string{"GET", "HEAD", "DELETE", "OPTIONS"}}, {Name: "billing"}}
}

func TestBodiesThatTheTargetDoesNotAllowAreRefused(t *testing.T) {
	t.Parallel()
	const why = "its setting allow_body does not list "
	actions := strings.Join([]string{
		`{"method":"POST","path":"/","body":1}`,
		`{"method":"get","path":"/","body":{"a":1}}`,
		`{"method":"DELETE","path":"/","body_text":"x"}`,
		`{"method":"OPTIONS","path":"/","body_text":""}`,
		`{"method":"HEAD","path":"/","body_base64":"AA=="}`,
		`{"method":"POST","path":"/","group":"g","undo":{"method":"DELETE","path":"/","body":null}}`,
	}, ",")
	want := func(pointers ...string) []fault {
		return []fault{{1, pointers[0], why + "GET"}, {2, pointers[1], why + "DELETE"}, {4, pointers[2], why + "HEAD"}, {5, pointers[3], why + "DELETE"}}
	}
	inDocument := want("/actions/1/body", "/actions/2/body_text", "/actions/4/body_base64", "/actions/5/undo/body")
	lines := strings.ReplaceAll(actions, "},{\"method", "}\n{\"method")
	for name, row := range map[string]struct {
		call call
		want []fault
	}{
		"the target comes first": {call{body: `{"target":"billing","actions":[` + actions + `]}`}, inDocument},
		"the target comes last":  {call{body: `{"actions":[` + actions + `],"target":"billing"}`}, inDocument},
		"at an endpoint":         {call{path: "/billing/batch", body: `{"actions":[` + actions + `]}`}, inDocument},
		"lines": {
			call{path: "/batch?target=billing", headers: []string{"Content-Type: application/x-ndjson"}, body: lines},
			want("/body", "/body_text", "/body_base64", "/undo/body"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t, allowingBodies, func(c *Config) { c.Endpoints = []Endpoint{{Path: "/billing/batch", Target: "billing"}} })
			row.call.method = http.MethodPost
			if row.call.path == "" {
				row.call.path = "/batch"
			}
			requireFaults(t, serve(f, row.call.request(t)), row.want)
		})
	}
	f := setup(t, allowingBodies)
	require.Len(t, f.store.stored(f.created(t, call{body: `{"actions":[` + actions + `],"target":"crm"}`})), 6)
}

func TestBodiesInADialectThatTheTargetDoesNotAllowAreRefused(t *testing.T) {
	t.Parallel()
	for dialect, row := range map[string]struct{ path, body, pointer string }{
		"requests": {"/d/batch", `{"requests":[{"method":"POST","path":"/a","body":"x"},{"method":"delete","path":"/a","body":"x"}]}`, "/requests/1/body"},
		"primaerp": {"/d/batch?token=t", `[{"method":"POST","path":"/a","body":"x"},{"method":"GET","path":"/a","body":"x"}]`, "/1/body"},
	} {
		t.Run(dialect, func(t *testing.T) {
			t.Parallel()
			for target, status := range map[string]int{"billing": http.StatusBadRequest, "crm": http.StatusOK} {
				f := setup(t, allowingBodies, func(c *Config) {
					c.Endpoints = []Endpoint{{Path: "/d/batch", Target: target, Dialect: Dialect(dialect)}}
				})
				f.store.run = func(int, *batch.Action) *batch.Result {
					return &batch.Result{Outcome: batch.Succeeded, Status: http.StatusOK}
				}
				w := serve(f, call{method: "POST", path: row.path, body: row.body, headers: []string{"Content-Type: application/json"}}.request(t))
				require.Equal(t, status, w.Code, w.Body.String())
				if status != http.StatusOK {
					require.Contains(t, w.Body.String(), `"pointer":"`+row.pointer+`"`)
					require.Contains(t, w.Body.String(), "its setting allow_body does not list ")
				}
			}
		})
	}
}

// Connection-based authentication is refused wherever a credential may come from.
func TestConnectionBasedCredentialsAreRefused(t *testing.T) {
	t.Parallel()
	const negotiate = "Negotiate YIIsecret"
	for name, c := range map[string]call{
		"of an action":   {path: "/batch", body: `{"target":"crm","actions":[{"method":"GET","path":"/","headers":{"authorization":"` + negotiate + `"}}]}`, headers: []string{"Authorization: Bearer t"}},
		"of an undo":     {path: "/batch", body: `{"target":"billing","actions":[{"method":"POST","path":"/","group":"g","undo":{"method":"DELETE","path":"/","headers":{"Authorization":"` + negotiate + `"}}}]}`, headers: []string{"Authorization: Bearer t"}},
		"passed through": {path: "/batch", body: `{"target":"crm","actions":[{"method":"GET","path":"/"}]}`, headers: []string{"Authorization: " + negotiate}},
		"of asana":       {path: "/asana", body: `{"data":{"actions":[{"method":"get","relative_path":"/tasks"}]}}`, headers: []string{"Authorization: " + negotiate}},
		"of requests":    {path: "/requests", body: `{"requests":[{"method":"GET","path":"/a"}]}`, headers: []string{"Authorization: " + negotiate}},
		"of syncano":     {path: "/v1.1/instances/i/batch/", body: `{"requests":[{"method":"GET","path":"/v1.1/instances/i/a/"}]}`, headers: []string{"Authorization: " + negotiate}},
		"of primaerp":    {path: "/primaerp?token=t", body: `[{"method":"GET","path":"/a","headers":"Authorization: ` + negotiate + `"}]`},
		"inherited":      {path: "/primaerp?token=t", body: `[{"method":"GET","path":"/a"}]`, headers: []string{"Authorization: " + negotiate}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t, passthrough, func(c *Config) {
				c.Endpoints = []Endpoint{
					{Path: "/asana", Target: "crm", Dialect: "asana"},
					{Path: "/requests", Target: "crm", Dialect: "requests"},
					{Path: "/v1.1/instances/:instance/batch/", Target: "crm", Dialect: "syncano"},
					{Path: "/primaerp", Target: "crm", Dialect: "primaerp"},
				}
			})
			c.method = http.MethodPost
			c.headers = append(c.headers, "Content-Type: application/json")
			w := serve(f, c.request(t))
			require.Equal(t, http.StatusBadRequest, w.Code, w.Body.String())
			require.Contains(t, w.Body.String(), "authenticates a connection and not a request")
			require.NotContains(t, w.Body.String()+f.log.String(), "YIIsecret")
			require.Empty(t, f.store.batches)
		})
	}
}
