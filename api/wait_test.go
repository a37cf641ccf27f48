package api

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/internal/batch"
)

func TestPreferences(t *testing.T) {
	t.Parallel()
	const longest = (1<<31 - 1) * time.Second
	for _, row := range []struct {
		headers []string
		want    preferences
	}{
		{nil, preferences{}},
		{[]string{"wait=20"}, preferences{wait: 20 * time.Second, waits: true}},
		{[]string{`Wait = "20"`}, preferences{wait: 20 * time.Second, waits: true}},
		{[]string{"respond-async, wait=10"}, preferences{wait: 10 * time.Second, waits: true, async: true}},
		{[]string{"respond-async", "wait=10"}, preferences{wait: 10 * time.Second, waits: true, async: true}},
		{[]string{"wait=1, wait=2", "wait=3"}, preferences{wait: time.Second, waits: true}},
		{[]string{`other="a, wait=3"; x=y, wait=2; foo`}, preferences{wait: 2 * time.Second, waits: true}},
		{[]string{`other="a\", wait=3"`}, preferences{}},
		{[]string{"wait=0"}, preferences{waits: true}},
		{[]string{"wait=99999999999"}, preferences{wait: longest, waits: true}},
		{[]string{"wait=99999999999999999999"}, preferences{wait: longest, waits: true}},
		{[]string{`wait="` + strings.Repeat("9", 400) + `"`}, preferences{wait: longest, waits: true}},
		{[]string{"wait=" + strings.Repeat("0", 400) + "7"}, preferences{wait: 7 * time.Second, waits: true}},
		{[]string{"wait=-1", "wait=+1", "wait=1e9", "wait=1.5", "wait=0x10", "wait=x", "wait", "wait=", "wait=-99999999999999999999", ",,;="}, preferences{}},
	} {
		require.Equal(t, row.want, parsePrefer(http.Header{"Prefer": row.headers}), "%q", row.headers)
	}
}

// within makes the call in a bubble and returns the answer and its duration.
func (f *fixture) within(t *testing.T, c call) (*httptest.ResponseRecorder, time.Duration) {
	t.Helper()
	start := time.Now()
	w := f.do(t, c)
	return w, time.Since(start)
}

