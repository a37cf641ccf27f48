package faults

import (
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/client"
)

// A worker stops with POSTs in flight, for so long that the others consider it dead,
// and then continues. Its results for them no longer count.
func TestAWorkerThatComesBackFromTheDeadIsRefused(t *testing.T) {
	scenario(t)
	stopped := scale(20*time.Second, 90*time.Second)
	w := newWorld(t)
	w.timeout = 5 * time.Minute // the answers from the time when it was stopped are still valid when it continues
	w.startAPI()
	sleeper := w.startWorker("sleeper")
	w.startWorker("other")
	hold := make(chan struct{})
	w.target.gate = func(v *visit) <-chan struct{} {
		if v.worker == "sleeper" {
			return hold
		}
		return nil
	}
	time.Sleep(8 * time.Second) // the other worker's pulse must be steady before it takes over
	p := plan("s", 300, http.MethodPost)
	w.submit(p, client.Options{})
	eventually(t, 30*time.Second, func() bool { return w.target.flying("sleeper") == concurrency }, "the sleeper has %d in flight", w.target.flying("sleeper"))
	since := time.Now()
	sleeper.signal(syscall.SIGSTOP)
	time.Sleep(500 * time.Millisecond) // the signal takes effect with a short delay
	close(hold)                        // its answers arrive while it is stopped
	w.target.set(func(x *target) { x.gate = nil })

	eventually(t, 15*time.Second, func() bool {
		b, err := w.client.Get(t.Context(), p.id, 0)
		require.NoError(t, err)
		require.NoError(t, p.consistent(b))
		return b.Counts.Unknown >= concurrency
	}, "what the sleeper holds is not resolved")
	resolved := time.Since(since)
	time.Sleep(time.Until(since.Add(stopped)))
	sleeper.signal(syscall.SIGCONT)
	refusal := "result refused: the action is no longer this worker's"
	eventually(t, 30*time.Second, func() bool { return sleeper.lines(refusal) >= concurrency }, "%d refusals", sleeper.lines(refusal))

	w.settle(130*time.Second, p)
	sum, results := w.verify(p)
	for _, r := range results {
		byOther := w.target.of(r.ID)[0].worker == "other"
		require.Equal(t, byOther, r.Outcome == client.Succeeded, "%s is %s", r.ID, r.Outcome)
	}
	require.Equal(t, tally{client.Succeeded: 300 - sum[client.Unknown], client.Unknown: concurrency}, sum)
	figure(t, "stopped worker: stopped=%s outcomes=%v resolved_after=%.1fs refusals=%d",
		stopped, sum, resolved.Seconds(), sleeper.lines(refusal))

	again := plan("again", 200, http.MethodPost)
	w.submit(again, client.Options{})
	w.settle(30*time.Second, again)
	sum, _ = w.verify(again)
	require.Equal(t, tally{client.Succeeded: 200}, sum)
	require.Positive(t, w.target.count(func(v *visit) bool {
		return v.worker == "sleeper" && strings.HasPrefix(v.id, again.tag+"-")
	}), "the worker that came back does not work")
}
