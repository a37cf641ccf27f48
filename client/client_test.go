package client_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/batchd/batchd/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve starts a server with one handler, and returns a client for it.
func serve(t *testing.T, handler http.HandlerFunc) *client.Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	c, err := client.New(server.URL, client.WithHTTPClient(server.Client()))
	require.NoError(t, err)
	return c
}

func reply(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json")
	if status >= http.StatusBadRequest {
		w.Header().Set("Content-Type", "application/problem+json")
	}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

const running = `{"id":"b1","status":"running","counts":{"total":2,"pending":1,"succeeded":1}}`

const completed = `{"id":"b1","status":"completed","counts":{"total":2,"succeeded":2},
	"results":[{"id":"a","index":0,"outcome":"succeeded","status":200,"attempts":1}]}`

func TestNewRefusesURLsThatCannotBeAServers(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{"", "127.0.0.1:8080", "ftp://host", "http://", "http://host?x=1", "http://host#f", "http://user:hunter2@host", "http://ho st:hunter2"} {
		_, err := client.New(raw)
		require.Error(t, err, raw)
		require.NotContains(t, err.Error(), "hunter2")
	}
}

func TestNewRefusesHeadersThatWouldNotBeSentAsMeant(t *testing.T) {
	t.Parallel()
	for name, opt := range map[string]client.Option{
		"empty name":        client.WithHeader("", "hunter2"),
		"space in the name": client.WithHeader("X Key", "hunter2"),
		"line break":        client.WithHeader("X-Key", "hunter2\r\nX-Other: 1"),
		"bearer":            client.WithBearer("hunter2\n"),
		"empty bearer":      client.WithBearer(""),
		"time to retry for": client.WithRetryFor(-1),
		"no client":         client.WithHTTPClient(nil),
	} {
		_, err := client.New("http://127.0.0.1:8080", opt)
		require.Error(t, err, name)
		require.NotContains(t, err.Error(), "hunter2", name)
	}
}

func TestEveryCallCarriesTheHeadersAndTheBasePath(t *testing.T) {
	t.Parallel()
	var got *http.Request
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r
		reply(w, 200, running)
	}))
	defer server.Close()
	c, err := client.New(server.URL+"/jobs/", client.WithBearer("s3cret"), client.WithHeader("X-Team", "a"))
	require.NoError(t, err)
	_, err = c.Get(t.Context(), "id/with ?", 0)
	require.NoError(t, err)
	require.Equal(t, "/jobs/batch/id%2Fwith%20%3F", got.URL.EscapedPath())
	require.Equal(t, "Bearer s3cret", got.Header.Get("Authorization"))
	require.Equal(t, "a", got.Header.Get("X-Team"))
	require.Empty(t, got.Header.Get("Prefer"))
}

func TestIDsThatWouldMakeAnotherPathAreRefused(t *testing.T) {
	t.Parallel()
	c := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("the server was called") })
	for _, id := range []string{"", ".", ".."} {
		_, err := c.Get(t.Context(), id, 0)
		require.Error(t, err)
		_, err = c.Cancel(t.Context(), id)
		require.Error(t, err)
		require.Error(t, c.Delete(t.Context(), id))
		require.Error(t, c.Redeliver(t.Context(), id))
		_, err = c.Deliveries(t.Context(), id)
		require.Error(t, err)
		for _, err := range c.Results(t.Context(), id, client.Filter{}) {
			require.Error(t, err)
		}
	}
}

func TestRedirectsAreNotFollowedAndExplained(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		http.Redirect(w, r, "https://elsewhere.example/", http.StatusTemporaryRedirect)
	})
	_, err := c.Get(t.Context(), "b1", 0)
	problem := requireProblem(t, err)
	require.Equal(t, http.StatusTemporaryRedirect, problem.Status)
	require.Contains(t, err.Error(), "https://elsewhere.example/")
	require.EqualValues(t, 1, calls.Load())
}

