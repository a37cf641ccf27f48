package dispatch

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

// header makes headers of lines "Name: value".
func header(lines ...string) http.Header {
	h := make(http.Header)
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		h.Add(name, value)
	}
	return h
}

func TestQuotaAfter(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_795_262_400, 0) // 2026-11-21 12:00:00
	for _, tt := range []struct {
		lines []string
		want  time.Duration
	}{
		{},
		// The list of draft-ietf-httpapi-ratelimit-headers.
		{lines: []string{`RateLimit: "default";r=0;t=30`}, want: 30 * time.Second},
		{lines: []string{`RateLimit: default;r=0;t=30`}, want: 30 * time.Second},
		{lines: []string{`RateLimit: "default";r=1;t=30`}},
		{lines: []string{`RateLimit: "default";r=0`}},
		{lines: []string{`RateLimit: "default";t=30`}},
		{lines: []string{`RateLimit: "default";r=0;t=0`}},
		{lines: []string{`RateLimit: "default";r=0;t=-5`}},
		{lines: []string{`RateLimit: "default";r=0;t=999999999`}, want: 24 * time.Hour},
		{lines: []string{`RateLimit: "burst";r=0;t=5, "daily";r=0;t=3600, "hourly";r=7;t=9000`}, want: time.Hour},
		{lines: []string{`RateLimit: "burst";r=9;t=5`, `RateLimit: "daily";r=0;t=60;pk=:c2VjcmV0:`}, want: time.Minute},
		{lines: []string{`RateLimit: "default";r="0";t=30`}},
		{lines: []string{`RateLimit: ("a" "b");r=0;t=30`}},
		{lines: []string{`RateLimit: "default";r=0;t=30;`}},
		{lines: []string{`RateLimit: r=0;t=`}},
		{lines: []string{`RateLimit: nonsense "`}},
		{lines: []string{`RateLimit: "default";r=5;t=1`, "X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 30"}},
		// That of the drafts up to 07.
		{lines: []string{`RateLimit: limit=100, remaining=0, reset=50`}, want: 50 * time.Second},
		{lines: []string{`RateLimit: limit=100, remaining=3, reset=50`}},
		{lines: []string{`RateLimit: limit=100, reset=50`}},
		// Headers of their own.
		{lines: []string{"RateLimit-Limit: 100", "RateLimit-Remaining: 0", "RateLimit-Reset: 12"}, want: 12 * time.Second},
		{lines: []string{"X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 12"}, want: 12 * time.Second},
		{lines: []string{"X-Rate-Limit-Remaining: 0", "X-Rate-Limit-Reset: 12"}, want: 12 * time.Second},
		{lines: []string{"X-RateLimit-Remaining:  0 ", "X-RateLimit-Reset:  1.5 "}, want: 1500 * time.Millisecond},
		{lines: []string{"X-RateLimit-Remaining: -1", "X-RateLimit-Reset: 12"}, want: 12 * time.Second},
		{lines: []string{"X-RateLimit-Remaining: 1", "X-RateLimit-Reset: 12"}},
		{lines: []string{"X-RateLimit-Remaining: 0.5", "X-RateLimit-Reset: 12"}},
		{lines: []string{"X-RateLimit-Remaining: none", "X-RateLimit-Reset: 12"}},
		{lines: []string{"X-RateLimit-Remaining: 0"}},
		{lines: []string{"X-RateLimit-Reset: 12"}},
		{lines: []string{"X-RateLimit-Remaining: 0", "X-RateLimit-Reset: soon"}},
		{lines: []string{"X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 1.2.3"}},
		{lines: []string{"X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 90000"}, want: 24 * time.Hour},
		// Several: the longest of those that are used up counts.
		{lines: []string{"X-RateLimit-Remaining: 0, 5", "X-RateLimit-Reset: 12, 3600"}, want: 12 * time.Second},
		{lines: []string{"X-RateLimit-Remaining: 5, 0", "X-RateLimit-Reset: 12, 3600"}, want: time.Hour},
		{lines: []string{"X-RateLimit-Remaining: 0, 0", "X-RateLimit-Reset: 12, 30"}, want: 30 * time.Second},
		{lines: []string{"X-RateLimit-Remaining: 0", "X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 30", "X-RateLimit-Reset: 12"}, want: 30 * time.Second},
		{lines: []string{"X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 12, 30"}, want: 30 * time.Second},
		{lines: []string{"X-RateLimit-Remaining: 5, 0", "X-RateLimit-Reset: 12"}, want: 12 * time.Second},
		{lines: []string{"X-RateLimit-Remaining: none, 0", "X-RateLimit-Reset: 60, 12"}, want: 12 * time.Second},
		{lines: []string{"X-RateLimit-Remaining: 1, 5", "X-RateLimit-Reset: 12, 30"}},
		{lines: []string{"X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 12, 1795262430"}, want: 30 * time.Second},
		// Times since 1970, in seconds and in milliseconds.
		{lines: []string{"X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 1795262430"}, want: 30 * time.Second},
		{lines: []string{"X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 1795262430500"}, want: 30500 * time.Millisecond},
		{lines: []string{"X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 1795262300"}},
		{lines: []string{"X-RateLimit-Remaining: 0", "X-RateLimit-Reset: " + strings.Repeat("9", 400)}},
		// By the target's clock, which is ten minutes ahead.
		{lines: []string{"X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 1795263030", "Date: Sat, 21 Nov 2026 12:10:00 GMT"}, want: 30 * time.Second},
	} {
		require.Equal(t, tt.want, quotaAfter(header(tt.lines...), now), "%q", tt.lines)
	}
}

