package api

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/rdb"
)

// variants returns the requests by which a client can ask for a batch, for every route with its id, and for the
// routes that have it in the query.
func variants(f *fixture, id string) []call {
	var calls []call
	for _, r := range f.table() {
		if !strings.Contains(r.path, ":id") {
			continue
		}
		at := strings.Replace(r.path, ":id", id, 1)
		calls = append(calls, call{method: r.method, path: at}, call{method: r.method, path: at, headers: []string{"Prefer: wait=60", `If-None-Match: "x"`, "Last-Event-ID: x"}})
		switch {
		case strings.HasSuffix(r.path, "/results"):
			calls = append(calls, call{method: r.method, path: at + "?outcome=succeeded&from=1&limit=1"}, call{method: r.method, path: at, headers: []string{"Accept: application/x-ndjson"}},
				call{method: r.method, path: at + "?from=5"})
		case strings.HasSuffix(r.path, "/retry"):
			calls = append(calls, call{method: r.method, path: at + "?outcome=unknown"})
		}
		if r.method == http.MethodGet && !r.noHead {
			calls = append(calls, call{method: http.MethodHead, path: at})
		}
	}
	return append(calls, call{method: http.MethodGet, path: "/webhook-secret?batch=" + id})
}

// seen is what a client and an observer of Redis see of a request.
type seen struct {
	status                     int
	header, body               string
	exchanges, bytes, commands int
}

func TestAForeignIDShowsAndCostsWhatAnUnknownOneDoes(t *testing.T) {
	t.Parallel()
	for name, url := range map[string]func(*testing.T) string{
		"embedded": func(*testing.T) string { return rdb.Embedded },
		"server":   func(t *testing.T) string { t.Helper(); return redistest.Start(t).URL() },
	} {
		for mode, by := range map[string]*auth.Principal{
			"one owner":      {Mode: auth.ModeKeys, Name: "bob", Owner: "key:bob", Scopes: auth.Scopes{auth.Submit, auth.Read, auth.Cancel}},
			"several owners": {Mode: auth.ModePassthrough, Forward: true, Scopes: auth.Scopes{auth.Submit, auth.Read, auth.Cancel}},
		} {
			t.Run(name+", "+mode, func(t *testing.T) {
				t.Parallel()
				b := queuetest.Open(t, url(t))
				f := setup(t, everyDialect, func(c *Config) { c.Store, c.Owner = b.Store, b.Owner })
				f.auth = only{by}
				spec := queuetest.Spec()
				spec.WebhookURL, spec.Metadata = "https://example.com/hook", map[string]string{"k": strings.Repeat("v", 500)}
				ended, waiting := b.Submit(3, spec).ID, b.Submit(3, spec).ID
				for i := range 3 {
					b.End(ended, i, []batch.Outcome{batch.Succeeded, batch.Failed, batch.Unknown}[i])
				}
				require.NoError(t, b.Batches.Deliveries.Record(t.Context(), ended, 1, batch.Delivery{Round: 1}, batch.DeliveryPending, b.Read(ended).EndedAt))
				b.Background.Wait()
				meter := queuetest.NewMeter(b)
				ask := func(c call, id string) (s seen) {
					r := c.request(t).WithContext(batch.WithBudget(context.WithoutCancel(t.Context()), queuetest.Endless))
					r.Header.Add("Authorization", "Bearer bob")
					if name == "server" {
						s.commands = -queuetest.Commands(b)
					}
					meter.Reset()
					w := httptest.NewRecorder()
					f.Handler().ServeHTTP(w, r)
					s.exchanges, s.bytes = meter.Reset()
					if name == "server" {
						s.commands += queuetest.Commands(b)
					}
					w.Header().Set("X-Request-ID", strings.Repeat("x", len(w.Header().Get("X-Request-ID"))))
					var head strings.Builder
					require.NoError(t, w.Header().Write(&head))
					s.status, s.header, s.body = w.Code, head.String(), strings.ReplaceAll(w.Body.String(), id, "ID")
					require.NotContains(t, head.String(), id)
					return s
				}
				unknown := []string{uuid.NewString(), uuid.NewString()}
				for i, c := range variants(f, unknown[0]) {
					ask(c, unknown[0]) // Redis and the store know the step from now on
					want := ask(c, unknown[0])
					require.Equal(t, http.StatusNotFound, want.status, "%s %s: %s", c.method, c.path, want.body)
					require.LessOrEqual(t, want.exchanges, 1, "%s %s", c.method, c.path)
					for _, id := range []string{unknown[1], ended, waiting} {
						require.Equal(t, want, ask(variants(f, id)[i], id), "%s %s, %s", c.method, c.path, id)
					}
				}
				require.Equal(t, 3, b.Read(waiting).Counts.Pending)
				require.Equal(t, 0, b.Read(ended).Counts.Pending)
			})
		}
	}
}
