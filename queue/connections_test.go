package queue

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue/rdb"
)

// distantly returns a store whose Redis is a round trip away.
func distantly(t *testing.T, trip time.Duration) (*bundle, *redistest.Distant) {
	t.Helper()
	upstream := strings.TrimSuffix(strings.TrimPrefix(servers.take(t), "redis://"), "/0")
	d := redistest.StartDistant(t, upstream, trip)
	return open(t, d.URL()), d
}

// A connection that is opened when it is needed costs the exchange three more round trips.
func TestAWorkerOpensItsConnectionsToADistantRedisAheadOfNeed(t *testing.T) {
	t.Parallel()
	const trip = 100 * time.Millisecond
	b, distant := distantly(t, trip)
	server, stop := b.serve(Line{Target: "crm", Places: 8, Rate: batch.Rate{N: 10, Per: time.Second}}, func(int, *Place) error { return nil })
	defer stop()
	atOnce := flights + int(trip/flightWait)
	require.GreaterOrEqual(t, server.taker.connections(trip), atOnce+spareConns)
	c, _ := b.db.Client.(*redis.Client)
	b.eventually("open connections", func() bool { return int(c.PoolStats().IdleConns) >= atOnce })
	opened := distant.Opened()
	var pings sync.WaitGroup
	for range atOnce {
		pings.Go(func() { require.NoError(t, b.db.Client.Ping(b.ctx).Err()) })
	}
	pings.Wait()
	require.Equal(t, opened, distant.Opened())
	for range atOnce { // begins and finishes are
		pings.Go(func() {
			_, err := b.db.Client.Pipelined(b.ctx, func(p redis.Pipeliner) error { return p.Ping(b.ctx).Err() })
			require.NoError(t, err)
		})
	}
	pings.Wait()
	require.Equal(t, opened, distant.Opened(), "pipelines use the same connections")
	known, err := b.db.Client.ScriptExists(b.ctx, b.steps.begin.Hash(), b.steps.finish.Hash(), pollStep.Hash(), b.steps.reserve.Hash()).Result()
	require.NoError(t, err)
	require.Equal(t, []bool{true, true, true, true}, known)
}

// A worker that gives back many actions at once leaves connections to the steps of all others.
func TestManyReleasesAtOnceLeaveConnectionsToOthers(t *testing.T) {
	t.Parallel()
	b, distant := distantly(t, 100*time.Millisecond)
	const n = 100
	id := b.submit(n, spec()).ID
	tokens := make([]batch.Token, n)
	var begins, releases sync.WaitGroup
	var given atomic.Int32
	for i := range n {
		begins.Go(func() {
			if begun, err := b.Begin(b.ctx, id, i, "w"); err == nil {
				tokens[i] = begun.Token
			}
		})
	}
	begins.Wait()
	require.NotContains(t, tokens, batch.Token(""))
	opened := distant.Opened()
	for i, token := range tokens {
		releases.Go(func() {
			if released, err := b.GiveBack(b.ctx, id, i, token); err == nil && released {
				given.Add(1)
			}
		})
	}
	releases.Wait()
	require.Equal(t, int32(n), given.Load())
	require.Less(t, distant.Opened()-opened, rdb.PoolSize/2)
}

// What a client says to a server before it uses a connection is on the way to each begin that
// finds no connection open.
func TestANewConnectionTakesTwoExchanges(t *testing.T) {
	t.Parallel()
	const trip = 300 * time.Millisecond // a busy client sends the parts of a message in less
	b, distant := distantly(t, trip)
	require.NoError(t, b.db.Client.Ping(b.ctx).Err())
	require.Equal(t, 1, distant.Opened())
	require.Equal(t, 3, distant.Exchanges(), "the connection's two, and its own")
}
