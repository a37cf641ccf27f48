package worker

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

// stamps collects the times at which requests reached the target.
type stamps struct {
	mu sync.Mutex
	at []time.Time
}

func (s *stamps) add() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at = append(s.at, time.Now())
	return len(s.at)
}

// most returns the most requests in any window of that length.
func (s *stamps) most(window time.Duration) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.SortFunc(s.at, time.Time.Compare)
	most := 0
	for i, j := 0, 0; j < len(s.at); j++ {
		for s.at[j].Sub(s.at[i]) >= window {
			i++
		}
		most = max(most, j-i+1)
	}
	return most
}

// hearing is a gate that records which targets its listeners have heard of.
type hearing struct {
	batch.Gate
	mu    sync.Mutex
	heard []map[string]bool // by listener
}

func (h *hearing) Holds(f func(string, time.Duration)) (stop func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	heard := make(map[string]bool)
	h.heard = append(h.heard, heard)
	return h.Gate.Holds(func(target string, d time.Duration) {
		f(target, d)
		h.mu.Lock()
		defer h.mu.Unlock()
		heard[target] = true
	})
}

// heardBy returns how many listeners have heard of a hold of the target.
func (h *hearing) heardBy(target string) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, heard := range h.heard {
		if heard[target] {
			n++
		}
	}
	return n
}

// runTwo runs two workers, and returns their gate once both listen to holds.
func (b *bundle) runTwo() *hearing {
	b.t.Helper()
	h := &hearing{Gate: b.cfg.Gate}
	b.cfg.Gate = h
	b.run()
	b.cfg.Name = "w2"
	b.run()
	require.Eventually(b.t, func() bool {
		require.NoError(b.t, h.Hold(b.t.Context(), "another", time.Millisecond))
		return h.heardBy("another") == 2
	}, 20*time.Second, 20*time.Millisecond)
	return h
}

func TestARateHoldsOverAllWorkers(t *testing.T) {
	t.Parallel()
	var seen stamps
	b := setup(t, func(context.Context, *batch.Request, int) *batch.Response {
		seen.add()
		return answer(200)
	})
	b.cfg.Targets[0].Rate = batch.Rate{N: 50, Per: time.Second}
	b.run()
	b.cfg.Name = "w2"
	b.run()
	began := time.Now()
	id := b.submit(120, "POST", nil)
	got, _ := b.wait(id)
	require.Equal(t, 120, got.Counts.Succeeded)
	// A busy machine delays requests, so many of them can arrive at once. But none is sent before its
	// send time.
	slices.SortFunc(seen.at, time.Time.Compare)
	for i, at := range seen.at {
		require.GreaterOrEqual(t, at.Sub(began), time.Duration(i-4)*20*time.Millisecond-time.Millisecond, "request %d", i)
	}
}

func TestAWaitThatATargetAsksForHoldsAllWorkers(t *testing.T) {
	t.Parallel()
	var seen stamps
	b := setup(t, func(context.Context, *batch.Request, int) *batch.Response {
		if seen.add() == 1 {
			resp := answer(429)
			resp.Repeat, resp.After = true, 1500*time.Millisecond
			return resp
		}
		return answer(200)
	})
	gate := b.runTwo()
	first := b.submit(1, "POST", nil)
	require.Eventually(t, func() bool { return seen.most(time.Hour) == 1 }, 30*time.Second, time.Millisecond)
	require.Eventually(t, func() bool { return gate.heardBy("crm") == 2 }, 20*time.Second, time.Millisecond)
	second := b.submit(30, "POST", nil)
	b.wait(second)
	b.wait(first)
	seen.mu.Lock()
	defer seen.mu.Unlock()
	for _, at := range seen.at[1:] {
		require.GreaterOrEqual(t, at.Sub(seen.at[0]), 1400*time.Millisecond)
	}
}

func TestAnAnswerByWhichNothingRemainsHoldsAllAndIsNotRepeated(t *testing.T) {
	t.Parallel()
	var seen stamps
	b := setup(t, func(context.Context, *batch.Request, int) *batch.Response {
		resp := answer(200)
		if seen.add() == 1 {
			resp.After = 1500 * time.Millisecond
		}
		return resp
	})
	gate := b.runTwo()
	_, results := b.wait(b.submit(1, "POST", nil))
	require.Equal(t, 1, results[0].Attempts)
	require.Equal(t, batch.Succeeded, results[0].Outcome)
	require.Eventually(t, func() bool { return gate.heardBy("crm") == 2 }, 20*time.Second, time.Millisecond)
	got, _ := b.wait(b.submit(30, "POST", nil))
	require.Equal(t, 30, got.Counts.Succeeded)
	seen.mu.Lock()
	defer seen.mu.Unlock()
	require.Len(t, seen.at, 31)
	for _, at := range seen.at[1:] {
		require.GreaterOrEqual(t, at.Sub(seen.at[0]), 1400*time.Millisecond)
	}
}