func TestASubmissionCanWait(t *testing.T) {
	t.Parallel()
	post := func(prefer string) call {
		return call{method: "POST", path: "/batch", body: two, headers: []string{"Prefer: " + prefer}}
	}
	// endAfter ends the first batch after a duration.
	endAfter := func(f *fixture, d time.Duration) {
		time.AfterFunc(d, func() {
			f.store.finish("batch-1", 1, succeeded("2"))
			f.store.finish("batch-1", 0, succeeded("1"))
		})
	}
	t.Run("and has the results in time", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			f := setup(t)
			endAfter(f, 5500*time.Millisecond)
			w, took := f.within(t, post("wait=20"))
			require.Equal(t, http.StatusOK, w.Code)
			require.Equal(t, 5500*time.Millisecond, took)
			require.Equal(t, "wait=20", w.Header().Get("Preference-Applied"))
			require.Equal(t, "/batch/batch-1", w.Header().Get("Location"))
			require.Empty(t, w.Header().Get("Retry-After"))
			require.Regexp(t, `"results":\[\{"id":"0","index":0,.*\},\{"id":"b","index":1,.*\}\]\}$`, w.Body.String())
			require.Zero(t, f.store.watching())
		})
	})
	t.Run("and is handed them", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			f := setup(t)
			f.store.hands = true
			endAfter(f, 5500*time.Millisecond)
			w, took := f.within(t, post("wait=20"))
			require.Equal(t, http.StatusOK, w.Code)
			require.Equal(t, 5500*time.Millisecond, took)
			require.Regexp(t, `"results":\[\{"id":"0","index":0,.*\},\{"id":"b","index":1,.*\}\]\}$`, w.Body.String())
			require.Zero(t, f.store.firsts, "nothing was read for it")
		})
	})
	t.Run("in vain", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			f := setup(t)
			w, took := f.within(t, post("wait=20"))
			require.Equal(t, http.StatusAccepted, w.Code)
			require.Equal(t, 20*time.Second, took)
			require.Equal(t, "1", w.Header().Get("Retry-After"))
			require.Zero(t, f.store.watching())
		})
	})
	t.Run("no longer than the server allows", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			f := setup(t, func(c *Config) { c.Limits.MaxWait = 7 * time.Second })
			w, took := f.within(t, post("wait=1000"))
			require.Equal(t, 7*time.Second, took)
			require.Equal(t, "wait=7", w.Header().Get("Preference-Applied"))
		})
	})
	t.Run("although the wake-up is lost", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			f := setup(t)
			time.AfterFunc(time.Second, func() {
				f.store.mu.Lock()
				f.store.watchers = map[string]map[chan *batch.Batch]struct{}{}
				f.store.mu.Unlock()
				f.store.finish("batch-1", 1, succeeded("2"))
				f.store.finish("batch-1", 0, succeeded("1"))
			})
			w, took := f.within(t, post("wait=20"))
			require.Equal(t, http.StatusOK, w.Code)
			require.LessOrEqual(t, took, time.Second+pollInterval)
		})
	})
	t.Run("although it ended before anybody watched", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			f := setup(t)
			f.store.run = func(int, *batch.Action) *batch.Result { return succeeded("1") }
			w, took := f.within(t, post("wait=20"))
			require.Equal(t, http.StatusOK, w.Code)
			require.LessOrEqual(t, took, newPause)
		})
	})
	t.Run("while the store goes away and comes back", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			f := setup(t)
			time.AfterFunc(time.Second, func() { f.store.setDown(&batch.UnavailableError{}) })
			time.AfterFunc(7*time.Second, func() { f.store.setDown(nil) })
			endAfter(f, 8*time.Second)
			w, took := f.within(t, post("wait=20"))
			require.Equal(t, http.StatusOK, w.Code)
			require.Equal(t, 8*time.Second, took)
		})
	})
	t.Run("and is told what exists when the store goes away", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			f := setup(t)
			time.AfterFunc(time.Second, func() { f.store.setDown(&batch.UnavailableError{}) })
			w, _ := f.within(t, post("wait=20"))
			require.Equal(t, http.StatusAccepted, w.Code)
			require.Equal(t, "/batch/batch-1", w.Header().Get("Location"))
		})
	})
	t.Run("which ends when the server drains", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			f := setup(t)
			time.AfterFunc(time.Second, f.drain)
			w, took := f.within(t, post("wait=20"))
			require.Equal(t, http.StatusAccepted, w.Code)
			require.Equal(t, time.Second, took)
			requireProblem(t, f.do(t, call{method: "GET", path: "/readyz"}), http.StatusServiceUnavailable)
		})
	})
	t.Run("which ends when the client hangs up", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			f := setup(t)
			ctx, hangUp := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, hangUp)
			start := time.Now()
			serve(f, post("wait=20").request(t).WithContext(ctx))
			require.Equal(t, time.Second, time.Since(start))
			require.Zero(t, f.store.watching())
			require.NotContains(t, f.log.String(), `"level":"ERROR"`)
			require.Equal(t, 1, f.store.holds(), "the batch was accepted before")
		})
	})
}

// A watch delivers the ended batch to the watching request, even if it belongs to
// another owner.
func TestWhoWaitsForAnothersBatchIsNotHandedIt(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.store.hands = true
	id := f.created(t, call{body: two})
	owner := f.store.batches[id].Owner
	await := func(owner string) (*batch.Batch, error) {
		time.AfterFunc(10*time.Millisecond, func() {
			f.store.mu.Lock()
			defer f.store.mu.Unlock()
			for w := range f.store.watchers[id] {
				w <- &batch.Batch{ID: id, Owner: f.store.batches[id].Owner, Status: batch.StatusCompleted}
			}
		})
		return f.await(t.Context(), owner, id, watch{by: &auth.Principal{}, wait: time.Minute, pause: time.Minute})
	}
	_, err := await("somebody else")
	require.ErrorIs(t, err, batch.ErrNotFound)
	b, err := await(owner)
	require.NoError(t, err)
	require.Equal(t, batch.StatusCompleted, b.Status)
}

func TestWaitingIsKnownToTheStore(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.store.run = func(int, *batch.Action) *batch.Result { return succeeded("1") }
	f.created(t, call{body: actions(200)})
	require.Equal(t, batch.Bulk, f.store.batches["batch-1"].Lane)
	f.created(t, call{body: actions(200), headers: []string{"Prefer: wait=5"}})
	require.Equal(t, batch.Interactive, f.store.batches["batch-2"].Lane)
}

