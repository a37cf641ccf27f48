package api

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/api/dialect"
	"github.com/batchd/batchd/internal/apikey"
	"github.com/batchd/batchd/internal/batch"
)

const two = `{"target":"crm","actions":[{"method":"GET","path":"/a"},{"id":"b","method":"GET","path":"/b"}]}`

// Every row runs against a store that holds these batches, in this order: batch-1 has
// not begun; batch-2 has ended and had a webhook; batch-3 runs.
func populate(t *testing.T, f *fixture) {
	t.Helper()
	f.created(t, call{body: two})
	f.created(t, call{body: `{"target":"crm","metadata":{"team":"<x>"},"webhook":{"url":"https://example.com/hook"},"actions":[
		{"id":"a","method":"POST","path":"/items","body":{"name":"x"}},{"method":"GET","path":"/b"},{"method":"GET","path":"/c"}]}`})
	f.store.finish("batch-2", 0, succeeded(`{"id":7}`))
	f.store.finish("batch-2", 2, &batch.Result{Outcome: batch.Failed, Status: 404, Attempts: 1, Body: []byte("gone <b>")})
	f.store.finish("batch-2", 1, &batch.Result{Outcome: batch.Errored, Attempts: 5, Error: &batch.Failure{Code: batch.CodeTimeout, Message: "no answer"}})
	f.created(t, call{body: two})
	f.store.finish("batch-3", 0, succeeded(`1`))
}