func TestProblemsSpeakToAPerson(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		reply(w, 422, `{"title":"Invalid batch","status":422,"detail":"3 faults","errors":[
			{"index":3,"pointer":"/actions/3/method","detail":"unknown method"},
			{"pointer":"/target","detail":"no such target"},{"detail":"too large"},
			{"index":4,"detail":"e"},{"detail":"f"},{"detail":"g"},{"detail":"h"}],"more":10}`)
	})
	_, err := c.Get(t.Context(), "b1", 0)
	problem := requireProblem(t, err)
	require.Equal(t, 3, problem.Errors[0].Index)
	require.Equal(t, -1, problem.Errors[1].Index)
	require.Equal(t, `the server answered 422: 3 faults
  action 3, /actions/3/method: unknown method
  /target: no such target
  too large
  action 4: e
  f
  and 12 more`, err.Error())
}

func TestAnswersThatAreNotBatchdsAreProblemsToo(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ contentType, body, want string }{
		"html of a proxy": {"text/html", "<h1>no</h1>", "the server answered 403: forbidden"},
		"text":            {"text/plain", "go\naway\n", "the server answered 403: go away"},
		"broken json":     {"application/problem+json", "{", "the server answered 403: forbidden"},
		"title only":      {"application/problem+json", `{"title":"No"}`, "the server answered 403: No"},
	} {
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", tc.contentType)
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, tc.body)
		})
		_, err := c.Get(t.Context(), "b1", 0)
		require.EqualError(t, err, tc.want, name)
	}
}

func TestReadingIsRepeatedUntilTheServerIsBack(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if calls.Add(1) < 3 {
			reply(w, 503, `{}`)
			return
		}
		reply(w, 200, completed)
	})
	batch, err := c.Get(t.Context(), "b1", 0)
	require.NoError(t, err)
	require.Equal(t, client.StatusCompleted, batch.Status)
	require.EqualValues(t, 3, calls.Load())
}

func TestRetriesAreBounded(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		calls.Add(1)
		w.Header().Set("Retry-After", "3600")
		reply(w, 503, `{"detail":"busy"}`)
	})
	start := time.Now()
	_, err := c.Get(t.Context(), "b1", 0)
	require.EqualError(t, err, "the server answered 503: busy (come back in 1h0m0s)")
	require.Less(t, time.Since(start), 10*time.Second, "an hour is beyond any time to retry for, so there is nothing to wait for")
	require.EqualValues(t, 1, calls.Load())
}

// The longest of several times counts. Dates are relative to the server's clock.
func TestTheLongestRetryAfterCounts(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	in := func(d time.Duration) string { return now.Add(d).Format(http.TimeFormat) }
	for _, row := range []struct {
		values []string
		want   time.Duration
	}{
		{[]string{"1", "3", "2"}, 3 * time.Second},
		{[]string{"1, 3"}, 3 * time.Second},
		{[]string{" 7 ,\t"}, 7 * time.Second},
		{[]string{in(20 * time.Second)}, 20 * time.Second},
		{[]string{"5, " + in(20*time.Second) + ", 9"}, 20 * time.Second},
		{[]string{now.Add(9 * time.Second).Format(time.ANSIC), "3"}, 9 * time.Second},
		{[]string{now.Add(9*time.Second).Format("Monday, 02-Jan-06 15:04:05 ") + "GMT, 3"}, 9 * time.Second},
		{[]string{in(-time.Hour), "2"}, 2 * time.Second},
		{[]string{"soon", "2"}, 2 * time.Second},
		{[]string{"99999999999999999999, 1"}, 24 * time.Hour},
		{[]string{"", "-1"}, 0},
		{nil, 0},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Date", in(0))
			w.Header()["Retry-After"] = row.values
			reply(w, 503, `{"detail":"busy"}`)
		}))
		c, err := client.New(server.URL, client.WithRetryFor(0))
		require.NoError(t, err)
		_, err = c.Get(t.Context(), "b1", 0)
		server.Close()
		p, ok := errors.AsType[*client.Problem](err)
		require.True(t, ok, "%v", err)
		require.Equal(t, row.want, p.RetryAfter, "%q", row.values)
	}
}

