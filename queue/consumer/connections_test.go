package consumer

import (
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/batcher"
	"github.com/batchd/batchd/queue/ledger"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/tasks"
	"github.com/batchd/batchd/queue/throttle"
)

// A connection that is opened when it is needed costs the exchange three more round trips.
func TestAWorkerOpensItsConnectionsToADistantRedisAheadOfNeed(t *testing.T) {
	t.Parallel()
	const trip = 100 * time.Millisecond
	shared, distant := queuetest.OpenDistant(t, trip)
	b := local(shared)
	server, stop := b.serve(Target{Name: "crm", Slots: 8, Rate: batch.Rate{N: 10, Per: time.Second}}, func(int, *Slot) error { return nil })
	defer stop()
	atOnce := batcher.MaxExchanges(trip) - 1
	require.GreaterOrEqual(t, server.consumer.connections(trip), atOnce+spareConns)
	c, _ := b.DB.Client.(*redis.Client)
	b.Eventually("open connections", func() bool { return int(c.PoolStats().IdleConns) >= atOnce })
	opened := distant.Opened()
	var pings sync.WaitGroup
	for range atOnce {
		pings.Go(func() { require.NoError(t, b.DB.Client.Ping(b.Ctx).Err()) })
	}
	pings.Wait()
	require.Equal(t, opened, distant.Opened())
	for range atOnce { // begins and finishes are
		pings.Go(func() {
			_, err := b.DB.Client.Pipelined(b.Ctx, func(p redis.Pipeliner) error { return p.Ping(b.Ctx).Err() })
			require.NoError(t, err)
		})
	}
	pings.Wait()
	require.Equal(t, opened, distant.Opened(), "pipelines use the same connections")
	known, err := b.DB.Client.ScriptExists(b.Ctx, ledger.Steps.Begin.Hash(), ledger.Steps.Finish.Hash(), tasks.Steps.Poll.Hash(), throttle.Steps.Reserve.Hash()).Result()
	require.NoError(t, err)
	require.Equal(t, []bool{true, true, true, true}, known)
}
