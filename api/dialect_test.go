package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

// foreign is a request with two actions in one dialect.
type foreign struct {
	path string
	head string
	body string
	// list is the field that holds an answer's items, empty if the answer is a list
	// itself. status is the field of an item that holds its status.
	list, status string
}

func foreigners() map[string]foreign {
	return map[string]foreign{
		"asana": {
			"/api/1.0/batch", "Authorization: Bearer alice",
			`{"data":{"actions":[{"method":"get","relative_path":"/a"},{"method":"post","relative_path":"/b","data":{"x":1}}]}}`, "data", "status_code",
		},
		"requests": {"/api/batch", "Authorization: Bearer alice", `{"requests":[{"method":"GET","path":"/a"},{"method":"POST","path":"/b","body":{"x":1}}]}`, "responses", "status"},
		"syncano": {
			"/v1.1/instances/i/batch/", "X-API-KEY: alice",
			`{"requests":[{"method":"GET","path":"/v1.1/instances/i/a/"},{"method":"POST","path":"/v1.1/instances/i/b/","body":{"x":1}}]}`, "", "code",
		},
		"primaerp": {"/v1/batch?token=alice", "X-A: 1", `[{"id":"1","method":"GET","path":"/v1/a"},{"id":"2","method":"POST","path":"/v1/b","body":"x"}]`, "", "code"},
	}
}

// endpoints mounts all dialects, each with and without a trailing slash.
func endpoints(c *Config) {
	c.Endpoints = []Endpoint{
		{Path: "/api/1.0/batch", Dialect: "asana", Target: "crm"},
		{Path: "/api/batch", Dialect: "requests", Target: "crm", MaxActions: 4},
		{Path: "/v1.1/instances/:instance/batch/", Dialect: "syncano", Target: "crm"},
		{Path: "/v1/batch/", Dialect: "primaerp", Target: "crm"},
	}
}

func (d foreign) call(headers ...string) call {
	return call{method: http.MethodPost, path: d.path, body: d.body, headers: append([]string{"Content-Type: application/json", d.head}, headers...)}
}

// statuses returns the statuses of the actions in an answer.
func (d foreign) statuses(t *testing.T, w *httptest.ResponseRecorder) []int {
	t.Helper()
	require.Equal(t, http.StatusOK, w.Code, "%s", w.Body)
	requireJSONType(t, w)
	list := w.Body.Bytes()
	if d.list != "" {
		var outer map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(list, &outer))
		require.Len(t, outer, 1)
		list = outer[d.list]
	}
	var items []map[string]any
	require.NoError(t, json.Unmarshal(list, &items))
	var found []int
	for _, item := range items {
		status, ok := item[d.status].(float64)
		require.True(t, ok, "%s", w.Body)
		found = append(found, int(status))
	}
	return found
}

func requireJSONType(t *testing.T, w *httptest.ResponseRecorder) {
	t.Helper()
	require.Equal(t, "application/json", w.Header().Get("Content-Type"))
}

// scene is the setup for a test of one dialect.
type scene struct {
	t *testing.T
	f *fixture
	d foreign
}

// eachDialect runs a test for each dialect, on a server of its own.
func eachDialect(t *testing.T, test func(scene), options ...func(*Config)) {
	t.Helper()
	for name, d := range foreigners() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				test(scene{t, setup(t, append([]func(*Config){endpoints}, options...)...), d})
			})
		})
	}
}

func TestBodiesThatAreTextKeepTheirWhiteSpace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, d := setup(t, endpoints), foreigners()["primaerp"]
		body := "\n{\r\n\t\"a b\": 1.10\n}\n"
		f.store.run = func(int, *batch.Action) *batch.Result { return succeeded(body) }
		w := serve(f, d.call().request(t))
		var items []struct{ Body string }
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &items))
		require.Len(t, items, 2)
		require.Equal(t, body, items[0].Body)
		require.Equal(t, body, items[1].Body)
	})
}

