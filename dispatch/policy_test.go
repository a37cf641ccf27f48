package dispatch

import (
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

func TestWhatTheRulesForbidIsNotSent(t *testing.T) {
	t.Parallel()
	var seen atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { seen.Add(1) }))
	defer server.Close()
	d, err := New(Config{Targets: []batch.Target{{
		Name: "t", BaseURL: server.URL + "/api",
		Deny:  []batch.Rule{{Method: "POST", Path: "/items/secret/**"}, {Path: "/batch"}},
		Allow: []batch.Rule{{Path: "/items/**"}, {Method: "GET", Path: "/batch/*"}},
	}}})
	require.NoError(t, err)
	defer d.Close()
	for _, c := range []struct {
		method, path string
		sent         bool
	}{
		{"GET", "/items/1", true},
		{"GET", "/items/secret/1", true},
		{"POST", "/items/secret/1", false},
		{"POST", "/items/%73ecret/1", false},
		{"POST", "/Items/SECRET;x=1/1", false},
		{"GET", "/batch", false},
		{"GET", "/%62atch/", false},
		{"GET", "/batch/1", true},
		{"POST", "/batch/1", false},
		{"GET", "/users", false},
	} {
		before := seen.Load()
		resp := d.Do(t.Context(), &batch.Request{Target: "t", BatchID: "b", Action: &batch.Action{Method: c.method, Path: c.path}})
		if c.sent {
			require.Equal(t, batch.Succeeded, resp.Result.Outcome, c)
			require.Equal(t, before+1, seen.Load())
			continue
		}
		require.Equal(t, batch.Errored, resp.Result.Outcome, c)
		require.Equal(t, batch.CodeBlocked, resp.Result.Error.Code)
		require.False(t, resp.Repeat)
		require.Equal(t, before, seen.Load(), c)
	}
}
