package main

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/redistest"
)

// askedTarget is a target that knows some credentials. An action waits until the end of the test.
type askedTarget struct {
	*httptest.Server
	other   *httptest.Server // to which it redirects
	strayed chan struct{}    // when a redirect was followed
	acting  chan string      // the credentials of actions

	mu    sync.Mutex
	asked map[string][]http.Header // by credential
}

func newAskedTarget(t *testing.T) *askedTarget {
	t.Helper()
	a := &askedTarget{asked: make(map[string][]http.Header), acting: make(chan string, 100), strayed: make(chan struct{}, 100)}
	ended := make(chan struct{})
	a.other = httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { a.strayed <- struct{}{} }))
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		credential := r.Header.Get("Authorization")
		if r.URL.Path != "/v1/me" {
			a.acting <- credential
			<-ended
			return
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.asked[credential] = append(a.asked[credential], r.Header)
		switch {
		case credential == "Bearer moved":
			http.Redirect(w, r, a.other.URL, http.StatusFound)
		case credential == "Bearer broken":
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(http.StatusServiceUnavailable)
		case !strings.HasPrefix(credential, "Bearer good"):
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(func() {
		close(ended)
		a.Close()
		a.other.Close()
	})
	return a
}

// questions returns the number of questions about each credential.
func (a *askedTarget) questions() map[string]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := make(map[string]int)
	for credential, all := range a.asked {
		n[credential] = len(all)
	}
	return n
}

// settings are those of a server whose target is asked, with one connection and one request an hour for actions.
func (a *askedTarget) settings(t *testing.T) string {
	t.Helper()
	return file(t, "batchd.yaml", fmt.Sprintf(`auth: {modes: [passthrough]}
worker: {drain: 1s}
targets:
  - name: crm
    base_url: %s/v1
    concurrency: 1
    rate: 1/h
    allow: [{method: GET, path: /a}]
    idempotency_key_header: Idempotency-Key
    verify: {method: GET, path: /me}
`, a.URL))
}

// The API alone asks the target, and writes nothing for a credential that is not good.
func TestACredentialThatTheTargetDoesNotAcceptWritesNothing(t *testing.T) {
	t.Parallel()
	redis, target := redistest.Start(t), newAskedTarget(t)
	key := "a:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
	api := startProcess(t, nil, "api", "--listen", "127.0.0.1:0", "--redis-url", redis.URL(), "--seal-file", file(t, "seal.keys", key), "--config", target.settings(t))
	submit := func(credential string) answer {
		t.Helper()
		got, err := submitOnce(t.Context(), http.DefaultClient, api.url, credential, "k")
		require.NoError(t, err)
		return got
	}
	changes := func() string {
		n, err := redis.Command("EVAL", "return tonumber(redis.call('INFO', 'persistence'):match('rdb_changes_since_last_save:(%d+)'))", "0")
		require.NoError(t, err)
		return n
	}
	require.Equal(t, http.StatusUnauthorized, submit("first").status) // the server stores its salt
	before := changes()
	require.Regexp(t, `^:\d+$`, before)
	for i := range 4 {
		got := submit(fmt.Sprint("invented", i))
		require.Equal(t, http.StatusUnauthorized, got.status, got.body)
		require.Contains(t, got.body, "the target crm refuses the credential (401)")
	}
	for credential, after := range map[string]string{"moved": "2", "broken": "7"} {
		got := submit(credential)
		require.Equal(t, http.StatusServiceUnavailable, got.status, got.body)
		require.Equal(t, after, got.retryAfter)
	}
	require.Equal(t, before, changes(), "nothing was written")
	require.Equal(t, http.StatusAccepted, submit("good").status)
	require.NotEqual(t, before, changes())
	require.Empty(t, target.strayed, "no redirect is followed")

	target.mu.Lock()
	defer target.mu.Unlock()
	for _, credential := range []string{"Bearer good", "Bearer invented0", "Bearer moved"} {
		require.Len(t, target.asked[credential], 1)
		names := slices.Sorted(maps.Keys(target.asked[credential][0]))
		require.Subset(t, []string{"Accept-Encoding", "Authorization", "Connection", "User-Agent"}, names)
	}
}

// The limits of the target are for actions: with its only connection and its rate in use, questions are answered.
func TestQuestionsTakeNothingFromActions(t *testing.T) {
	t.Parallel()
	target := newAskedTarget(t)
	serve := startProcess(t, nil, "serve", "--listen", "127.0.0.1:0", "--config", target.settings(t))
	require.Equal(t, 8, countOf(submitMany(t, serve.url, "127.0.0.1", slices.Repeat([]string{"good"}, 8), 0), http.StatusAccepted))
	select {
	case credential := <-target.acting:
		require.Equal(t, "Bearer good", credential)
	case <-time.After(30 * time.Second):
		require.FailNow(t, "no action was sent")
	}
	require.Equal(t, map[string]int{"Bearer good": 1}, target.questions(), "batches of one credential share a question")
	require.Equal(t, 4, countOf(submitMany(t, serve.url, "127.0.0.1", each(4, "good%d"), 0), http.StatusAccepted))
	require.Equal(t, 4, countOf(submitMany(t, serve.url, "127.0.0.2", each(4, "invented%d"), 0), http.StatusUnauthorized))
	require.Len(t, target.questions(), 9)
	for _, path := range []string{"/batch", "/whoami"} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, serve.url+path, http.NoBody)
		require.NoError(t, err)
		r.Header.Set("Authorization", "Bearer reader")
		res, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, http.StatusOK, res.StatusCode)
	}
	require.Len(t, target.questions(), 9, "who only reads causes no question")
}

func countOf(answers []answer, status int) (n int) {
	for _, a := range answers {
		if a.status == status {
			n++
		}
	}
	return n
}