func TestScenarios(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		call   call
		status int
		// header must be sent; a header with an empty value must not be.
		header map[string]string
		golden string
	}{
		{
			name:   "a batch is accepted",
			call:   call{method: "POST", path: "/batch", body: two},
			status: 202,
			header: map[string]string{"Location": "/batch/batch-4", "Retry-After": "1", "Preference-Applied": "", "Idempotency-Replayed": "", "Cache-Control": "no-store"},
			golden: "accepted.json",
		},
		{
			name: "a batch with everything is accepted",
			call: call{method: "POST", path: "/batch", body: `{"metadata":{"k":"v"},"retention":"48h","expires_in":"1h","webhook":{"url":"https://example.com/h?s=secret"},
				"actions":[{"id":"a","method":"post","path":"/items?x=1","query":{"dry":"1"},"headers":{"X-A":["1","2"]},"body":null,"timeout":"10s","retry":"safe"}],"target":"billing"}`},
			status: 202, golden: "accepted_full.json",
		},
		{
			name:   "NDJSON takes its options from the query",
			call:   call{method: "POST", path: "/batch?target=crm&expires_in=2h&metadata.team=a%20b&webhook=https://example.com/h", headers: []string{"Content-Type: application/jsonl"}, body: "\n{\"method\":\"GET\",\"path\":\"/a\"}\r\n  \n{\"method\":\"GET\",\"path\":\"/b\"}"},
			status: 202, golden: "accepted_ndjson.json",
		},
		{name: "a batch that waits", call: call{method: "GET", path: "/batch/batch-1"}, status: 200, header: map[string]string{"Retry-After": "1", "Cache-Control": "no-store"}, golden: "queued.json"},
		{name: "a batch that has ended holds its results", call: call{method: "GET", path: "/batch/batch-2"}, status: 200, header: map[string]string{"Retry-After": ""}, golden: "completed.json"},
		{name: "a batch that runs", call: call{method: "GET", path: "/batch/batch-3"}, status: 200, golden: "running.json"},
		{name: "HEAD of a batch", call: call{method: "HEAD", path: "/batch/batch-2"}, status: 200},
		{name: "results as a page", call: call{method: "GET", path: "/batch/batch-2/results"}, status: 200, header: map[string]string{"Vary": "Accept"}, golden: "results.json"},
		{name: "results as a page with a next one", call: call{method: "GET", path: "/batch/batch-2/results?from=1&limit=1"}, status: 200, golden: "results_next.json"},
		{name: "results of some outcomes", call: call{method: "GET", path: "/batch/batch-2/results?outcome=failed,errored&limit=1"}, status: 200, golden: "results_outcome.json"},
		{name: "results of a batch that runs", call: call{method: "GET", path: "/batch/batch-3/results"}, status: 200, golden: "results_running.json"},
		{name: "results beyond the end", call: call{method: "GET", path: "/batch/batch-3/results?from=100"}, status: 200, golden: "results_none.json"},
		{name: "results as NDJSON", call: call{method: "GET", path: "/batch/batch-2/results?from=1", headers: []string{"Accept: application/x-ndjson"}}, status: 200, header: map[string]string{"Content-Type": "application/x-ndjson"}, golden: "results.ndjson"},
		{name: "results as the better of two", call: call{method: "GET", path: "/batch/batch-2/results", headers: []string{"Accept: application/json;q=0.5, application/*;q=0.8"}}, status: 200, header: map[string]string{"Content-Type": "application/x-ndjson"}},
		{name: "results in any format", call: call{method: "GET", path: "/batch/batch-2/results", headers: []string{"Accept: text/html, */*;q=0.1"}}, status: 200, header: map[string]string{"Content-Type": "application/json"}},
		{name: "HEAD of results", call: call{method: "HEAD", path: "/batch/batch-2/results"}, status: 200},
		{name: "no format that is liked", call: call{method: "GET", path: "/batch/batch-2/results", headers: []string{"Accept: text/html, application/json;q=0"}}, status: 406, golden: "problem_406.json"},
		{name: "a batch as HTML", call: call{method: "GET", path: "/batch/batch-2", headers: []string{"Accept: text/html"}}, status: 406},
		{name: "events as JSON", call: call{method: "GET", path: "/batch/batch-2/events", headers: []string{"Accept: application/json"}}, status: 406},
		{name: "the events of a batch that has ended", call: call{method: "GET", path: "/batch/batch-2/events"}, status: 200, header: map[string]string{"Content-Type": "text/event-stream", "Cache-Control": "no-store"}, golden: "events_end.txt"},
		{name: "cancelling what has not begun", call: call{method: "POST", path: "/batch/batch-1/cancel"}, status: 200, header: map[string]string{"Location": "/batch/batch-1"}, golden: "cancelled.json"},
		{name: "cancelling what runs", call: call{method: "POST", path: "/batch/batch-3/cancel"}, status: 202},
		{name: "retrying", call: call{method: "POST", path: "/batch/batch-2/retry"}, status: 202, header: map[string]string{"Location": "/batch/batch-2", "Retry-After": "1"}},
		{name: "retrying what has not ended", call: call{method: "POST", path: "/batch/batch-1/retry"}, status: 409},
		{name: "retrying what has nothing of the kind", call: call{method: "POST", path: "/batch/batch-2/retry?outcome=skipped"}, status: 409},
		{name: "retrying what succeeded", call: call{method: "POST", path: "/batch/batch-2/retry?outcome=succeeded"}, status: 400},
		{name: "retrying with a limit", call: call{method: "POST", path: "/batch/batch-2/retry?limit=1"}, status: 400},
		{name: "retrying another's", call: call{method: "POST", path: "/batch/nobody/retry"}, status: 404},
		{name: "cancelling what has ended", call: call{method: "POST", path: "/batch/batch-2/cancel"}, status: 409, golden: "problem_ended.json"},
		{name: "erasing", call: call{method: "DELETE", path: "/batch/batch-2"}, status: 204},
		{name: "the log of a webhook", call: call{method: "GET", path: "/batch/batch-2/webhook"}, status: 200, golden: "webhook.json"},
		{name: "the log of no webhook", call: call{method: "GET", path: "/batch/batch-1/webhook"}, status: 404, golden: "problem_no_webhook.json"},
		{name: "redelivering", call: call{method: "POST", path: "/batch/batch-2/webhook/redeliver"}, status: 202, golden: "redelivered.json"},
		{name: "redelivering no webhook", call: call{method: "POST", path: "/batch/batch-3/webhook/redeliver"}, status: 404},
		{name: "the list", call: call{method: "GET", path: "/batch?limit=2"}, status: 200, header: map[string]string{"Link": `</batch?cursor=YmF0Y2gtMg&limit=2>; rel="next"`}, golden: "list.json"},
		{name: "the end of the list", call: call{method: "GET", path: "/batch?limit=2&cursor=YmF0Y2gtMg"}, status: 200, header: map[string]string{"Link": ""}, golden: "list_end.json"},
		{name: "an unknown batch", call: call{method: "GET", path: "/batch/nope"}, status: 404, golden: "problem_404.json"},
		{name: "an id that is none", call: call{method: "GET", path: "/batch/a%2Fb"}, status: 404, golden: "problem_404.json"},
		{name: "an id with a control character", call: call{method: "GET", path: "/batch/a%0d%0a/results"}, status: 404, golden: "problem_404.json"},
		{name: "an id beyond all measure", call: call{method: "DELETE", path: "/batch/" + strings.Repeat("a", 1000)}, status: 404},
		{name: "an escaped slash is no separator", call: call{method: "GET", path: "/batch%2Fbatch-1"}, status: 404},
		{name: "an unknown route", call: call{method: "GET", path: "/nope"}, status: 404, golden: "problem_route.json"},
		{name: "a trailing slash", call: call{method: "POST", path: "/batch/", body: two}, status: 404},
		{name: "a method that is not known there", call: call{method: "PUT", path: "/batch/batch-1"}, status: 405, header: map[string]string{"Allow": "GET, HEAD, DELETE"}, golden: "problem_405.json"},
		{name: "from is no number", call: call{method: "GET", path: "/batch/batch-2/results?from=abc", bad: true}, status: 400, golden: "problem_from.json"},
		{name: "from is negative", call: call{method: "GET", path: "/batch/batch-2/results?from=-1", bad: true}, status: 400},
		{name: "limit is too large", call: call{method: "GET", path: "/batch/batch-2/results?limit=10001", bad: true}, status: 400},
		{name: "limit with NDJSON", call: call{method: "GET", path: "/batch/batch-2/results?limit=1", headers: []string{"Accept: application/x-ndjson"}}, status: 400},
		{name: "an unknown outcome", call: call{method: "GET", path: "/batch/batch-2/results?outcome=failed,lost", bad: true}, status: 400, golden: "problem_outcome.json"},
		{name: "an unknown parameter", call: call{method: "GET", path: "/batch/batch-2/results?form=1"}, status: 400, golden: "problem_parameter.json"},
		{name: "a parameter where there are none", call: call{method: "GET", path: "/batch/batch-2?wait=1"}, status: 400},
		{name: "a parameter twice", call: call{method: "GET", path: "/batch?limit=1&limit=2", bad: true}, status: 400},
		{name: "a query that is broken", call: call{method: "GET", path: "/batch?limit=%zz", bad: true}, status: 400},
		{name: "a cursor that was not handed out", call: call{method: "GET", path: "/batch?cursor=%21"}, status: 400, golden: "problem_cursor.json"},
		{name: "options in the query of JSON", call: call{method: "POST", path: "/batch?target=crm", body: two}, status: 400},
		{name: "health", call: call{method: "GET", path: "/healthz"}, status: 200, golden: "health.json"},
		{name: "readiness", call: call{method: "GET", path: "/readyz"}, status: 200, golden: "ready.json"},
		{name: "the description", call: call{method: "GET", path: "/openapi.yaml"}, status: 200, header: map[string]string{"Content-Type": "application/yaml"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			populate(t, f)
			w := f.do(t, row.call)
			require.Equal(t, row.status, w.Code, "%s", w.Body)
			for name, value := range row.header {
				require.Equal(t, value, w.Header().Get(name), name)
			}
			if row.golden != "" {
				requireGolden(t, row.golden, w.Body.Bytes())
			}
			if w.Code >= 400 {
				requireProblem(t, w, row.status)
			}
		})
	}
}

