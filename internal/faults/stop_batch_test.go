package faults

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/client"
)

// lastVisit returns when the last request of a batch arrived.
func (x *target) lastVisit(tag string) time.Time {
	var last time.Time
	x.count(func(v *visit) bool {
		if strings.HasPrefix(v.id, tag+"-") && v.began.After(last) {
			last = v.began
		}
		return false
	})
	return last
}

// A batch is cancelled in the middle, with other batches around it.
func TestNothingIsSentOnceACancelIsAnswered(t *testing.T) {
	scenario(t)
	rounds := scale(3, 20)
	w := newWorld(t)
	w.startAPI()
	w.startWorker("w0")
	w.startWorker("w1")
	background := w.startLoad(2, 50)
	var late, ended []time.Duration
	sum := tally{}
	for round := range rounds {
		p := plan(fmt.Sprintf("x%d", round), 2_000, http.MethodPost, http.MethodGet)
		w.submit(p, client.Options{})
		eventually(t, time.Minute, func() bool { return w.target.seen(p.tag) >= 300 }, "the target saw %d", w.target.seen(p.tag))
		b, err := w.client.Cancel(t.Context(), p.id)
		answered := time.Now()
		require.NoError(t, err)
		require.NoError(t, p.consistent(b))
		w.settle(30*time.Second, p)
		ended = append(ended, time.Since(answered))
		time.Sleep(time.Until(answered.Add(2 * time.Second)))
		late = append(late, max(0, w.target.lastVisit(p.tag).Sub(answered)))
		found, _ := w.verify(p)
		require.Positive(t, found[client.Cancelled], "the batch was over before it was cancelled")
		sum.add(found)
	}
	others := background.stop()
	w.settle(60*time.Second, others...)
	require.Equal(t, tally{client.Succeeded: 50 * len(others)}, w.verifyAll(others))
	slices.Sort(late)
	figure(t, "cancel under load: rounds=%d outcomes=%v last request after the answer: %s, max %s", rounds, sum, quantiles(late), late[len(late)-1].Round(time.Millisecond))
	figure(t, "cancel under load: from the answer to the end of the batch: %s", quantiles(ended))
	// CI stops a worker for a while now and then, so that only half of the few rounds there count.
	require.Less(t, quantile(late, scale(0.5, 1)), time.Second)
}

// A batch has more actions than can end before its deadline.
func TestADeadlineEndsEveryAction(t *testing.T) {
	scenario(t)
	const expiresIn = 3 * time.Second
	within := scale(8*time.Second, 60*time.Second)
	rounds := scale(1, 5)
	w := newWorld(t)
	w.concurrency = 2
	w.target.delay = 50 * time.Millisecond
	w.startAPI()
	w.startWorker("w0")
	w.startWorker("w1")
	var ended []time.Duration
	sum := tally{}
	for round := range rounds {
		p := plan(fmt.Sprintf("e%d", round), 2_000, http.MethodPost, http.MethodGet)
		w.submit(p, client.Options{ExpiresIn: expiresIn})
		deadline := time.Now().Add(expiresIn)
		w.settle(expiresIn+within, p)
		ended = append(ended, time.Since(deadline))
		b, err := w.client.Get(t.Context(), p.id, 0)
		require.NoError(t, err)
		require.Equal(t, client.StatusExpired, b.Status)
		require.Less(t, w.target.lastVisit(p.tag).Sub(deadline), 3*time.Second) // without a deadline: 25 s
		found, _ := w.verify(p)
		require.Positive(t, found[client.Expired])
		require.Positive(t, found[client.Succeeded])
		sum.add(found)
	}
	figure(t, "deadline: rounds=%d outcomes=%v from the deadline to the end of the batch: %s", rounds, sum, quantiles(ended))
}

// When the deadline passes, some actions are in flight at a target that does not
// answer, one of the workers is dead, and some actions have not begun.
func TestADeadlineEndsWhatIsInFlight(t *testing.T) {
	if !long {
		t.Skip("takes a minute: run it with -tags faults")
	}
	const expiresIn = 15 * time.Second
	w := newWorld(t)
	w.timeout = 10 * time.Minute
	never := make(chan struct{})
	t.Cleanup(func() { close(never) })
	w.target.gate = func(*visit) <-chan struct{} { return never }
	w.startAPI()
	dying := w.startWorker("dying")
	w.startWorker("other")
	time.Sleep(8 * time.Second) // the other worker's pulse must be steady before it takes over
	p := plan("deadline", 3*concurrency, http.MethodPost, http.MethodGet)
	w.submit(p, client.Options{ExpiresIn: expiresIn})
	deadline := time.Now().Add(expiresIn)
	eventually(t, 30*time.Second, func() bool { return w.target.seen(p.tag) == 2*concurrency }, "the target saw %d", w.target.seen(p.tag))
	time.Sleep(time.Until(deadline.Add(-time.Second)))
	dying.kill()
	w.settle(time.Until(deadline)+60*time.Second, p)
	ended := time.Since(deadline)
	found, results := w.verify(p)
	for _, r := range results {
		sent := w.target.of(r.ID)
		switch {
		case len(sent) == 0, sent[0].worker == "dying" && sent[0].method == http.MethodGet:
			require.Equal(t, client.Expired, r.Outcome, r.ID)
		case sent[0].method == http.MethodGet:
			require.Equal(t, client.Errored, r.Outcome, r.ID)
			require.Equal(t, "timeout", r.Error.Code)
		default:
			require.Equal(t, client.Unknown, r.Outcome, r.ID)
		}
	}
	figure(t, "deadline with a target that does not answer: outcomes=%v, the last one %.1fs after the deadline", found, ended.Seconds())
}