func TestAnAnswerHoldsNoMoreThanMayBeHeldInMemory(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(s scene) {
		s.f.answerBytes = 1000
		half := `"` + strings.Repeat("x", 600) + `"`
		s.f.store.run = func(int, *batch.Action) *batch.Result { return succeeded(half) }
		w := serve(s.f, s.d.call().request(s.t))
		require.Equal(s.t, http.StatusOK, w.Code)
		require.Less(s.t, w.Body.Len(), 1200)
		require.Equal(s.t, 1, strings.Count(w.Body.String(), `"truncated":true`))
		require.Equal(s.t, []int{200, 200}, s.d.statuses(s.t, w))
		require.NotEmpty(s.t, w.Header().Get("Location"), "where the rest is")
	})
}

func TestADialectSaysThatAQuotaHadNoRoomForContent(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(s scene) {
		s.f.store.run = func(i int, _ *batch.Action) *batch.Result {
			r := succeeded(`"` + strings.Repeat("x", 2000) + `"`)
			if i == 0 {
				r.DropContent(500)
			}
			return r
		}
		w := serve(s.f, s.d.call().request(s.t))
		require.Equal(s.t, http.StatusOK, w.Code)
		require.Equal(s.t, 1, strings.Count(w.Body.String(), `"truncated":true,"truncated_by":"stored_bytes"`), "%s", w.Body)
		require.Equal(s.t, []int{200, 200}, s.d.statuses(s.t, w))
	})
}

func TestADialectAnswersWithTheResultsInOrder(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(s scene) {
		t, f, d := s.t, s.f, s.d
		time.AfterFunc(3*time.Second, func() {
			f.store.finish("batch-1", 1, &batch.Result{Outcome: batch.Failed, Status: 409, Attempts: 1})
			f.store.finish("batch-1", 0, &batch.Result{Outcome: batch.Failed, Status: 404, Attempts: 1})
		})
		start := time.Now()
		w := serve(f, d.call().request(t))
		require.Equal(t, []int{404, 409}, d.statuses(t, w))
		require.Equal(t, 3*time.Second, time.Since(start))
		require.Empty(t, w.Header().Get("Location"))
		require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
		stored := f.store.batches["batch-1"]
		require.Equal(t, "crm", stored.Target)
		require.Equal(t, "anonymous", stored.Owner)
		require.Equal(t, batch.Interactive, stored.Lane)
		require.Equal(t, stored.CreatedAt.Add(24*time.Hour), stored.ExpiresAt)
		require.Zero(t, f.store.watching())
	})
}

func TestADialectIsServedWithAndWithoutASlash(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(s scene) {
		t, f, d := s.t, s.f, s.d
		f.store.run = func(int, *batch.Action) *batch.Result { return succeeded("1") }
		path, query, _ := strings.Cut(d.path, "?")
		bare := strings.TrimSuffix(path, "/")
		for _, path := range []string{bare, bare + "/"} {
			d.path = path + "?" + query
			require.Equal(t, []int{200, 200}, d.statuses(t, serve(f, d.call().request(t))))
		}
	})
}

func TestADialectAnswersInTimeWhateverIsDone(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(s scene) {
		t, f, d := s.t, s.f, s.d
		for i, row := range []struct {
			prefer, applied string
			took            time.Duration
		}{
			{"", "", 20 * time.Second},
			{"wait=5", "wait=5", 5 * time.Second},
			{"wait=500", "wait=20", 20 * time.Second},
			{"wait=0", "wait=0", 0},
		} {
			id := "batch-" + string(rune('1'+i))
			if row.took > 0 {
				time.AfterFunc(time.Second, func() { f.store.finish(id, 1, succeeded("1")) })
			}
			c := d.call()
			if row.prefer != "" {
				c.headers = append(c.headers, "Prefer: "+row.prefer)
			}
			start := time.Now()
			w := serve(f, c.request(t))
			require.Equal(t, row.took, time.Since(start))
			want := []int{504, 200}
			if row.took == 0 {
				want[1] = 504
			}
			require.Equal(t, want, d.statuses(t, w))
			require.Equal(t, "/batch/"+id, w.Header().Get("Location"))
			require.Equal(t, row.applied, w.Header().Get("Preference-Applied"))
			require.Contains(t, w.Body.String(), "not done yet")
			require.Equal(t, batch.StatusRunning == f.store.batches[id].Status, row.took > 0)
		}
	}, func(c *Config) { c.Limits.MaxWait = 20 * time.Second })
}

