package api

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/webhook"
)

// webhookSecret is the server's secret for webhooks.
const webhookSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

var update = flag.Bool("update", false, "rewrite the golden files")

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// fixture is one server with its store and its log.
type fixture struct {
	*Server
	store *fakeStore
	log   *syncBuffer
}

// setup starts a server with two targets, a webhook secret and sealing. Options change
// its configuration.
func setup(t *testing.T, options ...func(*Config)) *fixture {
	t.Helper()
	f := &fixture{store: newFakeStore(), log: &syncBuffer{}}
	cfg := Config{
		Store: f.store, Targets: []string{"crm", "billing"}, Limits: DefaultLimits(), Webhooks: webhook.Config{Secret: webhookSecret}.WithDefaults(), Sealed: true, Version: "test",
		Logger: slog.New(slog.NewJSONHandler(f.log, nil)),
	}
	for _, o := range options {
		o(&cfg)
	}
	cfg.Auth.Hosts = append(cfg.Auth.Hosts, "example.com", "x") // the Hosts of the requests in tests
	var err error
	f.Server, err = New(cfg)
	require.NoError(t, err)
	return f
}

// bodiesOf returns the limits of bodies with up to size bytes, and the default limits
// otherwise.
func bodiesOf(size int64) bodyLimits {
	p := Capacity{}.WithDefaults()
	return bodyLimits{size: size, ratio: int64(p.BodyRatio), memory: newMemory(p.BodyMemory).reserve(auth.Anonymous, netip.Prefix{})}
}

type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// call is a request. Headers are "Name: value".
type call struct {
	method  string
	path    string
	headers []string
	body    string
	// bad: the request violates the API's description on purpose.
	bad bool
}

func (c call) request(t *testing.T) *http.Request {
	t.Helper()
	var body io.Reader
	if c.body != "" {
		body = strings.NewReader(c.body)
	}
	r := httptest.NewRequest(c.method, c.path, body)
	if c.body != "" && strings.HasPrefix(strings.TrimSpace(c.body), "{") {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, h := range c.headers {
		name, value, _ := strings.Cut(h, ":")
		if value = strings.TrimSpace(value); name == "Content-Type" {
			r.Header.Set(name, value)
		} else {
			r.Header.Add(name, value)
		}
	}
	return r
}

// do makes the call, and validates the request and the answer against the description.
func (f *fixture) do(t *testing.T, c call) *httptest.ResponseRecorder {
	t.Helper()
	r := c.request(t)
	input, err := described(c.request(t))
	if err == nil && !c.bad {
		require.NoError(t, openapi3filter.ValidateRequest(t.Context(), input), "the request is not as described")
	}
	w := httptest.NewRecorder()
	f.Handler().ServeHTTP(w, r)
	if err == nil {
		checkAnswer(t, input, w.Result())
	} else {
		require.Contains(t, []int{http.StatusNotFound, http.StatusMethodNotAllowed}, w.Code, "a route that is not described: %v", err)
		requireProblem(t, w, w.Code)
	}
	return w
}

// described finds the request's operation in the description.
func described(r *http.Request) (*openapi3filter.RequestValidationInput, error) {
	description, err := description()
	if err != nil {
		return nil, err
	}
	find := r.Clone(context.Background())
	if r.Method == http.MethodHead {
		find.Method = http.MethodGet
	}
	route, params, err := description.FindRoute(find)
	if err != nil {
		return nil, err
	}
	return &openapi3filter.RequestValidationInput{
		Request: r, PathParams: params, Route: route,
		Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, SkipSettingDefaults: true},
	}, nil
}

func checkAnswer(t *testing.T, input *openapi3filter.RequestValidationInput, res *http.Response) {
	t.Helper()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	out := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: input, Status: res.StatusCode, Header: res.Header,
		Options: &openapi3filter.Options{IncludeResponseStatus: true},
	}
	out.SetBodyBytes(body)
	require.NoError(t, openapi3filter.ValidateResponse(t.Context(), out), "the answer is not as described: %d %s", res.StatusCode, body)
	require.NotEmpty(t, res.Header.Get("X-Request-ID"))
	if isNDJSON(res.Header.Get("Content-Type")) {
		schema := input.Route.Spec.Components.Schemas["Result"].Value
		for line := range strings.Lines(string(body)) {
			var v any
			require.NoError(t, json.Unmarshal([]byte(line), &v))
			require.NoError(t, schema.VisitJSON(v, openapi3.EnableJSONSchema2020()))
		}
	}
}

var description = sync.OnceValues(func() (routers.Router, error) {
	text := func(body io.Reader, _ http.Header, _ *openapi3.SchemaRef, _ openapi3filter.EncodingFn) (any, error) {
		data, err := io.ReadAll(body)
		return string(data), err
	}
	for _, media := range []string{mediaNDJSON, "application/ndjson", "application/jsonl", "application/x-jsonlines", mediaEvents} {
		openapi3filter.RegisterBodyDecoder(media, text)
	}
	doc, err := openapi3.NewLoader().LoadFromData(OpenAPI)
	if err != nil {
		return nil, err
	}
	return gorillamux.NewRouter(doc)
})

func requireProblem(t *testing.T, w *httptest.ResponseRecorder, status int) *problem {
	t.Helper()
	require.Equal(t, status, w.Code, "%s", w.Body)
	require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
	var p problem
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &p))
	require.Equal(t, status, p.Status)
	require.NotEmpty(t, p.Title)
	require.Contains(t, p.Type, "urn:problem-type:batchd:")
	return &p
}

// requireGolden compares an answer with a golden file, which -update writes.
func requireGolden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", "golden", name)
	if *update {
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o750))
		require.NoError(t, os.WriteFile(file, append(bytes.Clone(got), '\n'), 0o600))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, strings.TrimSuffix(string(want), "\n"), string(got))
}

// created submits a batch and returns its id.
func (f *fixture) created(t *testing.T, c call) string {
	t.Helper()
	c.method = http.MethodPost
	if c.path == "" {
		c.path = "/batch"
	}
	w := f.do(t, c)
	require.Contains(t, []int{http.StatusOK, http.StatusAccepted}, w.Code, "%s", w.Body)
	return strings.TrimPrefix(w.Header().Get("Location"), "/batch/")
}

// actions returns a submission of n actions.
func actions(n int) string {
	var out strings.Builder
	out.WriteString(`{"target":"crm","actions":[`)
	for i := range n {
		if i > 0 {
			out.WriteByte(',')
		}
		out.WriteString(`{"method":"GET","path":"/items"}`)
	}
	return out.String() + "]}"
}

func succeeded(body string) *batch.Result {
	return &batch.Result{
		Outcome: batch.Succeeded, Status: 200, Body: []byte(body), Attempts: 1,
		Headers:   []batch.Field{{Name: "content-type", Value: "application/json"}},
		StartedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Duration: 12 * time.Millisecond,
	}
}

// serve answers a request that the description does not cover.
func serve(f *fixture, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	f.Handler().ServeHTTP(w, r)
	return w
}