func TestATargetThatCannotBeReachedIsPausedAndResumed(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.do = func(context.Context, *batch.Request, int) *batch.Response {
		if b.unreachable.Load() {
			return &batch.Response{Repeat: true, Unsent: true, Result: batch.Result{
				Outcome: batch.Errored, StartedAt: time.Now(), Error: &batch.Failure{Code: batch.CodeRefused, Message: "refused"},
			}}
		}
		return answer(200)
	}
	b.cfg.Targets[0].Retry = batch.Retry{Attempts: 100, Base: 10 * time.Millisecond, Max: 50 * time.Millisecond}
	b.unreachable.Store(true)
	b.run()
	id := b.submit(400, "POST", nil)
	require.Eventually(t, func() bool {
		tripped, err := b.store.Gate.Tripped(t.Context())
		require.NoError(t, err)
		return len(tripped) == 1
	}, endless, 5*time.Millisecond)
	probed := func() { // waits for a round of probes, which takes time on any machine
		t.Helper()
		seen := b.probes.Load()
		require.Eventually(t, func() bool { return b.probes.Load() > seen+1 }, endless, 5*time.Millisecond)
	}
	attempts := func() (sum int) {
		for i := range 400 {
			sum += b.attempts(id, i)
		}
		return sum
	}
	before := -1
	for before != attempts() { // until no attempt is in flight
		before = attempts()
		probed()
	}
	require.Less(t, before, 400)
	probed()
	require.Equal(t, before, attempts(), "waiting actions burn no attempts")
	b.unreachable.Store(false)
	got, _ := b.wait(id)
	require.Equal(t, 400, got.Counts.Succeeded)
	tripped, err := b.store.Gate.Tripped(t.Context())
	require.NoError(t, err)
	require.Empty(t, tripped)
}

func TestAGateThatIsHeldLetsGoOnTime(t *testing.T) {
	t.Parallel()
	g := newTargetGate(batch.Target{Name: "t"})
	require.NoError(t, g.wait(t.Context()))
	g.hold(time.Hour)
	g.hold(time.Second) // shorter than the present hold
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.Error(t, g.wait(ctx))
	done := make(chan error, 1)
	go func() { done <- g.wait(t.Context()) }()
	g.hold(0)
	require.NoError(t, <-done)
	for range tripAfter - 1 {
		require.False(t, g.connected(false))
	}
	require.False(t, g.connected(true))
	for range tripAfter - 1 {
		require.False(t, g.connected(false))
	}
	require.True(t, g.connected(false))
}

// frozen is a ledger that answers all begins at once, after a delay.
type frozen struct {
	batch.Ledger
	thawed chan struct{}
}

func (f *frozen) Begin(ctx context.Context, id string, index int, worker string) (*batch.Begun, error) {
	<-f.thawed
	return f.Ledger.Begin(ctx, id, index, worker)
}

func TestARateHoldsAfterTheStoreWasAway(t *testing.T) {
	t.Parallel()
	var seen stamps
	b := setup(t, func(context.Context, *batch.Request, int) *batch.Response {
		seen.add()
		return answer(200)
	})
	b.cfg.Targets[0].Rate, b.cfg.Targets[0].Concurrency = batch.Rate{N: 50, Per: time.Second}, 64
	ledger := &frozen{Ledger: b.store.Ledger, thawed: make(chan struct{})}
	b.cfg.Ledger = ledger
	b.run()
	id := b.submit(60, "POST", nil)
	<-time.After(800 * time.Millisecond)
	thawed := time.Now()
	close(ledger.thawed)
	b.wait(id)
	// A busy machine delays requests, but the time without a store is not made up for.
	slices.SortFunc(seen.at, time.Time.Compare)
	for i, at := range seen.at {
		require.GreaterOrEqual(t, at.Sub(thawed), time.Duration(i-4)*20*time.Millisecond, "request %d", i)
	}
}