func TestADialectCanRespondAsynchronously(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(s scene) {
		t, f, d := s.t, s.f, s.d
		w := serve(f, d.call("Prefer: respond-async").request(t))
		require.Equal(t, http.StatusAccepted, w.Code, "%s", w.Body)
		require.Equal(t, "/batch/batch-1", w.Header().Get("Location"))
		require.Equal(t, "respond-async", w.Header().Get("Preference-Applied"))
		require.Equal(t, "1", w.Header().Get("Retry-After"))
		var doc document
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &doc))
		require.Equal(t, "batch-1", doc.ID)

		start := time.Now()
		w = serve(f, d.call("Prefer: respond-async, wait=2").request(t))
		require.Equal(t, http.StatusAccepted, w.Code)
		require.Equal(t, 2*time.Second, time.Since(start))

		f.store.run = func(int, *batch.Action) *batch.Result { return succeeded("1") }
		require.Equal(t, []int{200, 200}, d.statuses(t, serve(f, d.call("Prefer: respond-async, wait=2").request(t))))
	})
}

func TestABatchOutlivesItsClientUnlessToldOtherwise(t *testing.T) {
	t.Parallel()
	for _, cancels := range []bool{false, true} {
		eachDialect(t, func(s scene) {
			t, f, d := s.t, s.f, s.d
			ctx, hangUp := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, hangUp)
			start := time.Now()
			serve(f, d.call().request(t).WithContext(ctx))
			require.Equal(t, time.Second, time.Since(start))
			require.Equal(t, cancels, f.store.batches["batch-1"].Status == batch.StatusCancelled)
			require.NotContains(t, f.log.String(), `"level":"ERROR"`)
			require.Zero(t, f.store.watching())
		}, func(c *Config) {
			for i := range c.Endpoints {
				c.Endpoints[i].CancelOnDisconnect = cancels
			}
		})
	}
}

func TestTheNativeFormatCancelsForAClientThatHungUpToo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setup(t, func(c *Config) {
			c.Endpoints = []Endpoint{{Path: "/crm/batch", Target: "crm", Wait: time.Minute, CancelOnDisconnect: true}}
		})
		ctx, hangUp := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, hangUp)
		serve(f, call{method: "POST", path: "/crm/batch", body: two}.request(t).WithContext(ctx))
		require.Equal(t, batch.StatusCancelled, f.store.batches["batch-1"].Status)
	})
}

