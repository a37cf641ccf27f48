package worker

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

// slowWorld is a store and a prober with some duties that never end.
type slowWorld struct {
	batch.Ledger
	batch.Dispatcher

	mu       sync.Mutex
	beats    []time.Time
	sweeps   []time.Time
	feeds    atomic.Int32
	recovers atomic.Int32
	probes   sync.Map
}

func (s *slowWorld) Beat(context.Context, string) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.beats = append(s.beats, time.Now())
	return []string{"dead"}, nil
}

func (s *slowWorld) Leave(context.Context, string) error { return nil }

func (s *slowWorld) Recover(ctx context.Context, _ string, _ []string) (int, error) {
	s.recovers.Add(1)
	<-ctx.Done() // it reads very many batches
	return 0, ctx.Err()
}

func (s *slowWorld) Sweep(context.Context, string) (batch.Swept, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweeps = append(s.sweeps, time.Now())
	return batch.Swept{}, true, nil
}

func (s *slowWorld) ReleaseThrottled(context.Context) (int, error) {
	s.feeds.Add(1)
	return 1, nil
}

func (s *slowWorld) Resign(context.Context, string) error { return nil }

func (s *slowWorld) Holds(func(string, time.Duration)) func() { return func() {} }
func (s *slowWorld) Tripped(context.Context) ([]string, error) {
	return unreachables(), nil
}
func (s *slowWorld) Hold(context.Context, string, time.Duration) error { return nil }
func (s *slowWorld) Trip(context.Context, string) (bool, error)        { return false, nil }
func (s *slowWorld) Reset(context.Context, string) error               { return nil }

func (s *slowWorld) Probe(ctx context.Context, target string) error {
	n, _ := s.probes.LoadOrStore(target, &atomic.Int32{})
	n.(*atomic.Int32).Add(1)
	<-ctx.Done() // the target never sends a packet
	return ctx.Err()
}

func unreachables() (names []string) {
	for i := range 8 {
		names = append(names, fmt.Sprintf("target%d", i))
	}
	return names
}

// A recovery that never ends and eight unreachable targets do not delay the heartbeat, the
// rounds of the sweeper, or throttled actions.
func TestASlowServiceDelaysNoOther(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		world := &slowWorld{}
		cfg := Config{Name: "w1", Registry: world, Sweeper: world, Gate: world, Prober: world}
		for _, name := range unreachables() {
			cfg.Targets = append(cfg.Targets, batch.Target{Name: name, BaseURL: "http://" + name + ".invalid"})
		}
		w, err := New(cfg)
		require.NoError(t, err)
		defer w.hooks.close()
		ctx, cancel := context.WithCancel(t.Context())
		heartbeat, services := w.services()
		for _, s := range append(services, heartbeat) {
			s.Start(ctx)
		}
		began := time.Now()
		time.Sleep(time.Minute)
		cancel()
		for _, s := range append(services, heartbeat) {
			s.Stop()
			s.Stop()
		}
		require.Equal(t, int32(1), world.recovers.Load(), "one recovery at a time")
		for what, times := range map[string][]time.Time{"heartbeats": world.beats, "sweeps": world.sweeps} {
			last := began
			for _, at := range append(times, began.Add(time.Minute)) {
				require.LessOrEqual(t, at.Sub(last), 2*sweepEvery, what)
				last = at
			}
		}
		require.Greater(t, world.feeds.Load(), int32(200))
		for _, target := range unreachables() {
			n, ok := world.probes.Load(target)
			require.True(t, ok, target)
			require.Greater(t, n.(*atomic.Int32).Load(), int32(10), "each is tried more often than a hold lasts")
		}
	})
}

func TestAServiceThatWasNeverStartedStops(t *testing.T) {
	t.Parallel()
	s := newService(func(context.Context) { t.Error("it runs") })
	s.Stop()
	s.Start(t.Context())
	s.Stop()
}
