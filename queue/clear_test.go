package queue_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
)

// storeWith opens a store with the keys of a configuration.
func storeWith(t *testing.T, url string, cfg seal.Config) *bundle {
	t.Helper()
	s, err := queue.Open(queue.Config{Redis: rdb.Config{URL: rdb.URL(url)}, Timeout: queuetest.Endless, Seal: cfg})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	s.Fanout.RecordPause = 0
	return local(&queuetest.Bundle{Store: s, T: t, Ctx: t.Context()})
}

// What was stored before there were keys is refused with keys, unless a setting accepts it for a migration.
func TestABatchInClearIsRefusedOnceThereAreKeys(t *testing.T) {
	t.Parallel()
	url := redistest.Start(t).URL()
	ring := []seal.Key{seal.NewKey("one", make([]byte, 32))}
	id := storeWith(t, url, seal.Config{}).Submit(2, queuetest.Spec()).ID
	for name, cfg := range map[string]seal.Config{
		"keys":          {Keys: ring},
		"after the day": {Keys: ring, AcceptClearUntil: time.Now().UTC().AddDate(0, 0, -1).Format(time.DateOnly)},
	} {
		b := storeWith(t, url, cfg)
		_, err := b.Get(b.Ctx, "me", id, 0)
		require.ErrorContains(t, err, id, name)
		var damaged *batch.DamagedError
		require.ErrorAs(t, err, &damaged, name)
		require.Equal(t, id, damaged.ID)
		_, err = b.Ledger.Begin(b.Ctx, id, 0, "w1")
		require.ErrorContains(t, err, id, name)
	}
	b := storeWith(t, url, seal.Config{Keys: ring, AcceptClearUntil: time.Now().UTC().Format(time.DateOnly)})
	require.Equal(t, 2, b.Read(id).Counts.Pending)
	b.End(id, 0, batch.Succeeded)
	b.End(id, 1, batch.Succeeded)
	require.Equal(t, batch.StatusCompleted, b.Read(id).Status)
	require.Len(t, b.AllResults(id, 10), 2)
}