// TestADialectRefusesInItsOwnWords covers every reason to refuse a whole batch.
func TestADialectRefusesInItsOwnWords(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		status int
		change func(f *fixture, c *call)
		says   string
		header string
	}{
		{"malformed", 400, func(_ *fixture, c *call) { c.body = c.body[:len(c.body)-1] }, "not valid JSON", ""},
		{"empty", 400, func(_ *fixture, c *call) { c.body = " " }, "the body is empty", ""},
		{"query", 400, func(_ *fixture, c *call) { c.path += "?%zz" }, "percent-encoded", ""},
		{"key", 400, func(_ *fixture, c *call) { c.headers = append(c.headers, "Idempotency-Key: a", "Idempotency-Key: b") }, "more than once", ""},
		{"method", 405, func(_ *fixture, c *call) { c.method = http.MethodGet }, "sent with POST", "Allow"},
		{"put", 405, func(_ *fixture, c *call) { c.method = http.MethodPut }, "sent with POST", "Allow"},
		{"large", 413, func(_ *fixture, c *call) { c.body += strings.Repeat(" ", 1<<20) }, "more than", ""},
		{"form", 415, func(_ *fixture, c *call) { c.headers[0] = "Content-Type: application/x-www-form-urlencoded" }, "send application/json", ""},
		{"charset", 415, func(_ *fixture, c *call) { c.headers[0] = "Content-Type: application/json; charset=latin1" }, "charset", ""},
		{"coding", 415, func(_ *fixture, c *call) { c.headers = append(c.headers, "Content-Encoding: br") }, "Content-Encoding", "Accept-Encoding"},
		{"store away", 503, func(f *fixture, _ *call) {
			f.store.setDown(&batch.UnavailableError{RetryAfter: 2e9, Err: errors.New("dial 10.0.0.1")})
		}, "try again later", "Retry-After"},
		{"fault", 500, func(f *fixture, _ *call) { f.store.setDown(errors.New("secret trouble")) }, "request id", ""},
		{"panic", 500, func(f *fixture, _ *call) { f.store.now = nil }, "request id", ""},
		{"key reused", 422, func(f *fixture, c *call) {
			c.headers = append(c.headers, "Idempotency-Key: k", "Prefer: wait=0")
			f.store.keys["anonymous\x00k"] = &fakeKey{id: "other"}
			f.store.batches["other"] = &fakeBatch{}
		}, "used before", ""},
		{"key busy", 409, func(f *fixture, c *call) {
			c.headers = append(c.headers, "Idempotency-Key: k")
			f.store.keys["anonymous\x00k"] = &fakeKey{}
		}, "still being accepted", "Retry-After"},
		{"limited", 429, func(f *fixture, _ *call) { f.store.admitted = 3 }, "too many just now", "Retry-After RateLimit RateLimit-Policy"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			eachDialect(t, func(s scene) {
				t, f, d := s.t, s.f, s.d
				c := d.call()
				row.change(f, &c)
				held := f.store.holds()
				w := serve(f, c.request(t))
				requireRefusal(t, d, w, row.status, row.says)
				for name := range strings.FieldsSeq(row.header) {
					require.NotEmpty(t, w.Header().Get(name), name)
				}
				require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
				require.NotContains(t, w.Body.String(), "secret")
				require.NotContains(t, w.Body.String(), "10.0.0.1")
				f.store.setDown(nil)
				if row.name != "panic" { // a panic may leave an upload in the fake store
					require.Equal(t, held, f.store.holds(), "nothing is stored")
				}
			}, func(c *Config) {
				c.Limits.MaxBody, c.Limits.MaxActionBody = 1<<19, 1<<19
				c.Limits.Admission = Admission{Rate: batch.Rate{N: 4, Per: time.Minute}}
			})
		})
	}
}

// requireRefusal checks the form of an error.
func requireRefusal(t *testing.T, d foreign, w *httptest.ResponseRecorder, status int, says string) {
	t.Helper()
	var message string
	switch {
	case strings.HasPrefix(d.path, "/api/1.0"):
		if status == http.StatusUnprocessableEntity {
			status = http.StatusBadRequest
		}
		requireJSONType(t, w)
		var e struct {
			Errors []struct{ Message string }
		}
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &e))
		require.NotEmpty(t, e.Errors)
		message = e.Errors[0].Message
	case strings.HasPrefix(d.path, "/v1.1"):
		requireJSONType(t, w)
		var e struct{ Detail string }
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &e))
		message = e.Detail
	default:
		p := requireProblem(t, w, status)
		message = p.Detail
		for _, e := range p.Errors {
			message += " " + e.Detail
		}
	}
	require.Equal(t, status, w.Code, "%s", w.Body)
	require.Contains(t, message, says)
}

