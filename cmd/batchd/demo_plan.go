package main

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mccutchen/go-httpbin/v2/httpbin"

	"github.com/batchd/batchd/client"
)

const (
	// demoActions is the sum of the counts of demoKinds.
	demoActions = 100
	// demoAttempts is the most attempts that the demonstration's target allows.
	demoAttempts = 2
	// demoTimeout ends the wait for an answer that takes demoSlow seconds.
	demoTimeout = 500 * time.Millisecond
	demoSlow    = 5
)

// planned is an action and its expected result.
type planned struct {
	kind   *demoKind
	action client.Action
}

// demoKind is a kind of planned action.
type demoKind struct {
	name string
	// shows describes what a result demonstrates if it is as planned.
	shows  string
	count  int
	action func(i int) client.Action
	want   want
}

// want is the expected result.
type want struct {
	outcome  client.Outcome
	status   int
	attempts int
	code     string
	atLeast  time.Duration
	// body checks the body of the answer to action i; nil expects no body.
	body func(i int, r *client.Result) bool
}

func (w *want) check(i int, r *client.Result) string {
	code := ""
	if r.Error != nil {
		code = r.Error.Code
	}
	switch {
	case r.Index != i || r.ID != demoID(i):
		return fmt.Sprintf("it is that of action %d, %q", r.Index, r.ID)
	case r.Outcome != w.outcome || r.Status != w.status || code != w.code:
		return fmt.Sprintf("it is %s with status %d and error code %q, and not %s with %d and %q", r.Outcome, r.Status, code, w.outcome, w.status, w.code)
	case r.Attempts != w.attempts:
		return fmt.Sprintf("it took %d attempts, and not %d", r.Attempts, w.attempts)
	case r.Duration < w.atLeast:
		return fmt.Sprintf("it took %s, and not at least %s", r.Duration, w.atLeast)
	case w.body == nil && len(r.Body) > 0:
		return fmt.Sprintf("it has a body of %d bytes, and not none", len(r.Body))
	case w.body != nil && !w.body(i, r):
		return "its body is not the answer to this action"
	}
	return ""
}

func demoID(i int) string { return "demo-" + strconv.Itoa(i) }

// demoKinds returns the kinds of actions, and the number of actions of each.
func demoKinds() []demoKind {
	answered := func(status, attempts int, body func(int, *client.Result) bool) want {
		outcome := client.Succeeded
		if status >= http.StatusBadRequest {
			outcome = client.Failed
		}
		return want{outcome: outcome, status: status, attempts: attempts, body: body}
	}
	withBody := func(method, path string) func(int) client.Action {
		return func(i int) client.Action {
			return client.Action{Method: method, Path: path, Body: map[string]int{"order": i}}
		}
	}
	withQuery := func(method, path string) func(int) client.Action {
		return func(i int) client.Action {
			return client.Action{Method: method, Path: path, Query: url.Values{"order": {strconv.Itoa(i)}}}
		}
	}
	get := func(path string) func(int) client.Action {
		return func(int) client.Action { return client.Action{Method: http.MethodGet, Path: path} }
	}
	late := func(method string) func(int) client.Action {
		return func(int) client.Action {
			return client.Action{Method: method, Path: "/delay/" + strconv.Itoa(demoSlow), Timeout: demoTimeout}
		}
	}
	slow := answered(http.StatusOK, 1, anyJSON)
	slow.atLeast = time.Second
	return []demoKind{
		{"post", "its own body came back", 30, withBody(http.MethodPost, "/post"), answered(http.StatusOK, 1, echoed)},
		{"get", "its own query came back", 16, withQuery(http.MethodGet, "/get"), answered(http.StatusOK, 1, echoedQuery)},
		{"put", "its own body came back", 10, withBody(http.MethodPut, "/put"), answered(http.StatusOK, 1, echoed)},
		{"patch", "its own body came back", 8, withBody(http.MethodPatch, "/patch"), answered(http.StatusOK, 1, echoed)},
		{"delete", "its own query came back", 8, withQuery(http.MethodDelete, "/delete"), answered(http.StatusOK, 1, echoedQuery)},
		{"head", "no body, as HEAD requires", 3, func(int) client.Action { return client.Action{Method: http.MethodHead, Path: "/head"} }, answered(http.StatusOK, 1, nil)},
		{"not found", "the answer is kept, even if it is an error", 5, get("/status/404"), answered(http.StatusNotFound, 1, nil)},
		{"server error", "not repeated: a 500 does not permit it", 4, get("/status/500"), answered(http.StatusInternalServerError, 1, nil)},
		{"slow", "took a second, and delayed no other action", 4, get("/delay/1"), slow},
		{"gzip", "came compressed, and was decompressed", 3, get("/gzip"), answered(http.StatusOK, 1, unzipped)},
		{"binary answer", "a picture, byte for byte", 2, get("/image/png"), answered(http.StatusOK, 1, isPNG)},
		{"binary request", "sent byte for byte", 2, func(i int) client.Action {
			return client.Action{
				Method: http.MethodPost, Path: "/post", BodyBytes: binary(i),
				Headers: http.Header{"Content-Type": {"application/octet-stream"}},
			}
		}, answered(http.StatusOK, 1, echoedBinary)},
		{"busy at first", "503 with Retry-After: 1, then success", 3, func(i int) client.Action {
			return client.Action{Method: http.MethodPost, Path: "/flaky/" + strconv.Itoa(i), Body: map[string]int{"order": i}}
		}, answered(http.StatusOK, 2, echoed)},
		{"too late", "no answer within 500ms, twice", 1, late(http.MethodGet), want{outcome: client.Errored, attempts: demoAttempts, code: "timeout"}},
		{"fate unknown", "no answer, and a POST is not sent again", 1, late(http.MethodPost), want{outcome: client.Unknown, attempts: 1, code: "timeout"}},
	}
}

