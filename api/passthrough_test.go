package api

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/internal/batch"
)

// ask returns a request of the native API with the headers and the token of a request in a dialect.
func (d foreign) ask(method, path string, headers ...string) call {
	if _, query, ok := strings.Cut(d.path, "?"); ok {
		path += "?" + query
	}
	return call{method: method, path: path, headers: append([]string{d.head}, headers...)}
}

func TestTheHeadersThatSubmittedABatchReadIt(t *testing.T) {
	t.Parallel()
	for _, extra := range [][]string{
		nil,
		{"Authorization: Basic Zm9v"},
		{"X-API-KEY: app"},
		{"X-USER-KEY: user"},
		{"Authorization: token abc", "X-API-KEY: app", "X-USER-KEY: user"},
		{"Cookie: a=b", "Proxy-Authorization: Basic Zm9v", "Accept: application/json"},
	} {
		eachDialect(t, func(s scene) {
			t, f, d := s.t, s.f, s.d
			headers := []string{"Prefer: respond-async"}
			for _, h := range extra { // not twice
				if name, _, _ := strings.Cut(h, ":"); !strings.HasPrefix(d.head, name) {
					headers = append(headers, h)
				}
			}
			w := serve(f, d.call(headers...).request(t))
			require.Equal(t, http.StatusAccepted, w.Code, "%s", w.Body)
			at := w.Header().Get("Location")
			for _, c := range []call{d.ask("GET", at, headers...), d.ask("HEAD", at+"/results", headers...), d.ask("GET", at+"/results", headers...)} {
				require.Equal(t, http.StatusOK, serve(f, c.request(t)).Code, "%s %s with %s", c.method, c.path, headers)
			}
			w = serve(f, d.ask("GET", "/batch", headers...).request(t))
			require.Contains(t, w.Body.String(), `"batch-1"`, "it is in the list")
			require.Less(t, serve(f, d.ask("POST", at+"/cancel", headers...).request(t)).Code, 300)

			stranger := d.ask("GET", at, headers...)
			stranger.headers[0], stranger.path = strings.Replace(stranger.headers[0], "alice", "bob", 1), strings.Replace(stranger.path, "alice", "bob", 1)
			require.Equal(t, http.StatusNotFound, serve(f, stranger.request(t)).Code)
		}, passthrough)
	}
}

// The same credential may be another person's at another target.
func TestAnOwnerIsBoundToItsEndpointAndTarget(t *testing.T) {
	t.Parallel()
	f := setup(t, passthrough, func(c *Config) {
		c.Endpoints = []Endpoint{
			{Path: "/one", Target: "crm"},
			{Path: "/two", Target: "crm"},
			{Path: "/three", Target: "billing"},
			{Path: "/four", Dialect: "requests", Target: "billing"},
		}
	})
	alice := []string{"Authorization: Bearer alice", "Prefer: respond-async", "Idempotency-Key: k"}
	owners := map[string]string{}
	for path, body := range map[string]string{
		"/batch": two, "/batch#billing": strings.Replace(two, "crm", "billing", 1), "/one": actionsOnly, "/two": actionsOnly, "/three": actionsOnly,
		"/four": `{"requests":[{"method":"GET","path":"/a"}]}`,
	} {
		path, _, _ := strings.Cut(path, "#")
		w := serve(f, call{method: "POST", path: path, body: body, headers: alice}.request(t))
		require.Equal(t, http.StatusAccepted, w.Code, "%s", w.Body)
		require.Empty(t, w.Header().Get("Idempotency-Replayed"), "the key is another owner's")
		id := strings.TrimPrefix(w.Header().Get("Location"), "/batch/")
		require.NotContains(t, owners, f.store.batches[id].Owner)
		owners[f.store.batches[id].Owner] = id
		for _, credential := range []string{"alice", "bob"} {
			want := http.StatusOK
			if credential == "bob" {
				want = http.StatusNotFound
			}
			w = serve(f, call{method: "GET", path: "/batch/" + id, headers: []string{"Authorization: Bearer " + credential}}.request(t))
			require.Equal(t, want, w.Code, path)
		}
	}
	require.Len(t, owners, 6)
}

const actionsOnly = `{"actions":[{"method":"GET","path":"/"}]}`

