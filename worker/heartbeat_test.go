package worker

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

func TestTheSilenceOfOthersMeansNothingWhileOneIsUnsteadyOneself(t *testing.T) {
	t.Parallel()
	now := time.Unix(0, 0)
	var p pulse
	step := func(d time.Duration, ok bool) bool {
		now = now.Add(d)
		return p.beat(now, ok)
	}
	require.False(t, step(0, true))
	for range 3 {
		require.False(t, step(batch.BeatEvery, true))
	}
	require.True(t, step(batch.BeatEvery, true))
	require.True(t, step(batch.BeatEvery, true))
	require.False(t, step(batch.BeatEvery, false), "the store is away")
	for range 4 {
		require.False(t, step(batch.BeatEvery, true), "it came back, and others had no time to beat")
	}
	require.True(t, step(batch.BeatEvery, true))
	require.False(t, step(time.Minute, true), "the process itself stood still")
}

// flaky is a registry that accepts only every third heartbeat.
type flaky struct {
	silent
	n     int
	taken []time.Time
}

func (f *flaky) Beat(context.Context, string) ([]string, error) {
	if f.n++; f.n%3 != 0 {
		return nil, &batch.UnavailableError{Err: errors.New("OOM no room")}
	}
	f.taken = append(f.taken, time.Now())
	return nil, nil
}

func TestAWorkerWhoseHeartbeatsAreRefusedIsNotTakenForDead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		registry := &flaky{}
		w := &Worker{cfg: Config{Name: "w", Registry: registry}, log: slog.New(slog.DiscardHandler)}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		(&heartbeat{w, make(chan []string, 1)}).run(ctx)
		require.Greater(t, len(registry.taken), 20)
		for i, at := range registry.taken[1:] {
			require.Less(t, at.Sub(registry.taken[i]), batch.DeadAfter/2)
		}
	})
}

func TestWhatADeadWorkerHeldIsResolvedSoon(t *testing.T) {
	t.Parallel()
	b := setup(t, func(context.Context, *batch.Request, int) *batch.Response { return answer(200) })
	// A worker takes both tasks from asynq, begins the actions, and dies: its tasks are
	// active, and their lease lasts for half a minute.
	hang := make(chan struct{})
	started := make(chan struct{}, 2)
	b.do = func(_ context.Context, r *batch.Request, attempt int) *batch.Response {
		if attempt == 1 {
			started <- struct{}{}
			<-hang
		}
		return answer(200)
	}
	b.cfg.Name, b.cfg.Registry, b.cfg.Drain = "dead", silent{}, 30*time.Second
	b.cfg.Targets[0].Concurrency = 2 // so it takes no further tasks, like a dead one
	stopDead := b.run()
	post, get := b.submit(1, "POST", nil), b.submit(1, "GET", nil)
	<-started
	<-started
	_, err := b.store.Ledger.Workers.Beat(t.Context(), "dead") // its last heartbeat
	require.NoError(t, err)

	b.cfg.Name, b.cfg.Registry = "alive", b.store.Sweeper.Recovery
	b.cfg.Targets = []batch.Target{b.cfg.Targets[0]}
	b.cfg.Targets[0].Concurrency = 8
	b.run()
	began := time.Now()
	_, results := b.wait(post)
	require.Equal(t, batch.Unknown, results[0].Outcome)
	_, results = b.wait(get)
	require.Equal(t, batch.Succeeded, results[0].Outcome)
	require.Equal(t, 2, results[0].Attempts)
	require.Less(t, time.Since(began), 25*time.Second, "the lease lasts for 30 s")
	close(hang) // the dead worker wakes up, and its result is refused
	stopDead()
	_, results = b.wait(post)
	require.Equal(t, batch.Unknown, results[0].Outcome)
	require.Equal(t, 1, b.attempts(post, 0))
}

func TestAWorkerIsKnownBeforeItTakesAnything(t *testing.T) {
	t.Parallel()
	b := setup(t, func(context.Context, *batch.Request, int) *batch.Response { return answer(200) })
	id := b.submit(1, "GET", nil)
	early := make(chan int, 1)
	b.cfg.Registry = &slow{Registry: b.store.Sweeper.Recovery, first: func() {
		time.Sleep(400 * time.Millisecond) // long enough for a server to take the task
		early <- b.attempts(id, 0)
	}}
	b.run()
	require.Zero(t, <-early)
	b.wait(id)
}

// slow is a registry whose first heartbeat takes long.
type slow struct {
	batch.Registry
	once  sync.Once
	first func()
}

func (s *slow) Beat(ctx context.Context, worker string) ([]string, error) {
	s.once.Do(s.first)
	return s.Registry.Beat(ctx, worker)
}

// silent is a registry for a worker whose heartbeats never arrive.
type silent struct{}

func (silent) Beat(context.Context, string) ([]string, error)         { return nil, nil }
func (silent) Leave(context.Context, string) error                    { return nil }
func (silent) Recover(context.Context, string, []string) (int, error) { return 0, nil }