func TestActionsReachTheStoreAsTheyShould(t *testing.T) {
	t.Parallel()
	get := func(change func(*batch.Action)) batch.Action {
		a := batch.Action{Method: "GET", Path: "/p"}
		change(&a)
		return a
	}
	jsonType := []batch.Field{{Name: "Content-Type", Value: "application/json"}}
	for _, row := range []struct {
		name   string
		action string
		want   batch.Action
	}{
		{"the method's case", `{"method":"get","path":"/p"}`, get(func(*batch.Action) {})},
		{"a JSON body without its white space", `{"method":"GET","path":"/p","body":{ "a" : [1.50, 1e400, 12345678901234567890], "b":"\u00e9é<" } }`, get(func(a *batch.Action) {
			a.Body, a.Headers = []byte(`{"a":[1.50,1e400,12345678901234567890],"b":"\u00e9é<"}`), jsonType
		})},
		{"null is a JSON body", `{"method":"GET","path":"/p","body":null}`, get(func(a *batch.Action) { a.Body, a.Headers = []byte("null"), jsonType })},
		{"a content type of one's own", `{"method":"GET","path":"/p","body":1,"headers":{"content-TYPE":"application/problem+json"}}`, get(func(a *batch.Action) {
			a.Body, a.Headers = []byte("1"), []batch.Field{{Name: "content-TYPE", Value: "application/problem+json"}}
		})},
		{"text", `{"method":"GET","path":"/p","body_text":"a\né"}`, get(func(a *batch.Action) {
			a.Body, a.Headers = []byte("a\né"), []batch.Field{{Name: "Content-Type", Value: "text/plain; charset=utf-8"}}
		})},
		{"an empty text is a body", `{"method":"GET","path":"/p","body_text":"","headers":{"content-type":"a/b"}}`, get(func(a *batch.Action) {
			a.Body, a.Headers = []byte{}, []batch.Field{{Name: "content-type", Value: "a/b"}}
		})},
		{"base64", `{"method":"GET","path":"/p","body_base64":"AP8="}`, get(func(a *batch.Action) { a.Body = []byte{0, 0xff} })},
		{"a header several times", `{"method":"GET","path":"/p","headers":{"X-A":["1","2"],"X-B":[]}}`, get(func(a *batch.Action) {
			a.Headers = []batch.Field{{Name: "X-A", Value: "1"}, {Name: "X-A", Value: "2"}}
		})},
		{"a query in its order", `{"method":"GET","path":"/p","query":{"z":"a b&c","a":[1.50,true,"é"],"m":false,"e":[]}}`, get(func(a *batch.Action) {
			a.Query = "z=a%20b%26c&a=1.50&a=true&a=%C3%A9&m=false"
		})},
		{"a query in the path", `{"method":"GET","path":"/p?a=1&b=x%20y?z","query":{"c":"2"}}`, get(func(a *batch.Action) { a.Query = "a=1&b=x%20y?z&c=2" })},
		{"a query in the path that is not encoded", `{"method":"GET","path":"/p?q=a b é 100% \"<>"}`, get(func(a *batch.Action) { a.Query = "q=a%20b%20%C3%A9%20100%%20%22%3C%3E" })},
		{"an empty query", `{"method":"GET","path":"/p?"}`, get(func(a *batch.Action) { a.ForceQuery = true })},
		{"percent-encoded bytes", `{"method":"GET","path":"/a%2Fb%2fc/C%23/%5C/%E9?a=%zz&b=%2f"}`, get(func(a *batch.Action) {
			a.Path, a.Query = "/a%2Fb%2fc/C%23/%5C/%E9", "a=%zz&b=%2f"
		})},
		{"the rest", `{"method":"GET","path":"/p","timeout":"1m30s","retry":"never","id":"x"}`, get(func(a *batch.Action) {
			a.Timeout, a.Retry, a.ID = 90e9, batch.RetryNever, "x"
		})},
		{"a credential, sealed", `{"method":"GET","path":"/p","headers":{"Authorization":"Bearer t"}}`, get(func(a *batch.Action) {
			a.Headers = []batch.Field{{Name: "Authorization", Value: "Bearer t"}}
		})},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			f := setup(t, allowingBodies)
			// The neighbours show that no state carries over from one action to the
			// next.
			plain := `{"method":"GET","path":"/p"}`
			id := f.created(t, call{body: `{"target":"crm","actions":[` + plain + `,` + row.action + `,` + plain + `]}`})
			stored := f.store.stored(id)
			require.Equal(t, row.want.Body == nil, stored[1].Body == nil, "whether there is a body")
			got := stored[1]
			if len(got.Headers) == 0 {
				got.Headers = nil
			}
			require.Equal(t, row.want, got)
			for _, i := range []int{0, 2} {
				require.Empty(t, stored[i].Headers)
				require.Nil(t, stored[i].Body)
				require.Empty(t, stored[i].Query)
			}
		})
	}
}

