package dispatch

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		value, date string
		want        time.Duration
	}{
		{value: "", want: 0},
		{value: "0", want: 0},
		{value: "7", want: 7 * time.Second},
		{value: " 7 ", want: 7 * time.Second},
		{value: "007", want: 7 * time.Second},
		{value: "1.5", want: 1500 * time.Millisecond},
		{value: ".5", want: 500 * time.Millisecond},
		{value: "1.", want: time.Second},
		{value: ".", want: 0},
		{value: "1.2.3", want: 0},
		{value: "-1", want: 0},
		{value: "+1", want: 0},
		{value: "1e3", want: 0},
		{value: "0x10", want: 0},
		{value: "inf", want: 0},
		{value: "NaN", want: 0},
		{value: "soon", want: 0},
		// Several: the longest counts.
		{value: "1, 3", want: 3 * time.Second},
		{value: "3, 1", want: 3 * time.Second},
		{value: " 3 ,, soon, 1,", want: 3 * time.Second},
		{value: "soon, 3", want: 3 * time.Second},
		{value: "-1, 3", want: 3 * time.Second},
		{value: "1\n3\n2", want: 3 * time.Second},
		{value: "soon\n3", want: 3 * time.Second},
		{value: "5, Sat, 21 Nov 2026 12:00:30 GMT", want: 30 * time.Second},
		{value: "Sat, 21 Nov 2026 12:00:30 GMT, 5", want: 30 * time.Second},
		{value: "Sat, 21 Nov 2026 12:00:03 GMT, 5", want: 5 * time.Second},
		{value: "Sat, 21 Nov 2026 12:00:30 GMT, Sat, 21 Nov 2026 12:00:40 GMT", want: 40 * time.Second},
		{value: "Saturday, 21-Nov-26 12:00:30 GMT, Sat Nov 21 12:00:20 2026", want: 30 * time.Second},
		{value: "Sat, 21 Nov 2026 12:00:30 GMT\n40", want: 40 * time.Second},
		{value: "Sat, 21 Nov 2026 11:00:00 GMT, 2", want: 2 * time.Second},
		{value: "86399", want: 86399 * time.Second},
		{value: "86401", want: 24 * time.Hour},
		{value: "99999999999999999999", want: 24 * time.Hour},
		{value: strings.Repeat("9", 1000), want: 24 * time.Hour},
		// The three formats of RFC 9110 §5.6.7.
		{value: "Sat, 21 Nov 2026 12:00:30 GMT", want: 30 * time.Second},
		{value: "Saturday, 21-Nov-26 12:00:30 GMT", want: 30 * time.Second},
		{value: "Sat Nov 21 12:00:30 2026", want: 30 * time.Second},
		{value: "Sat, 21 Nov 2026 11:00:00 GMT", want: 0},
		{value: "Fri, 31 Dec 9999 23:59:59 GMT", want: 24 * time.Hour},
		{value: "Sat, 32 Nov 2026 12:00:30 GMT", want: 0},
		// The target's clock is ten minutes ahead, and its dates are by it.
		{value: "Sat, 21 Nov 2026 12:10:30 GMT", date: "Sat, 21 Nov 2026 12:10:00 GMT", want: 30 * time.Second},
		{value: "Sat, 21 Nov 2026 11:50:30 GMT", date: "Sat, 21 Nov 2026 11:50:00 GMT", want: 30 * time.Second},
		// A Date that can't be right is left aside.
		{value: "Sat, 21 Nov 2026 12:00:30 GMT", date: "Thu, 01 Jan 1970 00:00:00 GMT", want: 30 * time.Second},
		{value: "Sat, 21 Nov 2026 12:00:30 GMT", date: "yesterday", want: 30 * time.Second},
		// Seconds don't depend on any clock.
		{value: "7", date: "Sat, 21 Nov 2026 11:50:00 GMT", want: 7 * time.Second},
	} {
		h := http.Header{"Retry-After": strings.Split(tt.value, "\n"), "Date": {tt.date}}
		require.Equal(t, tt.want, retryAfter(h, now), "%q with date %q", tt.value, tt.date)
	}
	require.Zero(t, retryAfter(http.Header{}, now))
}

// Clocks of machines may differ by hours. The ledger's is the one that all workers share.
func TestATimeWithoutADateIsComparedWithTheLedgersClock(t *testing.T) {
	t.Parallel()
	ledger := time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC)
	const stamp = "Tue, 06 May 2031 07:08:%02d GMT"
	for name, tt := range map[string]struct {
		headers string
		want    time.Duration
	}{
		"a date":                   {"Retry-After: " + fmt.Sprintf(stamp, 39) + "\r\n", 30 * time.Second},
		"the longest of two":       {"Retry-After: 3\r\nRetry-After: " + fmt.Sprintf(stamp, 39) + ", 5\r\n", 30 * time.Second},
		"a date, and the target's": {"Retry-After: " + fmt.Sprintf(stamp, 39) + "\r\nDate: " + fmt.Sprintf(stamp, 29) + "\r\n", 10 * time.Second},
		"a date, and a wrong one":  {"Retry-After: " + fmt.Sprintf(stamp, 39) + "\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n", 30 * time.Second},
		"a quota":                  {fmt.Sprintf("X-RateLimit-Remaining: 0\r\nX-RateLimit-Reset: %d\r\n", ledger.Unix()+30), 30 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			target := serving(t, "HTTP/1.1 429 Too Many\r\n"+tt.headers+"Content-Length: 0\r\n\r\n")
			d := newDispatcher(t, batch.Target{BaseURL: target.url})
			resp := d.Do(t.Context(), &batch.Request{Target: "crm", Action: &batch.Action{Method: "POST", Path: "/"}, Now: ledger})
			require.Equal(t, 429, resp.Result.Status)
			require.True(t, resp.Repeat)
			require.InDelta(t, tt.want, resp.After, float64(5*time.Second), "the exchange itself takes a moment")
			require.LessOrEqual(t, resp.After, tt.want)
			require.WithinDuration(t, time.Now(), resp.Result.StartedAt, time.Minute, "results keep the machine's time")
		})
	}
}

func FuzzRetryAfterIsBounded(f *testing.F) {
	for _, seed := range []string{"1", "1.5", "Sat, 21 Nov 2026 12:00:30 GMT", "-1", "1e309", strings.Repeat("9", 400)} {
		f.Add(seed, "Sat, 21 Nov 2026 12:00:00 GMT")
	}
	f.Fuzz(func(t *testing.T, value, date string) {
		got := retryAfter(http.Header{"Retry-After": {value}, "Date": {date}}, time.Now())
		require.GreaterOrEqual(t, got, time.Duration(0))
		require.LessOrEqual(t, got, 24*time.Hour)
	})
}
