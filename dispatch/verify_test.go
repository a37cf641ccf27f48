package dispatch

import (
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

func TestAQuestionAboutACredentialHasNothingElse(t *testing.T) {
	t.Parallel()
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		var mu sync.Mutex
		var got []http.Header
		other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the redirect was followed") }))
		t.Cleanup(other.Close)
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, r.Header)
			if r.URL.Path != "/v1/me" || r.Method != method || r.ContentLength != 0 {
				t.Errorf("%s %s", r.Method, r.URL)
			}
			http.Redirect(w, r, other.URL, http.StatusFound)
		}))
		t.Cleanup(srv.Close)
		target := batch.Target{BaseURL: srv.URL + "/v1", IdempotencyKeyHeader: "Idempotency-Key", Allow: []batch.Rule{{Method: "POST", Path: "/items"}}}.WithDefaults()
		d := newDispatcher(t, target.ForVerify(4))
		question := &batch.Request{Target: "crm", Call: true, Action: &batch.Action{
			Method: method, Path: "/me", Headers: []batch.Field{{Name: "Authorization", Value: "Bearer alice"}},
		}}
		resp := d.Do(t.Context(), question)
		require.Nil(t, resp.Result.Error, "it needs no allow rule")
		require.Equal(t, http.StatusFound, resp.Result.Status)
		require.LessOrEqual(t, len(resp.Result.Body), 1)
		require.Len(t, got, 1)
		for name := range got[0] {
			require.Contains(t, []string{"Authorization", "User-Agent", "Accept-Encoding", "Connection"}, name)
		}
		require.Equal(t, []string{"Bearer alice"}, got[0]["Authorization"])
		for _, value := range []string{"Negotiate abc", "Bearer a\x00b"} {
			question.Action.Headers[0].Value = value
			resp = d.Do(t.Context(), question)
			require.Equal(t, batch.CodeBlocked, resp.Result.Error.Code, "the checks of an action hold")
			require.NotContains(t, resp.Result.Error.Message, "abc")
		}
		require.Len(t, got, 1)
	}
}

func TestEachQuestionAboutACredentialHasAConnection(t *testing.T) {
	t.Parallel()
	everyCarrier(t, func(t *testing.T, kind string) {
		t.Helper()
		for _, connections := range []string{batch.ConnectionsPerOwner, batch.ConnectionsShared} {
			target := batch.Target{BaseURL: "http://crm.invalid", Connections: connections}.WithDefaults()
			k, d := newKept(t, kind, target.ForVerify(2))
			for _, owner := range []string{"alice", "alice", "bob"} {
				resp := d.Do(t.Context(), &batch.Request{Target: "crm", Owner: owner, Call: true, Action: &batch.Action{
					Method: "GET", Path: "/", Headers: []batch.Field{{Name: "Authorization", Value: owner}},
				}})
				require.Equal(t, http.StatusOK, resp.Result.Status, "%+v", resp.Result.Error)
			}
			require.Equal(t, []string{"alice", "alice", "bob"}, k.connections())
		}
	})
}

func TestDispatchersOfAProcessShareTheirMetric(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	var all []*Dispatcher
	for _, name := range []string{"crm", "billing"} {
		d, err := New(Config{Targets: []batch.Target{{Name: name, BaseURL: "http://crm.invalid"}}, Registerer: registry})
		require.NoError(t, err)
		t.Cleanup(d.Close)
		all = append(all, d)
	}
	all[0].targets["crm"].suspicion.report(bytesBeyond)
	all[1].targets["billing"].suspicion.report(bytesBeyond)
	found, err := registry.Gather()
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.Len(t, found[0].GetMetric(), 2)
	for _, m := range found[0].GetMetric() {
		require.InDelta(t, 1, m.GetCounter().GetValue(), 0)
	}
}