func TestTheTargetMayBeLeftOutWhereThereIsOne(t *testing.T) {
	t.Parallel()
	f := setup(t, func(c *Config) { c.Targets = []string{"only"} })
	id := f.created(t, call{body: `{"actions":[{"method":"GET","path":"/"}]}`})
	require.Equal(t, "only", f.store.batches[id].Target)
}

func TestABatchBelongsToItsCredential(t *testing.T) {
	t.Parallel()
	f := setup(t, passthrough)
	body := `{"target":"crm","actions":[{"method":"GET","path":"/a"},{"method":"GET","path":"/b","headers":{"authorization":"Own"}}]}`
	w := f.do(t, call{method: "POST", path: "/batch", body: body})
	requireProblem(t, w, http.StatusUnauthorized)
	require.Equal(t, `Bearer realm="batchd"`, w.Header().Get("WWW-Authenticate"))
	require.Zero(t, f.store.holds())

	id := f.created(t, call{body: body, headers: []string{"Authorization: Bearer alice"}})
	stored := f.store.stored(id)
	require.Equal(t, []batch.Field{{Name: "Authorization", Value: "Bearer alice"}}, stored[0].Headers)
	require.Equal(t, []batch.Field{{Name: "authorization", Value: "Own"}}, stored[1].Headers)
	require.Equal(t, "hash of /batch\ncrm\nauthorization: bearer alice", f.store.batches[id].Owner)

	for _, c := range []call{
		{method: "GET", path: "/batch/" + id},
		{method: "GET", path: "/batch/" + id + "/results"},
		{method: "GET", path: "/batch/" + id + "/events"},
		{method: "POST", path: "/batch/" + id + "/cancel"},
		{method: "POST", path: "/batch/" + id + "/retry"},
		{method: "GET", path: "/batch/" + id + "/webhook"},
		{method: "POST", path: "/batch/" + id + "/webhook/redeliver"},
		{method: "DELETE", path: "/batch/" + id},
	} {
		requireProblem(t, f.do(t, c), http.StatusUnauthorized)
		c.headers = []string{"Authorization: Bearer bob"}
		requireProblem(t, f.do(t, c), http.StatusNotFound)
	}
	w = f.do(t, call{method: "GET", path: "/batch", headers: []string{"Authorization: Bearer bob"}})
	require.JSONEq(t, `{"batches":[]}`, w.Body.String())
	w = f.do(t, call{method: "GET", path: "/batch/" + id, headers: []string{"Authorization: Bearer alice"}})
	require.Equal(t, http.StatusOK, w.Code)
	require.NotContains(t, f.log.String(), "alice")
}