func TestTheTargetComesBeforeTheActionsWhereItNamesTheOwner(t *testing.T) {
	t.Parallel()
	f := setup(t, passthrough)
	late := call{method: "POST", path: "/batch", headers: []string{"Authorization: Bearer alice"}, body: `{"actions":[{"method":"GET","path":"/"}],"target":"crm"}`}
	p := requireProblem(t, f.do(t, late), http.StatusBadRequest)
	require.Equal(t, "/target", p.Errors[0].Pointer)
	require.Contains(t, p.Errors[0].Detail, "before the actions")
	require.Zero(t, f.store.holds())
	one := setup(t, passthrough, func(c *Config) { c.Targets = []string{"crm"} })
	one.created(t, late)
	setup(t).created(t, call{body: late.body})
}

func TestACredentialIsAskedForBeforeTheBody(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(s scene) {
		t, f, d := s.t, s.f, s.d
		c := d.call()
		c.headers, c.path = c.headers[:1], strings.Replace(c.path, "token=alice", "", 1)
		r := c.request(t)
		body := &counted{}
		r.Body, r.ContentLength = body, -1
		w := serve(f, r)
		requireRefusal(t, d, w, http.StatusUnauthorized, "send the")
		require.Zero(t, body.n)
	}, passthrough)
}

// counted is a body without an end.
type counted struct{ n int }

func (b *counted) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	b.n += len(p)
	return len(p), nil
}

func (*counted) Close() error { return nil }

func TestAnOwnerThatSeveralBatchesHaveListsAllOfThem(t *testing.T) {
	t.Parallel()
	f := setup(t, passthrough)
	var want []string
	for i := range 7 {
		target := []string{"crm", "billing"}[i%2]
		id := f.created(t, call{body: strings.Replace(two, "crm", target, 1), headers: []string{"Authorization: Bearer alice"}})
		want = append([]string{id}, want...)
	}
	f.created(t, call{body: two, headers: []string{"Authorization: Bearer bob"}})
	var found []string
	for path := "/batch?limit=2"; path != ""; {
		w := f.do(t, call{method: "GET", path: path, headers: []string{"Authorization: Bearer alice"}})
		var page struct {
			Batches    []struct{ ID string }
			NextCursor string `json:"next_cursor"`
		}
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &page))
		for _, b := range page.Batches {
			found = append(found, b.ID)
		}
		if path = ""; page.NextCursor != "" {
			path = "/batch?limit=2&cursor=" + page.NextCursor
		}
	}
	require.Equal(t, want, found)
}

// Invented credentials do not evade limits: these also hold for the address, over submissions and retries.
func TestLimitsAlsoHoldForTheAddress(t *testing.T) {
	t.Parallel()
	rate := batch.Rate{N: 2, Per: time.Minute}
	for name, row := range map[string]struct {
		settings func(*Config)
		want     *batch.AddressLimit
	}{
		"as for an owner": {func(*Config) {}, &batch.AddressLimit{Name: "hash of address\n192.0.2.1/32", Rate: rate, Concurrent: 3}},
		"many owners": {
			func(c *Config) { c.Limits.PerAddress = 10 },
			&batch.AddressLimit{Name: "hash of address\n192.0.2.1/32", Rate: batch.Rate{N: 20, Per: time.Minute}, Concurrent: 30},
		},
		"no bound":              {func(c *Config) { c.Limits.PerAddress = 0 }, nil},
		"clients who are known": {func(c *Config) { c.Auth.Modes = []auth.Mode{auth.ModeNone} }, nil},
	} {
		for _, when := range []WhenExceeded{Reject, Queue} {
			f := setup(t, passthrough, func(c *Config) {
				c.Limits.Admission = Admission{Rate: rate, Concurrent: 3, WhenExceeded: when}
				row.settings(c)
			})
			f.store.run = func(int, *batch.Action) *batch.Result { return &batch.Result{Outcome: batch.Failed, Status: 400} }
			headers := []string{"Authorization: Bearer invented"}
			id := f.created(t, call{body: oneAction, headers: headers})
			for _, what := range []string{"submission", "retry"} {
				limit := f.store.asked
				if when == Queue {
					require.Nil(t, limit)
					limit = f.store.batches[id].throttle
				}
				require.NotNil(t, limit, what)
				require.Equal(t, &batch.Limit{Rate: rate, Concurrent: 3, Address: row.want}, limit, "%s, %s, %s", name, when, what)
				f.store.asked = nil
				if what == "submission" {
					w := f.do(t, call{method: "POST", path: "/batch/" + id + "/retry", headers: headers})
					require.Equal(t, http.StatusAccepted, w.Code, "%s", w.Body)
				}
			}
		}
	}
}

const oneAction = `{"target":"crm","actions":[{"method":"GET","path":"/"}]}`
