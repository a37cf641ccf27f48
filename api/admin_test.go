package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/internal/apikey"
	"github.com/batchd/batchd/internal/batch"
)

// withAdmin authenticates by the keys alice, bob and root, of which root has all scopes, with admin.
func withAdmin(t *testing.T, options ...func(*Config)) (f *fixture, as map[string]string) {
	t.Helper()
	r, as := &ring{}, map[string]string{}
	for _, name := range []string{"alice", "bob", "root", "auditor", "prometheus"} {
		text := apikey.New()
		key := batch.Key{Name: name, Owner: name, Scopes: []string{"submit", "read", "cancel"}, Secrets: []batch.KeySecret{{SHA256: apikey.HexHash(text)}}}
		switch name {
		case "root":
			key.Scopes = append(key.Scopes, "admin")
			key.Limits = batch.OwnerLimits{Rate: batch.Rate{N: 2, Per: time.Hour}}
		case "auditor":
			key.Scopes = []string{"read", "admin"}
		case "prometheus":
			key.Scopes = []string{"admin"}
		}
		r.keys = append(r.keys, key)
		as[name] = "Authorization: Bearer " + text
	}
	return setup(t, append([]func(*Config){func(c *Config) { c.Auth.Modes, c.Keys = []auth.Mode{auth.ModeKeys}, r }}, options...)...), as
}

// listed returns the ids and owners of a list, page by page.
func (f *fixture) listed(t *testing.T, as, query string) (all [][2]string) {
	t.Helper()
	for at := "/batch?limit=2" + query; at != ""; {
		w := f.do(t, call{method: "GET", path: at, headers: []string{as}})
		require.Equal(t, http.StatusOK, w.Code, "%s", w.Body)
		var page struct {
			Batches []struct{ ID, Owner string }
			Next    string `json:"next_cursor"`
		}
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &page))
		for _, b := range page.Batches {
			all = append(all, [2]string{b.ID, b.Owner})
		}
		at = ""
		if page.Next != "" {
			at = "/batch?limit=2&cursor=" + page.Next + query
		}
	}
	return all
}

func TestAnAdminListsTheBatchesOfAllOwners(t *testing.T) {
	t.Parallel()
	f, as := withAdmin(t)
	var all, alices [][2]string
	for i := range 7 {
		name := []string{"alice", "bob"}[i%2]
		id := f.created(t, call{body: two, headers: []string{as[name]}})
		all = append([][2]string{{id, "key:" + name}}, all...)
		if name == "alice" {
			alices = append([][2]string{{id, "key:" + name}}, alices...)
		}
	}
	require.Equal(t, all, f.listed(t, as["root"], ""))
	require.Equal(t, all, f.listed(t, as["auditor"], ""))
	require.Equal(t, alices, f.listed(t, as["root"], "&owner="+url.QueryEscape("key:alice")))
	require.Empty(t, f.listed(t, as["root"], "&owner=nobody"))
	for _, b := range f.listed(t, as["alice"], "") {
		require.Empty(t, b[1], "owners are shown to admins")
	}
	require.Len(t, f.listed(t, as["alice"], ""), len(alices))
	for _, owner := range []string{"key:bob", "key:alice", "nobody", ""} {
		w := f.do(t, call{method: "GET", path: "/batch?owner=" + url.QueryEscape(owner), headers: []string{as["alice"]}, bad: owner == ""})
		requireProblem(t, w, http.StatusForbidden)
	}
	w := f.do(t, call{method: "GET", path: "/batch?limit=1&owner=key%3Aalice", headers: []string{as["root"]}})
	require.Contains(t, w.Header().Get("Link"), "owner=key%3Aalice")
}