func passthrough(c *Config) {
	c.Auth.Modes = []auth.Mode{auth.ModePassthrough}
	c.Owner = func(_ context.Context, credential string) (string, error) { return "hash of " + credential, nil }
}

// The server removes the token from the query. It must not silently drop an unreadable
// pair with it.
func TestAMalformedQueryIsRefusedBesideAToken(t *testing.T) {
	t.Parallel()
	f := setup(t, passthrough, endpoints)
	for _, query := range []string{"token=alice&limit=%zz", "token=alice&limit=1;cursor=x", "token=%zz", "a;b&token=alice", "%zz", "token=alice&x=%ff"} {
		w := f.do(t, call{method: "GET", path: "/batch?" + query, headers: []string{"Authorization: Bearer alice"}})
		require.Equal(t, kindBadParameter.problem("").Type, requireProblem(t, w, http.StatusBadRequest).Type, query)
	}
	w := f.do(t, call{method: "GET", path: "/batch?token=alice&limit=1"})
	require.Equal(t, http.StatusOK, w.Code, "%s", w.Body)
}

func TestAnOwnerThatCannotBeFoundRefusesTheRequest(t *testing.T) {
	t.Parallel()
	f := setup(t, passthrough, func(c *Config) {
		c.Owner = func(context.Context, string) (string, error) {
			return "", fmt.Errorf("read the salt: %w", &batch.UnavailableError{RetryAfter: 2e9, Err: fmt.Errorf("refused")})
		}
	})
	w := f.do(t, call{method: "POST", path: "/batch", body: two, headers: []string{"Authorization: Bearer alice"}})
	requireProblem(t, w, http.StatusServiceUnavailable)
	require.Equal(t, "2", w.Header().Get("Retry-After"))
	require.Zero(t, f.store.holds())
}

func TestWithoutAuthenticationTheCredentialIsNotForwarded(t *testing.T) {
	t.Parallel()
	f := setup(t)
	id := f.created(t, call{body: two, headers: []string{"Authorization: Bearer alice"}})
	require.Empty(t, f.store.stored(id)[0].Headers)
	require.Equal(t, "anonymous", f.store.batches[id].Owner)
}

