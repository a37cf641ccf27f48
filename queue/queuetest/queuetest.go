// Package queuetest has what the tests of queue and of the packages around it share: a store on every
// kind of Redis, batches to submit, a look at the tasks in Redis, and hooks that lose or refuse commands.
//
// It imports queue, so a test of a package below queue must be in an external test package to use it.
// The tests of internal/redistest's servers, of the API and of the worker have helpers of their own.
package queuetest

import (
	"context"
	"crypto/rand"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/queue"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
)

// Bundle is a store with the test that it belongs to. Its methods fail the test if the store returns an
// error.
type Bundle struct {
	*queue.Store
	T *testing.T
	// Ctx ends with the test.
	Ctx context.Context //nolint:containedctx // it ends with the test, not with a call
}

// OnEveryStore runs a test against each kind of Redis that the store supports.
func OnEveryStore(t *testing.T, test func(t *testing.T, b *Bundle)) {
	t.Helper()
	OnStores(t, test, "embedded", "server", "sentinel", "cluster")
}

// OnStores runs a test against some kinds of Redis: "embedded", "server", "sentinel" and "cluster". A slow
// test of behaviour that is the same on all of them needs only one.
func OnStores(t *testing.T, test func(t *testing.T, b *Bundle), kinds ...string) {
	t.Helper()
	t.Parallel()
	urls := map[string]func(t *testing.T) string{
		"embedded": func(*testing.T) string { return rdb.Embedded },
		"server":   servers.Take,
		"sentinel": sentinels.Take,
		"cluster":  Clusters.Take,
	}
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			test(t, Open(t, urls[kind](t)))
		})
	}
}

// Endless is longer than any test runs.
const Endless = time.Hour

// Open opens a store that waits for Redis without a limit, however busy the machine is. A test of a Redis
// that does not reply uses [OpenWithDefaultTimeout].
func Open(t *testing.T, url string) *Bundle {
	t.Helper()
	b := openFor(t, url, Endless)
	b.Sweeper.Timing.SlowFor, b.Sweeper.Timing.LookFor = Endless, Endless // nor is the time of a sweep limited
	return b
}

// OpenWithDefaultTimeout opens a store that waits for Redis as in production.
func OpenWithDefaultTimeout(t *testing.T, url string) *Bundle {
	t.Helper()
	return openFor(t, url, rdb.DefaultTimeout)
}

func openFor(t *testing.T, url string, timeout time.Duration) *Bundle {
	t.Helper()
	secret := make([]byte, 32)
	_, _ = rand.Read(secret)
	s, err := queue.Open(queue.Config{Redis: rdb.Config{URL: rdb.URL(url)}, Timeout: timeout, Seal: seal.Config{Keys: []seal.Key{seal.NewKey("test", secret)}}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	s.DB.Client.AddHook(noTransactions{t})
	s.Fanout.RecordPause = 0
	return &Bundle{Store: s, T: t, Ctx: t.Context()}
}

// SetTimeout changes how long an open store waits for an exchange.
func SetTimeout(s *queue.Store, timeout time.Duration) {
	s.DB.Timeout = timeout
	switch c := s.DB.Client.(type) {
	case *redis.ClusterClient:
		c.Options().ReadTimeout, c.Options().WriteTimeout = timeout, timeout
	case *redis.Client:
		c.Options().ReadTimeout, c.Options().WriteTimeout = timeout, timeout
	}
}

// Eventually waits up to a minute for a condition that background work brings about.
func (b *Bundle) Eventually(what string, check func() bool) {
	b.T.Helper()
	require.Eventually(b.T, check, time.Minute, 5*time.Millisecond, what)
}

// Must returns v, and panics if there is an error.
func Must[T any](v T, err error) T {
	if err != nil {
		panic(fmt.Sprint(err))
	}
	return v
}

// ErrorOf returns the error of a call that returns a value as well.
func ErrorOf[T any](_ T, err error) error { return err }