// A batch that cannot be read is listed with its id and the error, which says nothing of the reason; the log does.
func TestAListShowsABatchThatCannotBeRead(t *testing.T) {
	t.Parallel()
	f, as := withAdmin(t)
	var ids []string
	for range 3 {
		ids = append([]string{f.created(t, call{body: two, headers: []string{as["alice"]}})}, ids...)
	}
	f.store.mu.Lock()
	of := f.store.batches[ids[1]].Batch
	f.store.batches[ids[1]].Batch = batch.Batch{
		ID: of.ID, Owner: of.Owner, CreatedAt: of.CreatedAt, Damaged: &batch.DamagedError{ID: of.ID, Err: errors.New("the head was changed")},
	}
	f.store.mu.Unlock()
	for name, owner := range map[string]string{"alice": "", "root": "key:alice"} {
		all := f.listed(t, as[name], "")
		require.Len(t, all, 3)
		for i, id := range ids {
			require.Equal(t, [2]string{id, owner}, all[i])
		}
		w := f.do(t, call{method: "GET", path: "/batch", headers: []string{as[name]}})
		var page struct {
			Batches []map[string]any
		}
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &page))
		for i, b := range page.Batches {
			if i != 1 {
				require.NotContains(t, b, "error")
				continue
			}
			require.Contains(t, b["error"], "batch "+ids[1]+" cannot be read")
			require.NotContains(t, b["error"], "the head was changed")
			require.NotContains(t, b, "status")
			require.NotContains(t, b, "counts")
			require.NotEmpty(t, b["created_at"])
		}
	}
}

func TestAnAdminSeesTheOwnerOfABatch(t *testing.T) {
	t.Parallel()
	f, as := withAdmin(t)
	f.store.run = func(int, *batch.Action) *batch.Result { return &batch.Result{Outcome: batch.Failed} }
	id := f.created(t, call{body: two, headers: []string{as["alice"]}})
	for _, c := range []call{
		{method: "GET", path: "/batch/" + id},
		{method: "GET", path: "/batch/" + id + "/events"},
		{method: "POST", path: "/batch/" + id + "/retry"},
		{method: "POST", path: "/batch/" + id + "/cancel"},
	} {
		for name, shown := range map[string]bool{"alice": false, "root": true} {
			c.headers = []string{as[name]}
			w := f.do(t, c)
			if w.Code < 300 {
				require.Equal(t, shown, strings.Contains(w.Body.String(), `"owner":"key:alice"`), "%s %s for %s: %s", c.method, c.path, name, w.Body)
			}
		}
	}
	require.NotEqual(t,
		f.do(t, call{method: "GET", path: "/batch/" + id, headers: []string{as["alice"]}}).Header().Get("ETag"),
		f.do(t, call{method: "GET", path: "/batch/" + id, headers: []string{as["root"]}}).Header().Get("ETag"), "each has a document of its own")
}

func TestAnAdminUsesUpNothingOfTheOwner(t *testing.T) {
	t.Parallel()
	f, as := withAdmin(t, func(c *Config) { c.Limits.Capacity.Streams, c.Limits.Capacity.StreamsPerOwner = 10, 1 })
	id := f.created(t, call{body: two, headers: []string{as["alice"]}})
	ctx, hangUp := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.Handler().ServeHTTP(httptest.NewRecorder(), call{method: "GET", path: "/batch/" + id + "/events", headers: []string{as["root"]}}.request(t).WithContext(ctx))
	}()
	require.Eventually(t, func() bool { return f.store.watching() > 0 }, time.Minute, time.Millisecond)
	f.store.finish(id, 0, succeeded("1"))
	f.store.finish(id, 1, succeeded("1"))
	w := f.do(t, call{method: "GET", path: "/batch/" + id + "/events", headers: []string{as["alice"]}})
	require.Equal(t, http.StatusOK, w.Code, "%s", w.Body)
	hangUp()
	<-done
}

func TestTheLimitsOfAnAdminDoNotCountForOthers(t *testing.T) {
	t.Parallel()
	f, as := withAdmin(t, func(c *Config) { c.Limits.Admission.Rate = batch.Rate{N: 100, Per: time.Hour} })
	f.store.run = func(int, *batch.Action) *batch.Result { return &batch.Result{Outcome: batch.Failed} }
	id := f.created(t, call{body: two, headers: []string{as["alice"]}})
	w := f.do(t, call{method: "POST", path: "/batch/" + id + "/retry", headers: []string{as["root"]}})
	require.Equal(t, http.StatusAccepted, w.Code, "%s", w.Body)
	require.Contains(t, w.Header().Get("Ratelimit-Policy"), "q=100;")
}