func TestIdempotencyKeys(t *testing.T) {
	t.Parallel()
	f := setup(t)
	post := func(key, path, body string) call {
		return call{method: "POST", path: path, body: body, headers: []string{"Idempotency-Key: " + key}}
	}
	first := f.do(t, post("k", "/batch", two))
	require.Equal(t, http.StatusAccepted, first.Code)
	require.Empty(t, first.Header().Get("Idempotency-Replayed"))

	again := f.do(t, post(`"k"`, "/batch", two))
	require.Equal(t, http.StatusAccepted, again.Code)
	require.Equal(t, "true", again.Header().Get("Idempotency-Replayed"))
	require.Equal(t, first.Header().Get("Location"), again.Header().Get("Location"))
	require.Equal(t, first.Body.String(), again.Body.String())
	require.Len(t, f.store.batches, 1)

	// One more space is different content.
	requireProblem(t, f.do(t, post("k", "/batch", two+" ")), http.StatusUnprocessableEntity)
	require.Len(t, f.store.batches, 1)

	// A submission that was refused leaves its key free.
	requireProblem(t, f.do(t, post("l", "/batch", `{"target":"crm","actions":[{"method":"GET","path":"/"},{}]}`).badly()), http.StatusBadRequest)
	require.Equal(t, http.StatusAccepted, f.do(t, post("l", "/batch", two)).Code)

	f.store.keys["anonymous\x00busy"] = &fakeKey{}
	w := f.do(t, post("busy", "/batch", two))
	requireProblem(t, w, http.StatusConflict)
	require.Equal(t, "1", w.Header().Get("Retry-After"))

	for _, bad := range []string{"", `""`, `"open`, `a"b"c d`, "é", strings.Repeat("a", 256), `"a"b"`} {
		p := requireProblem(t, f.do(t, post(bad, "/batch", two).badly()), http.StatusBadRequest)
		require.Contains(t, p.Detail, "Idempotency-Key", bad)
	}
	key, err := idempotencyKey(http.Header{"Idempotency-Key": {`"a\"b\\c"`}})
	require.NoError(t, err)
	require.Equal(t, `a"b\c`, key)
}

func (c call) badly() call {
	c.bad = true
	return c
}

func TestTheFingerprintCoversTypePathAndQuery(t *testing.T) {
	t.Parallel()
	f := setup(t, func(c *Config) { c.Endpoints = []Endpoint{{Path: "/api/batch", Target: "crm"}} })
	line := `{"method":"GET","path":"/"}`
	headers := []string{"Idempotency-Key: k", "Content-Type: application/x-ndjson"}
	require.Equal(t, 202, f.do(t, call{method: "POST", path: "/batch?target=crm", body: line, headers: headers}).Code)
	requireProblem(t, f.do(t, call{method: "POST", path: "/batch?target=billing", body: line, headers: headers}), 422)

	r := call{method: "POST", path: "/api/batch?target=crm", body: line, headers: headers}.request(t)
	require.Equal(t, 422, serve(f, r).Code)
	// The encoding and the alias of the media type make no difference.
	again := f.do(t, call{method: "POST", path: "/batch?target=crm", body: line, headers: []string{"Idempotency-Key: k", "Content-Type: application/x-ndjson; charset=UTF-8"}})
	require.Equal(t, "true", again.Header().Get("Idempotency-Replayed"))
}

func TestEntityTags(t *testing.T) {
	t.Parallel()
	f := setup(t)
	populate(t, f)
	get := func(tag string) (int, string) {
		c := call{method: "GET", path: "/batch/batch-3"}
		if tag != "" {
			c.headers = []string{"If-None-Match: " + tag}
		}
		w := f.do(t, c)
		if w.Code == http.StatusNotModified {
			require.Empty(t, w.Body.String())
		}
		return w.Code, w.Header().Get("ETag")
	}
	_, tag := get("")
	require.Regexp(t, `^"[0-9a-f]{24}"$`, tag)
	for _, match := range []string{tag, "W/" + tag, `"x", ` + tag, "*"} {
		code, same := get(match)
		require.Equal(t, http.StatusNotModified, code, match)
		require.Equal(t, tag, same)
	}
	f.store.finish("batch-3", 1, succeeded(`2`))
	code, other := get(tag)
	require.Equal(t, http.StatusOK, code)
	require.NotEqual(t, tag, other)
}

func TestEndpointsHaveATargetAndLimitsOfTheirOwn(t *testing.T) {
	t.Parallel()
	f := setup(t, func(c *Config) {
		c.Endpoints = []Endpoint{{Path: "/v1/:tenant/batch/", Target: "billing", MaxActions: 2}}
	})
	post := func(body string) call { return call{method: "POST", path: "/v1/x/batch/", body: body} }
	w := serve(f, post(`{"actions":[{"method":"GET","path":"/"}]}`).request(t))
	require.Equal(t, http.StatusAccepted, w.Code, "%s", w.Body)
	require.Equal(t, "billing", f.store.batches["batch-1"].Target)
	require.Equal(t, http.StatusAccepted, serve(f, post(`{"target":"billing","actions":[{"method":"GET","path":"/"}]}`).request(t)).Code)

	p := requireProblem(t, serve(f, post(two).request(t)), http.StatusBadRequest)
	require.Equal(t, []dialect.ProblemError{{Pointer: "/target", Detail: `this endpoint is for the target "billing": leave the target out`}}, p.Errors)
	p = requireProblem(t, serve(f, post(strings.Replace(actions(3), `"target":"crm",`, "", 1)).request(t)), http.StatusBadRequest)
	require.Equal(t, "too many actions: at most 2 are allowed", p.Errors[0].Detail)
	require.Len(t, f.store.batches, 2)
}

