package api

import (
	"cmp"
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
)

// stored returns a server that keeps its batches in a Redis. Only the budget of a
// request bounds how long the store may take.
func stored(t *testing.T, options ...func(*Config)) (*fixture, *redistest.Server) {
	t.Helper()
	redis := redistest.Start(t)
	key := seal.NewKey("test", make([]byte, 32))
	store, err := queue.Open(queue.Config{
		Redis: rdb.Config{URL: rdb.URL(redis.URL())}, Seal: seal.Config{Keys: []seal.Key{key}}, Timeout: time.Minute,
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return setup(t, append([]func(*Config){endpoints, func(c *Config) {
		c.Store, c.Owner = store, store.Owner
		c.Limits.Admission.Rate = batch.Rate{N: 1000, Per: time.Second}
		c.Endpoints = append(c.Endpoints, Endpoint{Path: "/crm/batch", Target: "crm"})
	}}, options...)...), redis
}

// storeless are the routes that do not need the store.
var storeless = []string{"/healthz", "/metrics", "/openapi.yaml", "/webhook-secret", "/whoami", "/session", "/session/login", "/session/callback"}

// storeCalls returns a request about one batch for every route that needs the store.
func storeCalls(t *testing.T, f *fixture, id string) map[string]call {
	t.Helper()
	calls := make(map[string]call)
	engine, err := f.routes()
	require.NoError(t, err)
	for _, route := range engine.Routes() {
		path := strings.TrimSuffix(route.Path, "/")
		foreign := slices.ContainsFunc(f.cfg.Endpoints, func(e Endpoint) bool {
			return strings.TrimSuffix(e.Path, "/") == path && e.Dialect != Native
		})
		if slices.Contains(storeless, route.Path) || foreign && route.Method != http.MethodPost {
			continue
		}
		c := call{method: route.Method, path: strings.NewReplacer(":instance", "i", ":id", id).Replace(route.Path), headers: []string{"Authorization: Bearer alice"}}
		switch {
		case foreign:
			for _, d := range foreigners() {
				if path, _, _ := strings.Cut(d.path, "?"); strings.TrimSuffix(path, "/") == strings.TrimSuffix(c.path, "/") {
					c = d.call()
				}
			}
			c.headers = append(c.headers, "Prefer: respond-async")
		case path == "/batch" && route.Method == http.MethodPost:
			c.body = two
		case path == "/crm/batch":
			c.body = strings.Replace(two, `"target":"crm",`, "", 1)
		}
		if c.method == http.MethodPost && c.body != "" {
			c.headers = append(c.headers, "Idempotency-Key: "+route.Path)
		}
		calls[route.Method+" "+route.Path] = c
	}
	require.Greater(t, len(calls), 15)
	return calls
}

func submitWebhook(t *testing.T, f *fixture) string {
	t.Helper()
	w := httptest.NewRecorder()
	body := strings.Replace(two, `"target":"crm",`, `"target":"crm","webhook":{"url":"https://example.com/hook"},`, 1)
	f.Handler().ServeHTTP(w, call{method: http.MethodPost, path: "/batch", body: body}.request(t))
	require.Equal(t, http.StatusAccepted, w.Code, "%s", w.Body)
	return strings.TrimPrefix(w.Header().Get("Location"), "/batch/")
}

// serveAll makes all calls at the same time, and returns their answers.
func serveAll(t *testing.T, f *fixture, calls map[string]call) map[string]*httptest.ResponseRecorder {
	t.Helper()
	answers := make(map[string]*httptest.ResponseRecorder)
	var mu sync.Mutex
	var wg sync.WaitGroup
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // ends streams
	defer cancel()
	for name, c := range calls {
		r := c.request(t).WithContext(ctx)
		wg.Go(func() {
			w := httptest.NewRecorder()
			f.Handler().ServeHTTP(w, r)
			mu.Lock()
			defer mu.Unlock()
			answers[name] = w
		})
	}
	wg.Wait()
	return answers
}

func TestEveryEndpointGivesUpOnARedisThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	f, redis := stored(t)
	calls := storeCalls(t, f, submitWebhook(t, f))
	redis.Freeze()
	defer redis.Thaw()
	began := time.Now()
	for name, w := range serveAll(t, f, calls) {
		require.Equal(t, http.StatusServiceUnavailable, w.Code, "%s: %s", name, w.Body)
		require.NotEmpty(t, w.Header().Get("Retry-After"), name)
	}
	require.Less(t, time.Since(began), 10*time.Second, "the budget is %s", storeBudget)
}

func TestTheOwnerIsLookedUpWithinTheBudget(t *testing.T) {
	t.Parallel()
	f, redis := stored(t, func(c *Config) { c.Auth.Modes = []auth.Mode{auth.ModePassthrough} })
	calls := storeCalls(t, f, "0198c0de-0000-7000-8000-000000000000")
	redis.Freeze()
	defer redis.Thaw()
	began := time.Now()
	for name, w := range serveAll(t, f, calls) {
		require.Equal(t, http.StatusServiceUnavailable, w.Code, "%s: %s", name, w.Body)
	}
	require.Less(t, time.Since(began), 10*time.Second)
}

func TestEveryEndpointBearsWithAShortOutage(t *testing.T) {
	t.Parallel()
	f, redis := stored(t)
	calls := storeCalls(t, f, submitWebhook(t, f))
	delete(calls, "GET /batch/:id/events") // it would not end
	delete(calls, "DELETE /batch/:id")     // the others need the batch
	redis.Freeze()
	time.AfterFunc(storeBudget/4, redis.Thaw)
	answers := serveAll(t, f, calls)
	calls = map[string]call{"DELETE": {method: http.MethodDelete, path: calls["GET /batch/:id"].path}}
	redis.Freeze()
	time.AfterFunc(storeBudget/4, redis.Thaw)
	answers["DELETE /batch/:id"] = serveAll(t, f, calls)["DELETE"]
	for name, w := range answers {
		require.Less(t, cmp.Or(w.Code, 500), 500, "%s: %s", name, w.Body)
	}
}
