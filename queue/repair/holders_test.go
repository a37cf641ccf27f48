package repair_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/batches"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/queuetest"
)

// The sweeper asks every worker that is alive for what it holds by the ledger.
func TestAWorkerIsAskedForWhatItHolds(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		_, err := b.Ledger.Workers.Beat(b.Ctx, "w1")
		require.NoError(t, err)
		id := b.Submit(5, queuetest.Spec()).ID
		flying := b.Begin(id, 0)
		b.End(id, 1, batch.Succeeded)
		ended := b.LedgerEntry(id, 1)
		old := func(entry string) string { // so old that its holder is sure to know
			e := batches.ParseEntry(entry)
			e.Started = e.Started.Add(-time.Minute)
			return e.String()
		}
		b.Rewind(id, 1, old(ended))
		ahead := batches.Entry{Token: "unheard-of", Attempts: 1, Worker: "w1", First: time.UnixMilli(1000), Started: time.Now().Add(time.Hour)} // by the clock of an earlier master
		for _, set := range [][]any{{"0", old(b.LedgerEntry(id, 0))}, {"2", "unheard-of|1|1000|1000|0|w1"}, {"3", "its|1|1000|1000|0|w2"}, {"4", ahead.String()}} {
			require.NoError(t, b.DB.Client.HSet(b.Ctx, keys.KeysOf(id).Ledger, set...).Err())
		}
		require.NoError(t, b.DB.Client.SetRange(b.Ctx, keys.KeysOf(id).State, 2, "rrr").Err())
		defer b.PubSub.Listen(keys.HoldersChannel, b.Ledger.Restorer.AnswerQuestion)()
		b.Eventually("the subscription", func() bool {
			n, err := b.DB.Client.PubSubNumSub(b.Ctx, keys.HoldersChannel).Result()
			require.NoError(t, err)
			return n[keys.HoldersChannel] > 0 || b.Tasks.Shards > 1
		})
		b.Eventually("the answer", func() bool {
			b.Sweeper.Holders.Asked = time.Time{}
			b.Sweep()
			return b.Read(id).Counts.Succeeded == 1 && batches.ParseEntry(b.LedgerEntry(id, 2)).Worker == "" && batches.ParseEntry(b.LedgerEntry(id, 4)).Worker == ""
		})
		require.Equal(t, "w1", batches.ParseEntry(b.LedgerEntry(id, 0)).Worker, "what it has in flight stays its own")
		require.NoError(t, b.Ledger.Finish(b.Ctx, id, 0, flying.Token, queuetest.Result(0, batch.Succeeded)))
		require.Equal(t, "w2", batches.ParseEntry(b.LedgerEntry(id, 3)).Worker, "a worker that is not alive is given time")
	})
}