func FuzzQuotaAfterIsBounded(f *testing.F) {
	f.Add(`"default";r=0;t=30`, "0", "30")
	f.Add(`limit=1, remaining=0, reset=999999999999999`, "0", "1e309")
	f.Fuzz(func(t *testing.T, field, remaining, reset string) {
		for _, h := range []http.Header{
			{"Ratelimit": {field}},
			{"X-Ratelimit-Remaining": {remaining}, "X-Ratelimit-Reset": {reset}},
		} {
			got := quotaAfter(h, time.Now())
			require.GreaterOrEqual(t, got, time.Duration(0))
			require.LessOrEqual(t, got, 24*time.Hour)
		}
	})
}

func TestAnAnswerTellsWhenTheTargetWantsMore(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		status int
		lines  []string
		mode   batch.RetryMode
		repeat bool
		after  time.Duration
	}{
		{status: 200, lines: []string{`RateLimit: "d";r=0;t=30`}, after: 30 * time.Second},
		{status: 200, lines: []string{`RateLimit: "d";r=3;t=30`}},
		{status: 200, lines: []string{"Retry-After: 30"}},
		{status: 404, lines: []string{"X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 30"}, after: 30 * time.Second},
		{status: 429, lines: []string{"X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 30"}, repeat: true, after: 30 * time.Second},
		{status: 429, lines: []string{"Retry-After: 5", `RateLimit: "d";r=0;t=30`}, repeat: true, after: 5 * time.Second},
		{status: 429, lines: []string{"Retry-After: 5"}, mode: batch.RetryNever, after: 5 * time.Second},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			maps.Copy(w.Header(), header(tt.lines...))
			w.WriteHeader(tt.status)
		}))
		d := newDispatcher(t, batch.Target{BaseURL: server.URL})
		resp := d.Do(t.Context(), &batch.Request{Target: "crm", Action: &batch.Action{Method: "POST", Path: "/", Retry: tt.mode}})
		require.Equal(t, tt.status, resp.Result.Status)
		require.Equal(t, tt.repeat, resp.Repeat, "%d %q", tt.status, tt.lines)
		require.Equal(t, tt.after, resp.After, "%d %q", tt.status, tt.lines)
		server.Close()
	}
}
