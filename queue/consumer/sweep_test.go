package consumer

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/queuetest"
)

func TestTasksThatNoWorkerHasArePutBackWhenTheirBatchMakesNoProgress(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		for range 3 {
			b.Submit(2, queuetest.Spec())
		}
		_, err := b.Ledger.Workers.Beat(b.Ctx, "w1")
		require.NoError(t, err)
		c := newConsumer(b.consumers, ServerConfig{Targets: []Target{{Name: "crm", Slots: 6}}})
		for len(c.targets[0].handed()) < 6 { // and the process that took them received no reply
			c.targets[0].markAllNonEmpty()
			c.targets[0].poll(true)
		}
		require.Empty(t, b.Pending(batch.Interactive))
		b.Sweep()
		b.Sweeper.Timing.StuckAfter = 0
		paused := b.SkipConfirmDelay()
		require.Equal(t, batch.Swept{Open: 3, Lost: 6}, b.Sweep())
		require.EqualValues(t, 1, paused.Load(), "one pause for all")
		require.Len(t, b.Pending(batch.Interactive), 6)
	})
}
