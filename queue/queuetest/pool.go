package queuetest

import (
	"context"
	stdflag "flag"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue/rdb"
)

// Tests share the servers of each kind, since starting a cluster takes longer than most tests. One test
// at a time has each server, and gets it empty.
var (
	servers   = &pool{start: func(tb testing.TB) string { tb.Helper(); return redistest.Start(tb).URL() }}
	sentinels = &pool{start: func(tb testing.TB) string { tb.Helper(); return redistest.StartSentinel(tb) }}
	// Clusters has clusters of three masters.
	Clusters = &pool{start: func(tb testing.TB) string { tb.Helper(); return redistest.StartCluster(tb) }}
)

// stops: Main stops the shared servers after the tests.
var stops bool

// pool keeps servers until all tests have ended.
type pool struct {
	start func(tb testing.TB) string

	mu      sync.Mutex
	idle    []string
	started []*lasting
}

// Take returns the URL of an empty Redis that only this test uses until it ends.
func (p *pool) Take(t *testing.T) string {
	t.Helper()
	require.True(t, stops, "the package needs func TestMain(m *testing.M) { queuetest.Main(m) }, which stops the shared servers")
	url := p.free()
	if url == "" {
		owner := &lasting{TB: t}
		p.mu.Lock()
		p.started = append(p.started, owner)
		p.mu.Unlock()
		url = p.start(owner)
	}
	t.Cleanup(func() {
		require.NoError(t, empty(url))
		p.mu.Lock()
		defer p.mu.Unlock()
		p.idle = append(p.idle, url)
	})
	return url
}

func (p *pool) free() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) == 0 {
		return ""
	}
	last := len(p.idle) - 1
	url := p.idle[last]
	p.idle = p.idle[:last]
	return url
}

func (p *pool) close() {
	for _, owner := range p.started {
		owner.end()
	}
}

// empty resets a Redis to its state at the start.
func empty(url string) error {
	client, err := rdb.Connect(url, time.Minute, nil, nil)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx := context.Background()
	reset := func(ctx context.Context, c *redis.Client) error {
		_, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
			p.FlushAll(ctx)
			p.ScriptFlush(ctx)
			p.ConfigSet(ctx, "min-replicas-to-write", "0")
			return nil
		})
		return err
	}
	switch c := client.(type) {
	case *redis.ClusterClient:
		return c.ForEachMaster(ctx, reset)
	case *redis.Client:
		return reset(ctx, c)
	}
	return nil
}

// lasting is a test for redistest whose cleanups run after all tests, so that its servers outlive it.
type lasting struct {
	testing.TB

	mu      sync.Mutex
	cleanup []func()
}

// Cleanup implements [testing.TB].
func (l *lasting) Cleanup(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cleanup = append(l.cleanup, f)
}

// TempDir implements [testing.TB].
func (l *lasting) TempDir() string {
	dir, err := os.MkdirTemp("", "batchd-queue-")
	require.NoError(l.TB, err)
	l.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (l *lasting) end() {
	for _, f := range slices.Backward(l.cleanup) {
		f()
	}
}

// Main is the TestMain of a package whose tests need Redis. It discards the messages of the Redis client, stops the
// shared servers after the tests, and fails if a goroutine still runs then.
func Main(m *testing.M) {
	rdb.SetLogger(slog.New(slog.DiscardHandler))
	stops = true
	goleak.VerifyTestMain(pooled{m})
}

// pooled is a [testing.M] that stops the shared servers after the tests.
type pooled struct{ m *testing.M }

// Run runs the tests, twice as many at a time as there are processors, since most of them wait for Redis.
func (p pooled) Run() int {
	stdflag.Parse()
	asked := false
	stdflag.Visit(func(f *stdflag.Flag) { asked = asked || f.Name == "test.parallel" })
	if !asked {
		_ = stdflag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0))) // never fails for a number
	}
	code := p.m.Run()
	for _, p := range []*pool{servers, sentinels, Clusters} {
		p.close()
	}
	return code
}
