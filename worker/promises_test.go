package worker

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/consumer"
)

// unsteady is a registry that names a dead worker with every heartbeat that it answers.
type unsteady struct {
	fails     func(beat int) bool
	mu        sync.Mutex
	beats     int
	recovered []time.Time
	left      bool
}

func (u *unsteady) Beat(context.Context, string) ([]string, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.beats++
	if u.fails(u.beats) {
		return nil, errors.New("away")
	}
	return []string{"dead"}, nil
}

func (u *unsteady) Leave(context.Context, string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.left = true
	return nil
}

func (u *unsteady) Recover(context.Context, string, []string) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.recovered = append(u.recovered, time.Now())
	return 0, nil
}

func TestAWorkerWithAnUnsteadyPulseTakesNothingOver(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fails func(beat int) bool
		want  bool
	}{
		"every beat succeeds":      {func(int) bool { return false }, true},
		"every second beat fails":  {func(beat int) bool { return beat%2 == 0 }, false},
		"every fourth beat fails":  {func(beat int) bool { return beat%4 == 0 }, false},
		"only the last beat fails": {func(beat int) bool { return beat == 30 }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				registry := &unsteady{fails: c.fails}
				w, err := New(Config{Name: "w1", Registry: registry})
				require.NoError(t, err)
				ctx, cancel := context.WithCancel(t.Context())
				began := time.Now()
				dead := make(chan []string)
				go (&heartbeat{w, dead}).run(ctx)
				go (&recovery{w, dead}).run(ctx)
				time.Sleep(30 * batch.BeatEvery)
				cancel()
				synctest.Wait()
				w.hooks.close()
				require.Equal(t, c.want, len(registry.recovered) > 0)
				for _, at := range registry.recovered {
					require.GreaterOrEqual(t, at.Sub(began), batch.DeadAfter, "silence means nothing to a worker that has just begun")
				}
				require.True(t, registry.left)
			})
		})
	}
}

// scripted is a ledger with one action, which releases and finishes attempts at once.
type scripted struct {
	batch.Ledger
	attempt  int
	released int
}

func (s *scripted) Begin(context.Context, string, int, string) (*batch.Begun, error) {
	s.attempt++
	now := time.Now()
	return &batch.Begun{
		Verdict: batch.Run, Action: batch.Action{Method: http.MethodGet, Path: "/"}, Target: "crm", Token: "t",
		Attempt: s.attempt, FirstAt: now, StartedAt: now, ExpiresAt: now.Add(time.Hour),
	}, nil
}

func (s *scripted) Abandon(string, int, batch.Token) {}

func (s *scripted) Release(context.Context, string, int, batch.Token, *batch.Result) (bool, error) {
	s.released++
	return true, nil
}

func (s *scripted) Finish(context.Context, string, int, batch.Token, *batch.Result) error { return nil }

// The task returns to the queue with the delay that the policy chooses for the next
// attempt.
func TestATaskComesAgainWhenThePolicySays(t *testing.T) {
	t.Parallel()
	var asked time.Duration
	b := setup(t, func(context.Context, *batch.Request, int) *batch.Response {
		resp := answer(http.StatusServiceUnavailable)
		resp.Repeat, resp.After = true, asked
		return resp
	})
	ledger := &scripted{}
	b.cfg.Ledger = ledger
	b.cfg.Targets[0].Retry = batch.Retry{Attempts: 4, Base: 20 * time.Second, Max: 10 * time.Minute, Budget: time.Hour}
	w, err := New(b.cfg)
	require.NoError(t, err)
	defer w.hooks.close()
	for i, c := range []struct{ asked, low, high time.Duration }{
		{0, 10 * time.Second, 20 * time.Second},
		{0, 20 * time.Second, 40 * time.Second},
		{5 * time.Minute, 5 * time.Minute, 5*time.Minute + 30*time.Second},
	} {
		asked = c.asked
		err := w.action("batch", 0, new(consumer.Slot))
		later := (*laterError)(nil)
		require.ErrorAs(t, err, &later)
		require.GreaterOrEqual(t, later.after, c.low)
		require.LessOrEqual(t, later.after, c.high+time.Millisecond)
		require.Equal(t, i+1, ledger.released)
		told := retryDelay(0, err, nil)
		require.GreaterOrEqual(t, told, later.after, "never early")
		require.Less(t, told, later.after+time.Second)
	}
	require.NoError(t, w.action("batch", 0, new(consumer.Slot)), "the last attempt is recorded")
	require.Equal(t, 3, ledger.released)
}

