package index_test

import (
	"context"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue"
	"github.com/batchd/batchd/queue/batches"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/rdb"
)

func TestBatchesStayInDoubtIfRedisRefusesToReopenThem(t *testing.T) {
	t.Parallel()
	b, p := queuetest.BehindProxy(t)
	id := b.Submit(1, queuetest.Spec()).ID
	refuse := redistest.Rule{Reply: queuetest.NoRoom, Way: redistest.Refused, Match: func(words []string) bool {
		return words[0] == "ZADD" && slices.Contains(words, id)
	}}
	stop := p.Answer(refuse)
	b.Batches.Doubts.Counts()[id] = 1 // without the goroutine that reopens it in the background
	_, err := b.Batches.Doubts.ReopenOnce(b.Ctx)
	require.Error(t, err)
	require.Contains(t, b.Batches.Doubts.Counts(), id)
	require.Positive(t, stop())
	none, err := b.Batches.Doubts.ReopenOnce(b.Ctx)
	require.NoError(t, err)
	require.True(t, none)
	require.Empty(t, b.Batches.Doubts.Counts())
}

func TestAStoreThatClosesReopensWhatIsDoubted(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	b := queuetest.Open(t, s.URL())
	id := b.Submit(1, queuetest.Spec()).ID
	b.Round()
	score := func(b *queuetest.Bundle) float64 { return b.DB.Client.ZScore(b.Ctx, keys.OpenKey, id).Val() }
	require.Positive(t, score(b))
	other, err := queue.Open(queue.Config{Redis: rdb.Config{URL: rdb.URL(s.URL())}})
	require.NoError(t, err)
	other.Background.Stop() // nothing runs in the background any more
	other.Batches.Doubts.Add(id)
	require.NoError(t, other.Close())
	require.Negative(t, score(b))
}

// The step may have ended the batch, after a sweeper has looked at it.
func TestABatchWhoseCancelHasNoReplyIsDueAtOnce(t *testing.T) {
	t.Parallel()
	b := queuetest.Open(t, redistest.Start(t).URL())
	id := b.Submit(1, queuetest.Spec()).ID
	require.NoError(t, batches.Steps.Stop.Load(b.Ctx, b.DB.Client).Err())
	b.Interrupt(batches.Steps.Stop.Hash(), false, func() {
		require.NoError(t, b.DB.Client.ZAdd(b.Ctx, keys.OpenKey, redis.Z{Member: id, Score: float64(time.Now().Add(time.Hour).UnixMilli())}).Err())
	})
	b.DB.Client.AddHook(&queuetest.LostReplies{Left: 1, Only: batches.Steps.Stop.Hash()})
	_, err := b.Cancel(b.Ctx, "me", id)
	require.ErrorIs(t, err, net.ErrClosed)
	b.Eventually("the batch is due", func() bool { return b.DB.Client.ZScore(b.Ctx, keys.OpenKey, id).Val() < 0 })
}

func TestAStoreWhoseRedisIsAwayClosesSoon(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s, err := queue.Open(queue.Config{Redis: rdb.Config{URL: rdb.URL(server.URL())}})
	require.NoError(t, err)
	require.NoError(t, s.Ping(context.Background()))
	server.Freeze()
	defer server.Thaw()
	s.Batches.Doubts.Add("a")
	began := time.Now()
	require.NoError(t, s.Close())
	require.Less(t, time.Since(began), 5*rdb.DefaultTimeout)
}
