package queue_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/rdb"
)

// A worker that gives back many actions at once leaves connections to the steps of all others.
func TestManyReleasesAtOnceLeaveConnectionsToOthers(t *testing.T) {
	t.Parallel()
	shared, distant := queuetest.OpenDistant(t, 100*time.Millisecond)
	b := local(shared)
	const n = 100
	id := b.Submit(n, queuetest.Spec()).ID
	tokens := make([]batch.Token, n)
	var begins, releases sync.WaitGroup
	var given atomic.Int32
	for i := range n {
		begins.Go(func() {
			if begun, err := b.Ledger.Begin(b.Ctx, id, i, "w"); err == nil {
				tokens[i] = begun.Token
			}
		})
	}
	begins.Wait()
	require.NotContains(t, tokens, batch.Token(""))
	opened := distant.Opened()
	for i, token := range tokens {
		releases.Go(func() {
			if released, err := b.Ledger.GiveBack(b.Ctx, id, i, token); err == nil && released {
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
	shared, distant := queuetest.OpenDistant(t, trip)
	b := local(shared)
	require.NoError(t, b.DB.Client.Ping(b.Ctx).Err())
	require.Equal(t, 1, distant.Opened())
	require.Equal(t, 3, distant.Exchanges(), "the connection's two, and its own")
}
