package api

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

// A retry that names no outcomes does not repeat an action that may have taken effect,
// or one that a client cancelled.
func TestARetryWithoutOutcomesLeavesUnknownAndCancelledAlone(t *testing.T) {
	t.Parallel()
	outcomes := []batch.Outcome{
		batch.Succeeded, batch.Failed, batch.Errored, batch.Unknown, batch.Cancelled, batch.Expired, batch.Skipped,
	}
	for query, again := range map[string][]batch.Outcome{
		"":                           {batch.Failed, batch.Errored, batch.Expired, batch.Skipped},
		"?outcome=unknown":           {batch.Unknown},
		"?outcome=cancelled,errored": {batch.Cancelled, batch.Errored},
	} {
		f := setup(t)
		id := f.created(t, call{body: actions(len(outcomes))})
		for i, o := range outcomes {
			f.store.finish(id, i, &batch.Result{Outcome: o, Attempts: 1})
		}
		w := f.do(t, call{method: http.MethodPost, path: "/batch/" + id + "/retry" + query})
		require.Equal(t, http.StatusAccepted, w.Code, "%s", w.Body)
		for i, r := range f.store.batches[id].results {
			want := outcomes[i]
			if slices.Contains(again, want) {
				want = batch.Pending
			}
			require.Equal(t, want, r.Outcome, "%q: action %d was %s", query, i, outcomes[i])
		}
	}
}

// The limit for a submission also applies to a retry.
func TestARetryAsksTheOwnersLimit(t *testing.T) {
	t.Parallel()
	rate := batch.Rate{N: 5, Per: time.Minute}
	for name, test := range map[string]struct {
		when     WhenExceeded
		rate     batch.Rate
		status   int
		throttle bool
	}{
		"reject":           {Reject, rate, http.StatusTooManyRequests, false},
		"item by item":     {PerItem, rate, http.StatusTooManyRequests, false},
		"queue":            {Queue, rate, http.StatusAccepted, true},
		"room":             {Reject, batch.Rate{N: 6, Per: time.Minute}, http.StatusAccepted, false},
		"without a limit":  {Reject, batch.Rate{}, http.StatusAccepted, false},
		"an endpoint's":    {"", rate, http.StatusTooManyRequests, false},
		"room at endpoint": {"", batch.Rate{N: 6, Per: time.Minute}, http.StatusAccepted, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path, start := "/batch", `{"target":"crm","actions":[`
			f := setup(t, func(c *Config) {
				c.Limits.Admission = Admission{Rate: test.rate, WhenExceeded: test.when}
				if test.when != "" && test.when != PerItem {
					return
				}
				// The server's own limit has room for everything.
				c.Limits.Admission = Admission{Rate: batch.Rate{N: 100, Per: time.Minute}}
				ep := Endpoint{Path: "/crm/batch", Target: "crm", MaxActions: 10, Admission: Admission{Rate: test.rate, WhenExceeded: test.when}}
				path, start = ep.Path, `{"actions":[`
				if test.when == PerItem {
					ep.Dialect, start = "requests", `{"requests":[`
				}
				c.Endpoints = []Endpoint{ep}
			})
			body := start + strings.Repeat(`{"method":"GET","path":"/"},`, 2) + `{"method":"GET","path":"/"}]}`
			submitted := httptest.NewRecorder()
			f.Handler().ServeHTTP(submitted, call{method: http.MethodPost, path: path, body: body, headers: []string{"Prefer: respond-async"}}.request(t))
			require.Equal(t, http.StatusAccepted, submitted.Code, "%s", submitted.Body)
			id := strings.TrimPrefix(submitted.Header().Get("Location"), "/batch/")
			for i := range 3 {
				f.store.finish(id, i, &batch.Result{Outcome: batch.Failed, Attempts: 1})
			}
			w := f.do(t, call{method: http.MethodPost, path: "/batch/" + id + "/retry"})
			require.Equal(t, test.status, w.Code, "%s", w.Body)
			if test.status == http.StatusTooManyRequests {
				require.Contains(t, w.Body.String(), "urn:problem-type:batchd:limit-exceeded")
				require.NotEmpty(t, w.Header().Get("Retry-After"))
				require.NotEmpty(t, w.Header().Get("Ratelimit"))
				require.Equal(t, 0, f.store.batches[id].Counts.Pending, "nothing runs again")
			} else if test.rate.N > 0 && !test.throttle {
				require.Contains(t, w.Header().Get("Ratelimit"), "r=0")
			}
			require.Equal(t, test.throttle, f.store.batches[id].throttle != nil)
		})
	}
}