func TestTheStoreBeingAwayIsNotTheClientsFault(t *testing.T) {
	t.Parallel()
	away := &batch.UnavailableError{RetryAfter: 2500e6, Err: fmt.Errorf("dial tcp 10.1.2.3:6379: refused")}
	for after := range 4 { // at the opening, at either action, and at the commit
		f := setup(t)
		f.store.down, f.store.downAfter = away, after
		w := f.do(t, call{method: "POST", path: "/batch", body: two})
		requireProblem(t, w, http.StatusServiceUnavailable)
		require.Equal(t, "3", w.Header().Get("Retry-After"))
		require.NotContains(t, w.Body.String(), "10.1.2.3")
		require.Contains(t, f.log.String(), "10.1.2.3")
		require.Zero(t, f.store.holds(), "after %d calls", after)
	}
	// The store's connection ended with io.EOF: that is not the end of the client's
	// body.
	f := setup(t)
	f.store.down = &batch.UnavailableError{RetryAfter: time.Second, Err: io.EOF}
	requireProblem(t, f.do(t, call{method: "POST", path: "/batch", body: two}), http.StatusServiceUnavailable)
	for _, c := range []call{
		{method: "GET", path: "/batch"},
		{method: "GET", path: "/batch/x"},
		{method: "GET", path: "/batch/x/results"},
		{method: "GET", path: "/batch/x/results", headers: []string{"Accept: application/x-ndjson"}},
		{method: "GET", path: "/batch/x/events"},
		{method: "POST", path: "/batch/x/cancel"},
		{method: "DELETE", path: "/batch/x"},
		{method: "GET", path: "/batch/x/webhook"},
		{method: "POST", path: "/batch/x/webhook/redeliver"},
		{method: "GET", path: "/readyz"},
	} {
		f := setup(t)
		f.store.down = away
		w := f.do(t, c)
		requireProblem(t, w, http.StatusServiceUnavailable)
		require.NotEmpty(t, w.Header().Get("Retry-After"))
		require.NotContains(t, w.Body.String(), "10.1.2.3")
	}
	f = setup(t)
	f.store.down = away
	require.Equal(t, http.StatusOK, f.do(t, call{method: "GET", path: "/healthz"}).Code)
}

func TestAnUnmappedErrorSaysNothingButItsId(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.store.down = fmt.Errorf("secret internals")
	w := f.do(t, call{method: "GET", path: "/batch/x", headers: []string{"X-Request-Id: my-id.1"}})
	p := requireProblem(t, w, http.StatusInternalServerError)
	require.NotContains(t, w.Body.String(), "secret")
	require.Contains(t, p.Detail, "my-id.1")
	require.Equal(t, "my-id.1", w.Header().Get("X-Request-ID"))
	require.Contains(t, f.log.String(), "secret internals")
	require.Contains(t, f.log.String(), `"request_id":"my-id.1"`)

	// The server replaces an id that could forge a line of the log.
	w = f.do(t, call{method: "GET", path: "/healthz", headers: []string{"X-Request-Id: a b\t"}})
	require.Len(t, w.Header().Get("X-Request-ID"), 26)
}

func TestAPanicIsAnInternalFault(t *testing.T) {
	t.Parallel()
	f := setup(t, passthrough, func(c *Config) { c.Owner = func(context.Context, string) (string, error) { panic("boom") } })
	w := f.do(t, call{method: "GET", path: "/batch/x", headers: []string{"Authorization: x"}})
	requireProblem(t, w, http.StatusInternalServerError)
	require.NotContains(t, w.Body.String(), "boom")
	require.Contains(t, f.log.String(), "boom")
}

func TestTheLogHasOneLineARequestAndNoQuery(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.do(t, call{method: "POST", path: "/batch?target=crm&webhook=https://example.com/h%3Ftoken=s3cret", headers: []string{"Content-Type: application/x-ndjson"}, body: `{"method":"GET","path":"/a"}`})
	lines := strings.Split(strings.TrimSpace(f.log.String()), "\n")
	require.Len(t, lines, 1)
	require.NotContains(t, lines[0], "s3cret")
	var line map[string]any
	require.NoError(t, json.Unmarshal([]byte(lines[0]), &line))
	require.InDelta(t, 202, line["status"], 0)
	require.Equal(t, "/batch", line["route"])
	require.NotEmpty(t, line["request_id"])
}

