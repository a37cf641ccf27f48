package api

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

func TestNoBatchInABatchInAnySpelling(t *testing.T) {
	t.Parallel()
	endpoints := []Endpoint{
		{Path: "/api/1.0/batch"}, {Path: "/v1.1/instances/:instance/batch/"}, {Path: "/v1/batch"}, {Path: "/crm/bulk"},
	}
	n := newNesting(endpoints, []string{"/api"})
	crm := &endpoints[3]
	for _, c := range []struct {
		ep     *Endpoint
		path   string
		nested bool
	}{
		{nil, "/batch", true},
		{nil, "/Batch/", true},
		{nil, "/batch%20", true},
		{nil, "/batch%3fx=1", true},
		{nil, "/batch;a=b", true},
		{nil, "/crm%C0%AFbulk", true},
		{nil, "/crm／BULK", true},
		{nil, "/bat%0ach", true},
		{nil, "/batches", false},
		{nil, "/items/batch", false},
		{crm, "/bulk", true},
		{nil, "/bulk", false},
		{nil, "/crm/%62ulk", true},
		{crm, "/crm/%2562ulk/", true},
		{crm, "/v1.1/instances/i/batch/", true},
		{crm, "/v2/instances/other/batch", true},
		{crm, "/x/instances/other/batch", false},
		{crm, "/v1.1/instances/i/classes/", false},
		{crm, "/v3/batch", true},
		{crm, "/1.0/batch", true}, // below the target's base, this is the first segment
		{crm, "/api/1.0/batch", true},
	} {
		a := &batch.Action{Method: http.MethodPost, Path: c.path}
		n.refuse(c.ep, a)
		require.Equal(t, c.nested, a.Refusal != nil, c.path)
		undone := &batch.Action{Method: http.MethodPost, Path: "/x", Undo: &batch.Action{Method: http.MethodPost, Path: c.path}}
		n.refuse(c.ep, undone)
		require.Equal(t, c.nested, undone.Refusal != nil, c.path)
	}
	look := &batch.Action{Method: http.MethodGet, Path: "/batch"}
	n.refuse(nil, look)
	require.Nil(t, look.Refusal, "a target may have a resource of that name")
}

func TestALimitIsToldInTheAnswer(t *testing.T) {
	t.Parallel()
	f := setup(t, func(c *Config) {
		c.Limits.Admission = Admission{Rate: batch.Rate{N: 3, Per: 90 * time.Second}, Concurrent: 50}
	})
	submit := func(n int) *httptest.ResponseRecorder {
		line := `{"method":"GET","path":"/a"}` + "\n"
		return f.do(t, call{method: "POST", path: "/batch?target=crm", headers: []string{"Content-Type: application/x-ndjson"}, body: strings.Repeat(line, n)})
	}
	w := submit(2)
	require.Equal(t, http.StatusAccepted, w.Code)
	require.Equal(t, `"actions";q=3;w=90, "concurrent";q=50`, w.Header().Get("Ratelimit-Policy"))
	require.Contains(t, w.Header().Get("Ratelimit"), `"actions";r=1;t=60`)
	w = submit(2)
	p := requireProblem(t, w, http.StatusTooManyRequests)
	require.Equal(t, "urn:problem-type:batchd:limit-exceeded", p.Type)
	require.Equal(t, "2", w.Header().Get("Retry-After"), "rounded up: earlier would not be true")
	require.NotEmpty(t, w.Header().Get("Ratelimit"))
	w = submit(4)
	require.Equal(t, "urn:problem-type:batchd:over-limit", requireProblem(t, w, http.StatusBadRequest).Type)
	require.Empty(t, w.Header().Get("Retry-After"), "it can never be")
	require.Equal(t, http.StatusAccepted, submit(1).Code)
	require.Equal(t, 2, f.store.holds())

	f = setup(t, func(c *Config) {
		c.Limits.Admission = Admission{Rate: batch.Rate{N: 1, Per: time.Second}, WhenExceeded: Queue}
	})
	w = submit(9)
	require.Equal(t, http.StatusAccepted, w.Code, "it is run as the limit allows")
}

// BenchmarkNested measures the check of an action with a plain path.
func BenchmarkNested(b *testing.B) {
	endpoints := []Endpoint{{Path: "/crm/bulk"}, {Path: "/v1/batch"}}
	n := newNesting(endpoints, []string{"/api", "/v2"})
	a := &batch.Action{Method: http.MethodPost, Path: "/items"}
	b.ReportAllocs()
	for b.Loop() {
		n.refuse(&endpoints[0], a)
	}
}
