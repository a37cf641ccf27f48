package consumer

import (
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/queuetest"
)

// Redis forgets the end of an action without a change of its history, while so many batches
// are open that the sweeper looks at each once in minutes. The process that ended it repeats it.
func TestASilentLossAmongManyOpenBatchesIsFoundSoon(t *testing.T) {
	t.Parallel()
	b := open(t, redistest.Start(t).URL())
	for i := range 2000 { // the sweeper meets 3 in a second
		require.NoError(t, b.DB.Client.ZAdd(b.Ctx, keys.OpenKey, queuetest.DueAtOnce("open-"+strconv.Itoa(i))).Err())
	}
	id := b.Submit(2, queuetest.Spec()).ID
	b.serve(Target{Slots: 2}, func(index int, _ *Slot) error {
		if index == 1 {
			return nil // it stays begun
		}
		begun, err := b.Ledger.Begin(b.Ctx, id, index, "w1")
		if err != nil || begun.Verdict != batch.Run {
			return err
		}
		return b.Ledger.Finish(b.Ctx, id, index, begun.Token, queuetest.Result(index, batch.Succeeded))
	})
	b.Eventually("the end", func() bool { return b.Read(id).Counts.Succeeded == 1 })
	b.Rewind(id, 0, b.LedgerEntry(id, 0))
	require.Zero(t, b.Read(id).Counts.Succeeded)
	b.Eventually("its repetition", func() bool { return b.Read(id).Counts.Succeeded == 1 })
}