func TestAReplayAnswersAsTheFirstDid(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.store.run = func(int, *batch.Action) *batch.Result { return succeeded("1") }
	c := call{method: "POST", path: "/batch", body: two, headers: []string{"Prefer: wait=5", "Idempotency-Key: k"}}
	first, again := f.do(t, c), f.do(t, c)
	require.Equal(t, http.StatusOK, first.Code)
	require.Equal(t, first.Code, again.Code)
	require.Equal(t, first.Body.String(), again.Body.String())
	require.Equal(t, first.Header().Get("Location"), again.Header().Get("Location"))
	require.Equal(t, "true", again.Header().Get("Idempotency-Replayed"))
}

func TestAGetCanWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setup(t)
		id := f.created(t, call{body: two})
		time.AfterFunc(3*time.Second, func() {
			f.store.finish(id, 0, succeeded("1"))
			f.store.finish(id, 1, succeeded("2"))
		})
		w, took := f.within(t, call{method: "GET", path: "/batch/" + id, headers: []string{"Prefer: wait=1"}})
		require.Equal(t, time.Second, took)
		require.NotContains(t, w.Body.String(), `"results":[`)
		w, took = f.within(t, call{method: "GET", path: "/batch/" + id, headers: []string{"Prefer: wait=60"}})
		require.Equal(t, 2*time.Second, took)
		require.Equal(t, "wait=60", w.Header().Get("Preference-Applied"))
		require.Contains(t, w.Body.String(), `"results":[`)
		w, took = f.within(t, call{method: "GET", path: "/batch/nope", headers: []string{"Prefer: wait=60"}})
		requireProblem(t, w, http.StatusNotFound)
		require.Zero(t, took)
		require.Zero(t, f.store.watching())
	})
}

// A limit of zero means zero, not the default.
func TestNoRequestWaitsIfNoneMay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setup(t, func(c *Config) { c.Limits.MaxWait = 0 })
		start := time.Now()
		w := serve(f, call{method: "POST", path: "/batch", body: two, headers: []string{"Prefer: wait=5"}}.request(t))
		require.Equal(t, http.StatusAccepted, w.Code)
		require.Zero(t, time.Since(start))
	})
	_, err := New(Config{
		Store: newFakeStore(), Targets: []string{"crm"}, Limits: func() Limits { l := DefaultLimits(); l.MaxWait = 0; return l }(),
		Endpoints: []Endpoint{{Path: "/api/batch", Dialect: "requests"}},
	})
	require.ErrorContains(t, err, "endpoints[0].wait: the dialect requests answers with results only, so it has to wait for them: set limits.max_wait to 1s or more")
}

func TestAnEndpointCanWaitByItself(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := setup(t, func(c *Config) {
			c.Limits.MaxWait = 2 * time.Minute
			c.Endpoints = []Endpoint{{Path: "/api/batch", Target: "crm", Wait: 90 * time.Second}}
		})
		for _, row := range []struct {
			prefer  string
			applied string
			took    time.Duration
		}{
			{"", "", 90 * time.Second},
			{"wait=5", "wait=5", 5 * time.Second},
			{"wait=500", "wait=90", 90 * time.Second},
			{"respond-async", "respond-async", 0},
			{"respond-async, wait=3", "wait=3", 3 * time.Second},
		} {
			c := call{method: "POST", path: "/api/batch", body: strings.Replace(two, `"target":"crm",`, "", 1)}
			if row.prefer != "" {
				c.headers = []string{"Prefer: " + row.prefer}
			}
			start := time.Now()
			w := serve(f, c.request(t))
			require.Equal(t, http.StatusAccepted, w.Code)
			require.Equal(t, row.took, time.Since(start), row.prefer)
			require.Equal(t, row.applied, w.Header().Get("Preference-Applied"))
		}
		f.store.run = func(int, *batch.Action) *batch.Result { return succeeded("1") }
		w := serve(f, call{method: "POST", path: "/api/batch", body: two}.request(t))
		require.Equal(t, http.StatusOK, w.Code)
		require.Contains(t, w.Body.String(), `"results":[`)
	})
}