func TestMostActionsAreTheDialectsOwn(t *testing.T) {
	t.Parallel()
	f := setup(t, endpoints)
	require.Equal(t, []int{10, 4, 50, 100}, []int{
		f.cfg.Endpoints[0].MaxActions, f.cfg.Endpoints[1].MaxActions, f.cfg.Endpoints[2].MaxActions, f.cfg.Endpoints[3].MaxActions,
	})
	require.Equal(t, time.Minute, f.cfg.Endpoints[0].Wait)
	f = setup(t, endpoints, func(c *Config) { c.Limits.MaxActions, c.Limits.MaxWait = 4, 30*time.Second })
	require.Equal(t, 4, f.cfg.Endpoints[3].MaxActions)
	require.Equal(t, 30*time.Second, f.cfg.Endpoints[3].Wait)
	f.store.run = func(int, *batch.Action) *batch.Result { return succeeded("1") }
	body := func(n int) string {
		return `{"requests":[` + strings.TrimSuffix(strings.Repeat(`{"method":"GET","path":"/a"},`, n), ",") + `]}`
	}
	require.Equal(t, http.StatusOK, serve(f, call{method: "POST", path: "/api/batch", body: body(4)}.request(t)).Code)
	p := requireProblem(t, serve(f, call{method: "POST", path: "/api/batch", body: body(5)}.request(t)), http.StatusBadRequest)
	require.Equal(t, "/requests", p.Errors[0].Pointer)
}

func TestABatchInABatchIsRefusedByItself(t *testing.T) {
	t.Parallel()
	f := setup(t, func(c *Config) {
		c.Endpoints = []Endpoint{
			{Path: "/api/1.0/batch", Dialect: "requests", Target: "crm"},
			{Path: "/tenants/:tenant/batch/", Target: "crm", Wait: time.Minute},
			{Path: "/by/:name", Dialect: "requests", Target: "crm"},
		}
	})
	f.store.run = func(_ int, a *batch.Action) *batch.Result {
		if a.Refusal != nil {
			return &batch.Result{Outcome: batch.Errored, Error: a.Refusal}
		}
		return succeeded("1")
	}
	refused := func(endpoint, list, path string) bool {
		w := serve(f, call{method: "POST", path: endpoint, body: `{"` + list + `":[{"method":"POST","path":"` + path + `"},{"method":"GET","path":"/fine"}]}`}.request(t))
		require.Equal(t, http.StatusOK, w.Code, "%s", w.Body)
		require.Contains(t, w.Body.String(), `"status":200`, "the others run")
		nested := strings.Contains(w.Body.String(), "a batch cannot be an action of a batch")
		require.Equal(t, nested, strings.Contains(w.Body.String(), `"blocked"`))
		return nested
	}
	for _, path := range []string{"/api/1.0/batch", "/batch", "/batch/", "/BATCH", "/%62atch", "/%2562atch", "/batch;x=1", "/api/1.0/batch/?x=1", "/API/1.0/Batch"} {
		require.True(t, refused("/api/1.0/batch", "requests", path), path)
	}
	for _, path := range []string{"/batch/1", "/batches", "/api/batch", "/api/2.0/batch", "/x/batch"} {
		require.False(t, refused("/api/1.0/batch", "requests", path), path)
	}
	for _, path := range []string{"/tenants/a/batch", "/tenants/b/batch/", "/batch"} {
		require.True(t, refused("/tenants/a/batch", "actions", path), path)
	}
	require.True(t, refused("/by/a", "requests", "/by/b"))
	require.False(t, refused("/by/a", "requests", "/anything"), "a parameter is no name of an endpoint")
}

func TestLimitsCanRefuseSingleActionsOfADialect(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(s scene) {
		t, f, d := s.t, s.f, s.d
		f.store.run = func(_ int, a *batch.Action) *batch.Result {
			if a.Refusal != nil {
				return &batch.Result{Outcome: batch.Errored, Error: a.Refusal}
			}
			return succeeded("1")
		}
		w := serve(f, d.call().request(t))
		require.Equal(t, []int{200, 429}, d.statuses(t, w))
		require.NotEmpty(t, w.Header().Get("Ratelimit"))
	}, func(c *Config) {
		for i := range c.Endpoints {
			c.Endpoints[i].Admission = Admission{Rate: batch.Rate{N: 1, Per: time.Minute}, WhenExceeded: PerItem}
		}
	})
}