// newDemoPlan mixes the kinds, always in the same order.
func newDemoPlan() []planned {
	plan := make([]planned, demoActions)
	const stride = 37 // shares no factor with demoActions, so the loop visits every position once
	n := 0
	kinds := demoKinds()
	for k := range kinds {
		kind := &kinds[k]
		for range kind.count {
			i := n * stride % demoActions
			action := kind.action(i)
			action.ID = demoID(i)
			plan[i] = planned{kind, action}
			n++
		}
	}
	return plan
}

// echo is the document in which go-httpbin describes the request.
type echo struct {
	Args map[string][]string
	JSON struct{ Order *int }
	Data string
}

func decodeEcho(r *client.Result) (e echo, ok bool) { return e, r.Decode(&e) == nil }

func echoed(i int, r *client.Result) bool {
	e, ok := decodeEcho(r)
	return ok && e.JSON.Order != nil && *e.JSON.Order == i
}

func echoedQuery(i int, r *client.Result) bool {
	e, ok := decodeEcho(r)
	return ok && len(e.Args["order"]) == 1 && e.Args["order"][0] == strconv.Itoa(i)
}

// binary returns a body that is not valid UTF-8, different for each action.
func binary(i int) []byte { return []byte("\xff\x00" + strconv.Itoa(i)) }

func echoedBinary(i int, r *client.Result) bool {
	var e struct{ Data string }
	return r.Decode(&e) == nil && strings.HasSuffix(e.Data, ";base64,"+base64.URLEncoding.EncodeToString(binary(i)))
}

func anyJSON(_ int, r *client.Result) bool { return r.JSON }

func unzipped(_ int, r *client.Result) bool {
	var body struct{ Gzipped bool }
	return r.Decode(&body) == nil && body.Gzipped
}

func isPNG(_ int, r *client.Result) bool { return bytes.HasPrefix(r.Body, []byte("\x89PNG\r\n")) }

// demoTarget is go-httpbin, but paths below /flaky/ answer busy to the first request.
type demoTarget struct {
	httpbin http.Handler
	mu      sync.Mutex
	asked   map[string]bool
}

func newDemoTarget() *demoTarget {
	return &demoTarget{
		httpbin: httpbin.New(httpbin.WithMaxDuration(2 * demoSlow * time.Second)).Handler(),
		asked:   map[string]bool{},
	}
}

// ServeHTTP implements [http.Handler].
func (t *demoTarget) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if rest, flaky := strings.CutPrefix(r.URL.Path, "/flaky/"); flaky {
		if t.first(rest) {
			w.Header().Set("Retry-After", "1")
			http.Error(w, "busy, come back in a second", http.StatusServiceUnavailable)
			return
		}
		r.URL.Path = "/anything/" + rest
	}
	t.httpbin.ServeHTTP(w, r)
}

func (t *demoTarget) first(path string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	asked := t.asked[path]
	t.asked[path] = true
	return !asked
}
