package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue"
	"github.com/batchd/batchd/queue/consumer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bundle is a store, a worker on it, and a target that is a function.
type bundle struct {
	t     *testing.T
	store *queue.Store
	cfg   Config
	do    func(ctx context.Context, r *batch.Request, attempt int) *batch.Response

	unreachable atomic.Bool
	probes      atomic.Int64 // failed probes

	mu   sync.Mutex
	seen map[string]int // attempts by batch and index
}

// endless is longer than any test runs. Tests with it wait for the event itself, even on a busy
// machine.
const endless = time.Hour

func setup(t *testing.T, do func(ctx context.Context, r *batch.Request, attempt int) *batch.Response) *bundle {
	t.Helper()
	return setupOn(t, queue.Config{}, do)
}

func setupOn(t *testing.T, cfg queue.Config, do func(ctx context.Context, r *batch.Request, attempt int) *batch.Response) *bundle {
	t.Helper()
	cfg.Timeout = cmp.Or(cfg.Timeout, endless) // on a busy machine Redis may be slow, but is not unavailable
	s, err := queue.Open(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	b := &bundle{t: t, store: s, do: do, seen: map[string]int{}}
	b.cfg = Config{
		Name: "w1", Ledger: s.Ledger, Dispatcher: b, Sweeper: s.Sweeper, Registry: s.Sweeper.Recovery, Gate: s.Gate, Prober: b, NewServer: consumer.New(s).NewServer, Drain: time.Second, Logger: slog.New(slog.DiscardHandler),
		Targets: []batch.Target{{Name: "crm", BaseURL: "http://127.0.0.1", Concurrency: 8, Retry: batch.Retry{Attempts: 3, Base: time.Millisecond}}},
	}
	return b
}

// Do implements [batch.Dispatcher].
func (b *bundle) Do(ctx context.Context, r *batch.Request) *batch.Response {
	if r.Ready != nil {
		if err := r.Ready(ctx); err != nil {
			return &batch.Response{Unsent: true, Repeat: true, Result: batch.Result{Outcome: batch.Errored, Error: &batch.Failure{Code: batch.CodeInterrupted}}}
		}
	}
	b.mu.Lock()
	key := fmt.Sprintf("%s:%d", r.BatchID, r.Index)
	b.seen[key]++
	n := b.seen[key]
	b.mu.Unlock()
	return b.do(ctx, r, n)
}

// Probe implements [batch.Prober].
func (b *bundle) Probe(context.Context, string) error {
	if b.unreachable.Load() {
		b.probes.Add(1)
		return errors.New("refused")
	}
	return nil
}

// Repeatable implements [batch.Dispatcher].
func (b *bundle) Repeatable(_ string, a *batch.Action) bool { return a.Method != http.MethodPost }

// attempts returns the number of times that an action was sent.
func (b *bundle) attempts(id string, index int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.seen[fmt.Sprintf("%s:%d", id, index)]
}

// run runs a worker until the caller calls stop, which waits for its end.
func (b *bundle) run() (stop func()) {
	b.t.Helper()
	w, err := New(b.cfg)
	require.NoError(b.t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.t.Context()))
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			require.NoError(b.t, <-done)
		})
	}
	b.t.Cleanup(stop)
	return stop
}

func (b *bundle) submit(n int, method string, change func(*batch.Spec)) string {
	b.t.Helper()
	u, err := b.store.Open(b.t.Context(), "me", "")
	require.NoError(b.t, err)
	for i := range n {
		require.NoError(b.t, u.Add(b.t.Context(), &batch.Action{Method: method, Path: fmt.Sprintf("/%d", i)}))
	}
	s := &batch.Spec{Target: "crm", ExpiresIn: time.Hour, Retention: time.Hour}
	if change != nil {
		change(s)
	}
	got, _, err := u.Commit(b.t.Context(), s)
	require.NoError(b.t, err)
	return got.ID
}

// wait waits for the end of a batch and returns its results.
func (b *bundle) wait(id string) (*batch.Batch, []batch.Result) {
	b.t.Helper()
	var got *batch.Batch
	require.Eventually(b.t, func() bool {
		var err error
		got, err = b.store.Get(b.t.Context(), "me", id, 0)
		require.NoError(b.t, err)
		return got.Status.Terminal()
	}, endless, 5*time.Millisecond)
	page, err := b.store.Results(b.t.Context(), "me", id, batch.ResultQuery{Limit: 10_000})
	require.NoError(b.t, err)
	results := make([]batch.Result, len(page.Results))
	for i, encoded := range page.Results {
		require.NoError(b.t, results[i].UnmarshalJSON(encoded))
		require.Equal(b.t, i, results[i].Index)
		if results[i].Outcome == batch.Unknown {
			require.Contains(b.t, string(encoded), `"sent_at":"20`)
		}
	}
	require.Len(b.t, results, got.Counts.Total)
	return got, results
}

func answer(status int) *batch.Response {
	o := batch.Succeeded
	if status >= 400 {
		o = batch.Failed
	}
	return &batch.Response{Result: batch.Result{Outcome: o, Status: status, StartedAt: time.Now(), Duration: time.Millisecond}}
}
