package faults

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/client"
)

// planned is a batch as submitted, for comparison with its results.
type planned struct {
	tag     string
	id      string // set once it was acknowledged
	actions []client.Action
}

// plan makes a batch of n actions whose ids begin with a tag that no other batch of the
// test has. The methods alternate.
func plan(tag string, n int, methods ...string) *planned {
	p := &planned{tag: tag, actions: make([]client.Action, n)}
	for i := range p.actions {
		id := tag + "-" + strconv.Itoa(i)
		p.actions[i] = client.Action{ID: id, Method: methods[i%len(methods)], Path: "/do/" + id}
	}
	return p
}

// submit submits the batch until it is acknowledged.
func (w *world) submit(p *planned, opts client.Options) {
	w.t.Helper()
	b, err := w.client.Submit(w.t.Context(), p.actions, opts)
	require.NoError(w.t, err)
	p.id = b.ID
}

// consistent returns an error if the counts of a batch do not add up.
func (p *planned) consistent(b *client.Batch) error {
	sum := 0
	for _, o := range client.Outcomes() {
		sum += b.Counts.Of(o)
	}
	switch {
	case b.Counts.Total != len(p.actions):
		return fmt.Errorf("batch %s has %d actions, not %d", p.tag, b.Counts.Total, len(p.actions))
	case sum != b.Counts.Total:
		return fmt.Errorf("batch %s: the counts add up to %d: %+v", p.tag, sum, b.Counts)
	case b.Status.Terminal() != (b.Counts.Pending == 0):
		return fmt.Errorf("batch %s is %s: %+v", p.tag, b.Status, b.Counts)
	}
	return nil
}

// settle waits until every batch has ended. The counts must add up at every read.
func (w *world) settle(within time.Duration, all ...*planned) {
	w.t.Helper()
	if open := w.open(within, all...); len(open) > 0 {
		b, err := w.client.Get(w.t.Context(), open[0].id, 0)
		require.FailNow(w.t, "batches do not end", "%d of them within %s, such as %s: %+v %v", len(open), within, open[0].tag, b, err)
	}
}

// open returns the existing batches that have not ended after that time.
func (w *world) open(within time.Duration, all ...*planned) []*planned {
	w.t.Helper()
	open := slices.Clone(all)
	for deadline := time.Now().Add(within); ; time.Sleep(50 * time.Millisecond) {
		open = slices.DeleteFunc(open, func(p *planned) bool {
			b, err := w.client.Get(w.t.Context(), p.id, 0)
			require.NoError(w.t, err, "batch %s (%s)", p.tag, p.id)
			require.NoError(w.t, p.consistent(b))
			return b.Status.Terminal()
		})
		if len(open) == 0 || time.Now().After(deadline) {
			return open
		}
	}
}

// tally counts actions by outcome.
type tally map[client.Outcome]int

func (a tally) add(b tally) {
	for o, n := range b {
		a[o] += n
	}
}

// verify reads a batch that has ended and checks it against the target's log: each
// action has one outcome, in its place and with its own answer; an action that is not
// safe to repeat arrived at most once; a successful action arrived.
func (w *world) verify(p *planned) (tally, []*client.Result) {
	w.t.Helper()
	b, err := w.client.Get(w.t.Context(), p.id, 0)
	require.NoError(w.t, err, "batch %s", p.tag)
	require.True(w.t, b.Status.Terminal(), "batch %s is %s", p.tag, b.Status)
	require.NoError(w.t, p.consistent(b))
	found := tally{}
	var results []*client.Result
	for r, err := range w.client.Results(w.t.Context(), p.id, client.Filter{}) {
		require.NoError(w.t, err)
		i := len(results)
		results = append(results, r)
		require.Less(w.t, i, len(p.actions), "batch %s has more results than actions", p.tag)
		require.Equal(w.t, i, r.Index)
		require.Equal(w.t, p.actions[i].ID, r.ID)
		found[r.Outcome]++
		w.checkResult(&p.actions[i], r)
	}
	require.Len(w.t, results, len(p.actions))
	for _, o := range client.Outcomes() {
		require.Equal(w.t, found[o], b.Counts.Of(o), "batch %s, %s: %+v", p.tag, o, b.Counts)
	}
	return found, results
}

func (w *world) checkResult(a *client.Action, r *client.Result) {
	w.t.Helper()
	visits := w.target.took(a.ID)
	if a.Method == http.MethodPost && !w.lossy {
		require.LessOrEqual(w.t, visits, 1, "POST %s was sent more than once and is %s", a.ID, r.Outcome)
	}
	switch r.Outcome {
	case client.Succeeded:
		require.Equal(w.t, a.ID, idIn(r.Body), "the answer of %s is another's", a.ID)
		require.GreaterOrEqual(w.t, visits, 1, "%s succeeded and never arrived", a.ID)
	case client.Cancelled, client.Expired, client.Skipped:
		if a.Method == http.MethodPost && a.Group == "" && !w.lossy {
			require.Zero(w.t, visits, "%s is %s and arrived", a.ID, r.Outcome)
		}
	case client.Pending:
		require.Fail(w.t, "pending in a batch that ended", a.ID)
	case client.Failed, client.Errored, client.Unknown:
	}
}

// verifyAll verifies batches and counts their actions by outcome.
func (w *world) verifyAll(all []*planned) tally {
	w.t.Helper()
	sum := tally{}
	for _, p := range all {
		found, _ := w.verify(p)
		sum.add(found)
	}
	return sum
}

// quantiles describes durations: their number, the median, the 99th percentile and the
// longest.
func quantiles(d []time.Duration) string {
	if len(d) == 0 {
		return "n=0"
	}
	slices.Sort(d)
	return fmt.Sprintf("n=%d p50=%.1fs p99=%.1fs max=%.1fs", len(d), quantile(d, 0.5).Seconds(), quantile(d, 0.99).Seconds(), d[len(d)-1].Seconds())
}

// quantile returns a quantile of sorted durations (nearest rank).
func quantile(sorted []time.Duration, q float64) time.Duration {
	rank := int(q*float64(len(sorted)) + 0.999999)
	return sorted[min(max(rank, 1), len(sorted))-1]
}

func TestQuantilesAreByNearestRank(t *testing.T) {
	t.Parallel()
	var d []time.Duration
	for i := range 100 {
		d = append(d, time.Duration(100-i)*time.Second)
	}
	require.Equal(t, "n=100 p50=50.0s p99=99.0s max=100.0s", quantiles(d))
	require.Equal(t, "n=0", quantiles(nil))
	require.Equal(t, "n=1 p50=2.0s p99=2.0s max=2.0s", quantiles([]time.Duration{2 * time.Second}))
}
