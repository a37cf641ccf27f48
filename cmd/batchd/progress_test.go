package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/client"
)

// shown runs a progress over counts at intervals of one second.
func shown(width int, counts ...client.Counts) (*progress, *bytes.Buffer) {
	var out bytes.Buffer
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	p := &progress{out: &out, width: func() int { return width }, now: func() time.Time { return now }}
	for _, c := range counts {
		p.update(&client.Batch{Status: client.StatusRunning, Counts: c})
		now = now.Add(time.Second)
	}
	return p, &out
}

func TestTheBarShowsRateTimeLeftAndWhatWentWrong(t *testing.T) {
	t.Parallel()
	p, out := shown(100,
		client.Counts{Total: 10_000, Pending: 10_000},
		client.Counts{Total: 10_000, Pending: 8_000, Succeeded: 1_990, Failed: 10},
		client.Counts{Total: 10_000, Pending: 6_000, Succeeded: 3_980, Failed: 15, Errored: 5},
		client.Counts{Total: 10_000, Succeeded: 9_980, Failed: 15, Errored: 5},
	)
	p.clear()
	frames := strings.Split(out.String(), "\r\x1b[K")
	require.Equal(t, []string{
		"",
		"[                              ]   0%  0/10,000",
		"[======                        ]  20%  2,000/10,000  2,000/s  4s left  10 failed",
		"[============                  ]  40%  4,000/10,000  2,000/s  3s left  15 failed, 5 errored",
		"[==============================] 100%  10,000/10,000  3,333/s  15 failed, 5 errored",
		"",
	}, frames)
}

func TestTheBarNeverWraps(t *testing.T) {
	t.Parallel()
	for width := 1; width < 120; width++ {
		_, out := shown(width,
			client.Counts{Total: 10_000_000, Pending: 10_000_000},
			client.Counts{Total: 10_000_000, Pending: 9_999_990, Succeeded: 5, Failed: 1, Errored: 1, Unknown: 1, Cancelled: 1, Skipped: 1})
		for frame := range strings.SplitSeq(out.String(), "\r\x1b[K") {
			require.Less(t, len(frame), max(width, 2))
		}
	}
}

func TestWithoutATerminalALineComesNowAndThen(t *testing.T) {
	t.Parallel()
	var counts []client.Counts
	for i := range 12 {
		counts = append(counts, client.Counts{Total: 100, Pending: 100 - 2*i, Succeeded: 2*i - i/4, Failed: i / 4})
	}
	p, out := shown(0, counts...)
	p.clear()
	require.Equal(t, `running: 0 of 100 done (0%)
running: 10 of 100 done (10%), 2.0/s, 45s left, 1 failed
running: 20 of 100 done (20%), 2.0/s, 40s left, 2 failed
`, out.String())
}

func TestTheRateFollowsATargetThatSlowsDown(t *testing.T) {
	t.Parallel()
	var counts []client.Counts
	done := 0
	for i := range 60 {
		counts = append(counts, client.Counts{Total: 100_000, Pending: 100_000 - done, Succeeded: done})
		if i < 30 {
			done += 1000
		} else {
			done += 10
		}
	}
	p, _ := shown(0, counts...)
	rate, left := p.rate(&counts[len(counts)-1])
	require.InDelta(t, 10, rate, 0.01)
	require.Greater(t, left, time.Hour)
}

func TestNumbersAndTimesForPeople(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567"} {
		require.Equal(t, want, grouped(n))
	}
	for d, want := range map[time.Duration]string{
		400 * time.Millisecond: "<1s", 59 * time.Second: "59s", 61 * time.Second: "1m01s",
		90 * time.Minute: "1h30m", 1 << 62: "999h00m",
	} {
		require.Equal(t, want, roughly(d))
	}
	for d, want := range map[time.Duration]string{1234 * time.Microsecond: "1ms", 1540 * time.Millisecond: "1.5s", 61400 * time.Millisecond: "1m1s"} {
		require.Equal(t, want, duration(d))
	}
	require.Equal(t, "no actions", outcomes(&client.Counts{}))
	require.Equal(t, 100, percent(&client.Counts{}))
	require.Equal(t, 99, percent(&client.Counts{Total: 1000, Pending: 1, Succeeded: 999}))
}