func TestTransientTellsWhatMayPassByItself(t *testing.T) {
	t.Parallel()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close()) // no process listens there now
	c, err := client.New("http://"+listener.Addr().String(), client.WithRetryFor(0))
	require.NoError(t, err)
	_, refused := c.Get(t.Context(), "b1", 0)
	require.Error(t, refused)

	cut, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer cut.Close()
	go func() {
		conn, err := cut.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = conn.Read(make([]byte, 4096))
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nIdempotency-Re")
	}()
	c, err = client.New("http://"+cut.Addr().String(), client.WithRetryFor(0))
	require.NoError(t, err)
	_, halfway := c.Get(t.Context(), "b1", 0)
	require.ErrorContains(t, halfway, "malformed MIME header")

	for name, tc := range map[string]struct {
		err   error
		after time.Duration
		ok    bool
	}{
		"refused":          {refused, 0, true},
		"cut in a header":  {halfway, 0, true},
		"cut off":          {io.ErrUnexpectedEOF, 0, true},
		"cut while sent":   {&url.Error{Op: "Post", Err: &net.OpError{Op: "write", Err: net.ErrClosed}}, 0, true},
		"503":              {&client.Problem{Status: 503, RetryAfter: time.Second}, time.Second, true},
		"429":              {&client.Problem{Status: 429}, 0, true},
		"key busy":         {&client.Problem{Status: 409, RetryAfter: time.Second}, time.Second, true},
		"ended":            {&client.Problem{Status: 409}, 0, false},
		"bad request":      {&client.Problem{Status: 400}, 0, false},
		"internal":         {&client.Problem{Status: 500}, 0, false},
		"cancelled":        {context.Canceled, 0, false},
		"deadline":         {context.DeadlineExceeded, 0, false},
		"a name not known": {&net.DNSError{IsNotFound: true}, 0, false},
	} {
		after, ok := client.Transient(tc.err)
		require.Equal(t, tc.ok, ok, name)
		require.Equal(t, tc.after, after, name)
	}
}

func TestManagingCallsUseTheirRoutes(t *testing.T) {
	t.Parallel()
	var got []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got = append(got, r.Method+" "+r.URL.String())
		switch {
		case r.Method == http.MethodDelete:
			w.WriteHeader(http.StatusNoContent)
		case strings.HasSuffix(r.URL.Path, "/webhook") && r.Method == http.MethodGet:
			reply(w, 200, `{"message_id":"m","state":"failed","attempts":[{"at":"2026-01-02T03:04:05Z","status":500,"duration_ms":7}]}`)
		case r.URL.Path == "/batch" && r.URL.Query().Get("cursor") == "":
			reply(w, 200, `{"batches":[`+running+`],"next_cursor":"b1"}`)
		case r.URL.Path == "/batch":
			reply(w, 200, `{"batches":[`+completed+`]}`)
		default:
			reply(w, 202, running)
		}
	})
	ctx := t.Context()
	_, err := c.Cancel(ctx, "b1")
	require.NoError(t, err)
	require.NoError(t, c.Delete(ctx, "b1"))
	require.NoError(t, c.Redeliver(ctx, "b1"))
	log, err := c.Deliveries(ctx, "b1")
	require.NoError(t, err)
	require.Equal(t, client.DeliveryFailed, log.State)
	require.EqualValues(t, 7, log.Attempts[0].DurationMS)
	var listed []client.Status
	for batch, err := range c.List(ctx) {
		require.NoError(t, err)
		listed = append(listed, batch.Status)
	}
	require.Equal(t, []client.Status{client.StatusRunning, client.StatusCompleted}, listed)
	for _, err := range c.ListOwner(ctx, "key:alice") {
		require.NoError(t, err)
		break
	}
	require.Equal(t, []string{
		"POST /batch/b1/cancel", "DELETE /batch/b1", "POST /batch/b1/webhook/redeliver", "GET /batch/b1/webhook",
		"GET /batch?limit=100", "GET /batch?cursor=b1&limit=100", "GET /batch?limit=100&owner=key%3Aalice",
	}, got)
}

func requireProblem(t *testing.T, err error) *client.Problem {
	t.Helper()
	var problem *client.Problem
	require.ErrorAs(t, err, &problem)
	return problem
}
