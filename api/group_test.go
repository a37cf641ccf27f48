package api

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

func transactional(c *Config) { c.Transactional = []string{"billing"} }

func TestGroupsAndUndosReachTheStore(t *testing.T) {
	t.Parallel()
	first := `{"method":"POST","path":"/a","body":{"n":1},"group":"g","undo":{"method":"delete","path":"/a?x=1","query":{"y":"2"},"body":{ "why": "undone" },"timeout":"3s","headers":{"X-A":"1"}}}`
	second := `{"method":"POST","path":"/b","group":"g","body_text":"two"}`
	for name, c := range map[string]call{
		"json":   {body: `{"actions":[` + first + `,` + second + `],"target":"crm"}`},
		"ndjson": {path: "/batch?target=crm", body: first + "\n" + second, headers: []string{"Content-Type: application/x-ndjson"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t, transactional, allowingBodies)
			stored := f.store.stored(f.created(t, c))
			require.Equal(t, []batch.Action{
				{
					Method: "POST", Path: "/a", Headers: []batch.Field{{Name: "Content-Type", Value: "application/json"}}, Body: []byte(`{"n":1}`), Group: "g",
					Undo: &batch.Action{
						Method: "DELETE", Path: "/a", Query: "x=1&y=2", Timeout: 3e9, Body: []byte(`{"why":"undone"}`),
						Headers: []batch.Field{{Name: "X-A", Value: "1"}, {Name: "Content-Type", Value: "application/json"}},
					},
				},
				{Method: "POST", Path: "/b", Headers: []batch.Field{{Name: "Content-Type", Value: "text/plain; charset=utf-8"}}, Body: []byte("two"), Group: "g"},
			}, stored)
		})
	}
}

func TestAnUndoCarriesTheCredentialOfTheBatch(t *testing.T) {
	t.Parallel()
	f := setup(t, passthrough)
	id := f.created(t, call{
		headers: []string{"Authorization: Bearer t"},
		body:    `{"target":"crm","actions":[{"method":"POST","path":"/a","group":"g","undo":{"method":"DELETE","path":"/a"}}]}`,
	})
	a := f.store.stored(id)[0]
	require.Equal(t, []batch.Field{{Name: "Authorization", Value: "Bearer t"}}, a.Undo.Headers)
}

func TestGroupsThatCannotBeKeptAreRefused(t *testing.T) {
	t.Parallel()
	member := func(more string) string { return `{"method":"POST","path":"/","group":"g"` + more + `}` }
	undo := `,"undo":{"method":"DELETE","path":"/"}`
	for _, row := range []struct {
		name, target, actions string
		want                  []fault
	}{
		{"no undo", "crm", strings.Join([]string{member(""), member(undo), `{"method":"GET","path":"/","group":"g"}`, member("")}, ","), []fault{
			{0, "/actions/0/undo", `the target "crm" has no transactions, so each member of group "g" that changes something, except the last, needs an undo`},
		}},
		{"an undo beside transactions", "billing", member("") + "," + member(undo), []fault{{1, "/actions/1/undo", `the target "billing" has transactions of its own: leave the undo out`}}},
		{"an undo without a group", "crm", `{"method":"POST","path":"/"` + undo + `}`, []fault{{0, "/actions/0/undo", "belongs to a member of a group"}}},
		{"an undo that is none", "crm", member(`,"undo":1`) + "," + member(""), []fault{{0, "/actions/0/undo", "expected an object"}}},
		{"faults in an undo", "crm", member(`,"undo":{"method":"EAT","path":"x","body":1,"body_text":"","retry":"safe","id":"x","group":"g","undo":{}}`) + "," + member(""), []fault{
			{0, "/actions/0/undo/body_text", "only one of them"},
			{0, "/actions/0/undo/retry", "unknown field"},
			{0, "/actions/0/undo/id", "unknown field"},
			{0, "/actions/0/undo/group", "unknown field"},
			{0, "/actions/0/undo/undo", "unknown field"},
			{0, "/actions/0/undo/method", "unknown method"},
			{0, "/actions/0/undo/path", "does not start with /"},
		}},
		{"a name that is empty", "crm", `{"method":"POST","path":"/","group":""}`, []fault{{0, "/actions/0/group", "no name"}}},
		{"a name that is long", "crm", `{"method":"POST","path":"/","group":"` + strings.Repeat("x", 257) + `"}`, []fault{{0, "/actions/0/group", "257 characters"}}},
		{"too many members", "billing", strings.TrimSuffix(strings.Repeat(member("")+",", 101), ","), []fault{{100, "/actions/100/group", `the group "g" has 101 members: at most 100 are allowed`}}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			f := setup(t, transactional)
			requireFaults(t, f.do(t, call{method: http.MethodPost, path: "/batch", bad: true, body: fmt.Sprintf(`{"actions":[%s],"target":%q}`, row.actions, row.target)}), row.want)
			require.Zero(t, f.store.holds())
		})
	}
	t.Run("ndjson", func(t *testing.T) {
		t.Parallel()
		f := setup(t, transactional)
		requireFaults(t, f.do(t, call{
			method: http.MethodPost, path: "/batch?target=crm", headers: []string{"Content-Type: application/x-ndjson"}, body: member("") + "\n" + member(""),
		}), []fault{{0, "/undo", "needs an undo"}})
	})
	t.Run("in clear", func(t *testing.T) {
		t.Parallel()
		f := setup(t, func(c *Config) { c.Sealed = false })
		requireFaults(t, f.do(t, call{
			method: http.MethodPost, path: "/batch",
			body: `{"target":"crm","actions":[` + member(`,"undo":{"method":"DELETE","path":"/","headers":{"Authorization":"x"}}`) + `]}`,
		}), []fault{{0, "/actions/0/undo/headers/Authorization", "credential"}})
	})
	t.Run("body", func(t *testing.T) {
		t.Parallel()
		f := setup(t, small)
		requireFaults(t, f.do(t, call{
			method: http.MethodPost, path: "/batch",
			body: `{"target":"crm","actions":[` + member(`,"undo":{"method":"PUT","path":"/","body_text":"`+strings.Repeat("x", 51)+`"}`) + `]}`,
		}), []fault{{0, "/actions/0/undo/body_text", "at most 50"}})
	})
}

func TestTransactionsOfADialectNeedATargetThatHasThem(t *testing.T) {
	t.Parallel()
	f := setup(t, transactional, func(c *Config) {
		c.Endpoints = []Endpoint{{Path: "/erp", Dialect: "primaerp", Target: "billing"}, {Path: "/crm", Dialect: "primaerp", Target: "crm"}}
	})
	post := func(path string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodPost, path+"?token=t", strings.NewReader(
			`[{"id":"1","method":"POST","path":"/a","transaction":"t1"},{"id":"2","method":"POST","path":"/b","transaction":"t1"}]`))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Prefer", "respond-async")
		return serve(f, r)
	}
	w := post("/crm")
	require.Equal(t, http.StatusBadRequest, w.Code)
	require.Contains(t, w.Body.String(), `"pointer":"/0/transaction"`)
	require.Contains(t, w.Body.String(), "leave the transaction out")
	require.Zero(t, f.store.holds())
	w = post("/erp")
	require.Equal(t, http.StatusAccepted, w.Code, "%s", w.Body)
	stored := f.store.stored(strings.TrimPrefix(w.Header().Get("Location"), "/batch/"))
	require.Equal(t, "t1", stored[0].Group)
	require.Equal(t, "t1", stored[1].Group)
}