func TestADialectsBatchBelongsToItsCredential(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(s scene) {
		t, f, d := s.t, s.f, s.d
		w := serve(f, d.call("Prefer: respond-async").request(t))
		require.Equal(t, http.StatusAccepted, w.Code, "%s", w.Body)
		get := call{method: "GET", path: w.Header().Get("Location"), headers: []string{d.head}}
		if _, query, ok := strings.Cut(d.path, "?"); ok {
			get.path += "?" + query
		}
		require.Equal(t, http.StatusOK, serve(f, get.request(t)).Code, "the same credential reads it")
		get.headers = []string{strings.Replace(d.head, "alice", "bob", 1)}
		get.path = strings.Replace(get.path, "alice", "bob", 1)
		require.Equal(t, http.StatusNotFound, serve(f, get.request(t)).Code, "another one does not")
		stored := f.store.stored("batch-1")
		require.Contains(t, stored[0].Query+headerText(stored[0].Headers), "alice", "it goes with every action")
		require.NotContains(t, f.log.String(), "alice")
		require.NotContains(t, f.log.String(), "bob")

		c := d.call()
		c.headers, c.path = c.headers[:1], strings.Replace(c.path, "token=alice", "", 1)
		w = serve(f, c.request(t))
		requireRefusal(t, d, w, http.StatusUnauthorized, "send the")
		require.NotEmpty(t, w.Header().Get("WWW-Authenticate"))
	}, passthrough)
}

func headerText(fields []batch.Field) string {
	text := ""
	for _, f := range fields {
		text += f.Name + ": " + f.Value + "\n"
	}
	return text
}

func TestKeysInTheBodyReadAsThoseInTheHeader(t *testing.T) {
	t.Parallel()
	f := setup(t, endpoints, passthrough)
	w := serve(f, call{
		method: "POST", path: "/v1.1/instances/i/batch/", headers: []string{"Content-Type: text/plain", "Prefer: respond-async"},
		body: `{"requests":[{"method":"GET","path":"/v1.1/instances/i/a/"}],"_api_key":"alice","_user_key":"u","_method":"POST"}`,
	}.request(t))
	require.Equal(t, http.StatusAccepted, w.Code, "%s", w.Body)
	get := call{method: "GET", path: w.Header().Get("Location"), headers: []string{"X-API-KEY: alice", "X-USER-KEY: u"}}
	require.Equal(t, http.StatusOK, serve(f, get.request(t)).Code)
	get.headers = get.headers[:1]
	require.Equal(t, http.StatusNotFound, serve(f, get.request(t)).Code)
	require.Equal(t, http.StatusUnsupportedMediaType, serve(f, call{
		method: "POST", path: "/api/batch", headers: []string{"Content-Type: text/plain"}, body: "{}",
	}.request(t)).Code, "plain text is for the dialect whose clients send it")
}

func TestADialectNeedsSealingForCredentials(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(s scene) {
		t, f, d := s.t, s.f, s.d
		if strings.HasPrefix(d.path, "/api/batch") {
			f.store.run = func(int, *batch.Action) *batch.Result { return succeeded("1") }
			require.Equal(t, []int{200, 200}, d.statuses(t, serve(f, d.call().request(t))), "none goes with the actions")
			return
		}
		requireRefusal(t, d, serve(f, d.call().request(t)), http.StatusBadRequest, "seal.keys")
		require.Zero(t, f.store.holds())
	}, func(c *Config) { c.Sealed = false })
}

