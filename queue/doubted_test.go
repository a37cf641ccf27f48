package queue

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue/rdb"
)

func TestDoubtsThatRedisWasNotToldOfStay(t *testing.T) {
	t.Parallel()
	b, p := behindProxy(t)
	id := b.submit(1, spec()).ID
	refuse := redistest.Rule{Reply: noRoom, Way: redistest.Refused, Match: func(words []string) bool {
		return words[0] == "ZADD" && slices.Contains(words, id)
	}}
	stop := p.Answer(refuse)
	b.doubted.ids = map[string]int{id: 1} // without the task that reopens it in the background
	_, err := b.reopenDoubted(b.ctx, 0)
	require.Error(t, err)
	require.Contains(t, b.doubted.ids, id)
	require.Positive(t, stop())
	none, err := b.reopenDoubted(b.ctx, 0)
	require.NoError(t, err)
	require.True(t, none)
	require.Empty(t, b.doubted.ids)
}

func TestAStoreThatClosesReopensWhatIsDoubted(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	b := open(t, s.URL())
	id := b.submit(1, spec()).ID
	b.round()
	score := func(b *bundle) float64 { return b.db.Client.ZScore(b.ctx, openKey, id).Val() }
	require.Positive(t, score(b))
	other, err := Open(Config{Redis: rdb.Config{URL: rdb.URL(s.URL())}})
	require.NoError(t, err)
	other.background.Stop() // nothing runs in the background any more
	other.doubt(id)
	require.NoError(t, other.Close())
	require.Negative(t, score(b))
}

func TestAStoreWhoseRedisIsAwayClosesSoon(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s, err := Open(Config{Redis: rdb.Config{URL: rdb.URL(server.URL())}})
	require.NoError(t, err)
	require.NoError(t, s.Ping(context.Background()))
	server.Freeze()
	defer server.Thaw()
	s.doubt("a")
	began := time.Now()
	require.NoError(t, s.Close())
	require.Less(t, time.Since(began), 5*rdb.DefaultTimeout)
}