// A client that puts its key in the wrong place finds it neither in the log nor in an answer.
func TestTheLogHasNoKeys(t *testing.T) {
	t.Parallel()
	f := setup(t)
	key := apikey.New()
	for _, c := range []call{
		{method: "GET", path: "/batch", headers: []string{"X-Request-ID: " + key}},
		{method: "GET", path: "/batch/" + key},
		{method: "GET", path: "/" + key + "/x"},
		{method: "GET", path: "/batch/" + strings.Replace(key, "b", "%62", 1)},
		{method: "GET", path: "/batch/" + base64.RawURLEncoding.EncodeToString([]byte(key+":"))},
		{method: key, path: "/batch"},
		{method: "POST", path: "/batch", body: `{"target":"` + key + `","actions":[{"method":"GET","path":"/"}]}`},
		{method: strings.Repeat("X", 5000), path: "/" + strings.Repeat("é", 5000)},
	} {
		w := f.do(t, c)
		require.NotContains(t, w.Body.String()+fmt.Sprint(w.Header()), key[10:40], c.path)
		require.NotEmpty(t, w.Header().Get("X-Request-ID"))
	}
	require.Equal(t, 8, strings.Count(f.log.String(), `"msg":"request"`))
	require.Less(t, len(f.log.String()), 8*1000, "the lines are short")
	require.NotContains(t, f.log.String(), key[10:40])
	require.NotContains(t, f.log.String(), base64.RawURLEncoding.EncodeToString([]byte(key))[12:40])
	require.Equal(t, 4, strings.Count(f.log.String(), `"path":"(a key of batchd)"`))
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	f := setup(t)
	headers := []string{"Idempotency-Key: k"}
	f.do(t, call{method: "POST", path: "/batch", body: two, headers: headers})
	f.do(t, call{method: "POST", path: "/batch", body: two, headers: headers}) // a replay
	f.do(t, call{method: "GET", path: "/batch/nope"})
	f.do(t, call{method: "BREW", path: "/tea"})
	w := f.do(t, call{method: "GET", path: "/metrics"})
	for _, line := range []string{
		`batchd_http_requests_total{class="2xx",method="POST",route="/batch"} 2`,
		`batchd_http_requests_total{class="4xx",method="GET",route="/batch/:id"} 1`,
		`batchd_http_requests_total{class="4xx",method="other",route="unmatched"} 1`,
		`batchd_http_request_duration_seconds_count{method="POST",route="/batch"} 2`,
		`batchd_batches_accepted_total{target="crm"} 1`,
		`batchd_actions_accepted_total{target="crm"} 2`,
	} {
		require.Contains(t, w.Body.String(), line+"\n")
	}
}

func TestConfigurationFaultsAreAllNamed(t *testing.T) {
	t.Parallel()
	_, err := New(Config{
		Auth:      auth.Config{Modes: []auth.Mode{auth.ModePassthrough}},
		Limits:    Limits{MaxActions: -1, ExpiresIn: 200 * 3600e9, MaxExpiresIn: 3600e9},
		Endpoints: []Endpoint{{Path: "x", Target: "y", Wait: -1}},
	})
	for _, want := range []string{"store", "targets", "hash credentials", "seal.keys", "max_actions", "expires_in", "does not start with /", "wait: the duration is -1ns"} {
		require.ErrorContains(t, err, want)
	}
	_, err = New(Config{Store: newFakeStore(), Targets: []string{"a"}, Auth: auth.Config{Modes: []auth.Mode{"magic"}}})
	require.ErrorContains(t, err, `auth.modes[0]: unknown value "magic": expected keys, jwt, passthrough or none`)
	_, err = New(Config{Store: newFakeStore(), Targets: []string{"a"}, Endpoints: []Endpoint{{Path: "/x", Target: "y"}}})
	require.ErrorContains(t, err, `endpoints[0].target: there is no target "y": expected a`)
	_, err = New(Config{Store: newFakeStore(), Targets: []string{"a"}, Endpoints: []Endpoint{{Path: "/batch", Target: "a"}}})
	require.ErrorContains(t, err, `the path "/batch" belongs to the built-in /batch`)
}