// closing is a store that becomes available only after the worker was told to end.
type closing struct {
	batch.Ledger
	refused atomic.Int32
	back    atomic.Bool
}

func (c *closing) Finish(ctx context.Context, id string, index int, token batch.Token, r *batch.Result) error {
	if !c.back.Load() {
		c.refused.Add(1)
		return &batch.UnavailableError{RetryAfter: time.Second, Err: errors.New("away")}
	}
	return c.Ledger.Finish(ctx, id, index, token, r)
}

func TestAResultIsOfferedAgainThroughAShutdown(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		drain time.Duration
		until func(w *Worker) bool
	}{
		"while the worker drains":             {20 * time.Second, func(*Worker) bool { return true }},
		"after the time for draining is over": {time.Millisecond, func(w *Worker) bool { return w.held.Err() != nil }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, func(context.Context, *batch.Request, int) *batch.Response { return answer(http.StatusCreated) })
			ledger := &closing{Ledger: b.store.Ledger}
			b.cfg.Ledger, b.cfg.Drain = ledger, c.drain
			w, err := New(b.cfg)
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- w.Run(ctx) }()
			id := b.submit(1, http.MethodPost, nil)
			offers := func(n int32) {
				require.Eventually(t, func() bool { return ledger.refused.Load() >= n }, 30*time.Second, time.Millisecond)
			}
			offers(1)
			cancel()
			require.Eventually(t, func() bool { return c.until(w) }, 30*time.Second, time.Millisecond)
			offers(ledger.refused.Load() + 2)
			ledger.back.Store(true)
			require.NoError(t, <-done)
			got, err := b.store.Get(t.Context(), "me", id, 1)
			require.NoError(t, err)
			require.Equal(t, batch.Counts{Total: 1, Succeeded: 1}, got.Counts, "it is recorded when the worker has ended")
			require.Equal(t, 1, b.attempts(id, 0))
		})
	}
}

// counting is a registry that reports when its worker beats and when it leaves.
type counting struct {
	batch.Registry
	beats chan struct{}
	left  atomic.Bool
}

func (c *counting) Beat(ctx context.Context, worker string) ([]string, error) {
	select {
	case c.beats <- struct{}{}:
	default:
	}
	return c.Registry.Beat(ctx, worker)
}

func (c *counting) Leave(ctx context.Context, worker string) error {
	c.left.Store(true)
	return c.Registry.Leave(ctx, worker)
}

// await waits for a number of heartbeats.
func (c *counting) await(t *testing.T, n int) {
	t.Helper()
	for range n {
		select {
		case <-c.beats:
		case <-time.After(3 * batch.DeadAfter):
			require.Fail(t, "the worker does not beat any more")
		}
	}
}

// A worker that drains for longer than a worker may be silent is still alive: its actions
// in flight stay its own, although a second worker looks for dead workers.
func TestAWorkerIsAliveWhileItDrains(t *testing.T) {
	t.Parallel()
	const beats = int(batch.DeadAfter/batch.BeatEvery) + 1 // a pulse is steady after that
	started, answerNow := make(chan struct{}), make(chan struct{})
	b := setup(t, func(context.Context, *batch.Request, int) *batch.Response {
		close(started)
		<-answerNow
		return answer(http.StatusOK)
	})
	firstBeats := &counting{Registry: b.store.Sweeper.Recovery, beats: make(chan struct{}, 1)}
	b.cfg.Drain, b.cfg.Registry = time.Minute, firstBeats
	first, err := New(b.cfg)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- first.Run(ctx) }()
	id := b.submit(1, http.MethodPost, nil)
	<-started
	secondBeats := &counting{Registry: b.store.Sweeper.Recovery, beats: make(chan struct{}, 1)}
	b.cfg.Name, b.cfg.Registry, b.cfg.Targets = "w2", secondBeats, []batch.Target{b.cfg.Targets[0]}
	b.run()
	cancel() // the first worker drains
	secondBeats.await(t, beats+1)
	firstBeats.await(t, 2)
	require.False(t, firstBeats.left.Load(), "it leaves when it has drained")
	got, err := b.store.Get(t.Context(), "me", id, 0)
	require.NoError(t, err)
	require.Equal(t, batch.Counts{Total: 1, Pending: 1}, got.Counts)
	close(answerNow)
	require.NoError(t, <-done)
	require.True(t, firstBeats.left.Load())
	got, _ = b.wait(id)
	require.Equal(t, batch.Counts{Total: 1, Succeeded: 1}, got.Counts)
	require.Equal(t, 1, b.attempts(id, 0))
}