func TestAnAdminGetsNoWebhookSecretOfOthers(t *testing.T) {
	t.Parallel()
	f, as := withAdmin(t)
	id := f.created(t, call{body: two, headers: []string{as["alice"]}})
	requireProblem(t, f.do(t, call{method: "GET", path: "/webhook-secret?batch=" + id, headers: []string{as["root"]}}), http.StatusNotFound)
	own := f.do(t, call{method: "GET", path: "/webhook-secret", headers: []string{as["root"]}})
	require.Equal(t, http.StatusOK, own.Code)
	alices := f.do(t, call{method: "GET", path: "/webhook-secret?batch=" + id, headers: []string{as["alice"]}})
	require.Equal(t, http.StatusOK, alices.Code)
	require.NotEqual(t, own.Body.String(), alices.Body.String())
}

func TestAnAdminSubmitsForItself(t *testing.T) {
	t.Parallel()
	f, as := withAdmin(t)
	id := f.created(t, call{body: two, headers: []string{as["root"]}})
	require.Equal(t, "key:root", f.store.batches[id].Owner)
}

func TestMetricsAndChecksAreForAdmins(t *testing.T) {
	t.Parallel()
	checks := func(c *Config) {
		c.Checks = func(context.Context) []batch.Check {
			return []batch.Check{{Name: "redis", State: batch.CheckOK, Detail: "version 7.0.15"}}
		}
	}
	f, as := withAdmin(t, checks)
	for _, path := range []string{"/metrics", "/readyz?verbose", "/readyz?verbose=false", "/readyz?x=1&verbose=", "/readyz?%76erbose"} {
		for _, method := range []string{"GET", "HEAD"} {
			for name, status := range map[string]int{"": 401, "alice": 403, "prometheus": 200, "root": 200} {
				c := call{method: method, path: path}
				if name != "" {
					c.headers = []string{as[name]}
				}
				w := serve(f, c.request(t))
				require.Equal(t, status, w.Code, "%s %s as %q: %s", method, path, name, w.Body)
				if status != 200 {
					require.NotContains(t, w.Body.String(), "7.0.15")
					require.NotContains(t, w.Body.String(), "go_goroutines")
				}
			}
		}
	}
	w := f.do(t, call{method: "GET", path: "/readyz?verbose", headers: []string{as["prometheus"]}})
	require.JSONEq(t, `{"status":"ready","checks":[{"name":"redis","state":"ok","detail":"version 7.0.15"}]}`, w.Body.String())
	require.JSONEq(t, `{"status":"ready"}`, f.do(t, call{method: "GET", path: "/readyz"}).Body.String())
	f.store.setDown(&batch.UnavailableError{RetryAfter: time.Second})
	w = f.do(t, call{method: "GET", path: "/readyz?verbose", headers: []string{as["prometheus"]}})
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.Contains(t, w.Body.String(), `"status":"unavailable"`)

	alone := setup(t, checks) // without authentication
	require.Contains(t, alone.do(t, call{method: "GET", path: "/readyz?verbose"}).Body.String(), "7.0.15")
	require.Contains(t, alone.do(t, call{method: "GET", path: "/metrics"}).Body.String(), "batchd_http_requests_total")

	through := setup(t, passthrough, checks) // where a client can invent credentials
	for _, path := range []string{"/metrics", "/readyz?verbose"} {
		requireProblem(t, through.do(t, call{method: "GET", path: path}), http.StatusUnauthorized)
		requireProblem(t, through.do(t, call{method: "GET", path: path, headers: []string{"Authorization: Bearer admin"}}), http.StatusForbidden)
	}

	elsewhere, as := withAdmin(t, func(c *Config) { c.MetricsElsewhere = true })
	p := requireProblem(t, elsewhere.do(t, call{method: "GET", path: "/metrics", headers: []string{as["root"]}}), http.StatusNotFound)
	require.Contains(t, p.Detail, "monitor.listen")
}