func TestADialectsReplayAnswersAsTheFirstDid(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(s scene) {
		t, f, d := s.t, s.f, s.d
		f.store.run = func(int, *batch.Action) *batch.Result { return succeeded("1") }
		first, again := serve(f, d.call("Idempotency-Key: k").request(t)), serve(f, d.call("Idempotency-Key: k").request(t))
		require.Equal(t, []int{200, 200}, d.statuses(t, again))
		require.Equal(t, first.Body.String(), again.Body.String())
		require.Equal(t, "true", again.Header().Get("Idempotency-Replayed"))
		require.Len(t, f.store.batches, 1)
		other := d.call("Idempotency-Key: k")
		other.headers[1], other.path = strings.Replace(other.headers[1], "alice", "bob", 1), strings.Replace(other.path, "alice", "bob", 1)
		requireRefusal(t, d, serve(f, other.request(t)), http.StatusUnprocessableEntity, "used before")
		d.body = strings.Replace(d.body, "POST", "PUT", 1)
		d.body = strings.Replace(d.body, "post", "put", 1)
		requireRefusal(t, d, serve(f, d.call("Idempotency-Key: k").request(t)), http.StatusUnprocessableEntity, "used before")
	})
}

func TestADialectTellsWhatExistsWhenTheStoreGoesAway(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(s scene) {
		t, f, d := s.t, s.f, s.d
		time.AfterFunc(time.Second, func() { f.store.setDown(&batch.UnavailableError{}) })
		w := serve(f, d.call().request(t))
		require.Equal(t, []int{504, 504}, d.statuses(t, w))
		require.Equal(t, "/batch/batch-1", w.Header().Get("Location"))
	})
}

func TestADialectReadsManyPagesOfResults(t *testing.T) {
	t.Parallel()
	f := setup(t, func(c *Config) { c.Endpoints = []Endpoint{{Path: "/api/batch", Dialect: "requests", Target: "crm"}} })
	f.store.run = func(i int, _ *batch.Action) *batch.Result { return succeeded(string(rune('0' + i%10))) }
	const n = 1500
	body := `{"requests":[` + strings.TrimSuffix(strings.Repeat(`{"method":"GET","path":"/a"},`, n), ",") + `]}`
	w := serve(f, call{method: "POST", path: "/api/batch", body: body}.request(t))
	require.Equal(t, http.StatusOK, w.Code)
	var answer struct {
		Responses []struct {
			Status int
			Body   int
		}
	}
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &answer))
	require.Len(t, answer.Responses, n)
	for i, r := range answer.Responses {
		require.Equal(t, 200, r.Status)
		require.Equal(t, i%10, r.Body)
	}
	require.LessOrEqual(t, f.store.largest, mostChunk)
}

func TestWaitingInADialectIsKnownToTheStore(t *testing.T) {
	t.Parallel()
	f := setup(t, func(c *Config) { c.Endpoints = []Endpoint{{Path: "/api/batch", Dialect: "requests", Target: "crm"}} })
	f.store.run = func(int, *batch.Action) *batch.Result { return succeeded("1") }
	body := `{"requests":[` + strings.TrimSuffix(strings.Repeat(`{"method":"GET","path":"/a"},`, 2*batch.InteractiveActions), ",") + `]}`
	serve(f, call{method: "POST", path: "/api/batch", body: body}.request(t))
	require.Equal(t, batch.Interactive, f.store.batches["batch-1"].Lane)
	serve(f, call{method: "POST", path: "/api/batch", body: body, headers: []string{"Prefer: respond-async"}}.request(t))
	require.Equal(t, batch.Bulk, f.store.batches["batch-2"].Lane)
}

func TestSyncanoTellsOfEachRequest(t *testing.T) {
	t.Parallel()
	f := setup(t, endpoints)
	w := serve(f, call{method: "POST", path: "/v1.1/instances/i/batch/", body: `{"requests":[{"method":"GET","path":"/v1.1/instances/i/a/"},{"method":"GET"},{"method":"GET","path":"/v1.1/instances/i/a/"}]}`}.request(t))
	require.Equal(t, http.StatusBadRequest, w.Code)
	require.JSONEq(t, `{"requests":[{},{"path":["the path is missing: expected one that starts with /"]},{}]}`, w.Body.String())
}
