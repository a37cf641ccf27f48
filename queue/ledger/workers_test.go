package ledger_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/queuetest"
)

func TestWhatALiveWorkerHasInFlightIsNotTakenFromIt(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.Submit(1, queuetest.Spec()).ID
		_, err := b.Ledger.Workers.Beat(b.Ctx, "w1")
		require.NoError(t, err)
		first := b.Begin(id, 0)
		second, err := b.Ledger.Begin(b.Ctx, id, 0, "w2")
		require.NoError(t, err)
		require.Equal(t, batch.Held, second.Verdict)
		second, err = b.Ledger.Begin(b.Ctx, id, 0, "w1")
		require.NoError(t, err)
		require.Equal(t, batch.Interrupted, second.Verdict, "it knows itself whether it still has it")
		b.Silence("w1", batch.DeadAfter+time.Second)
		second, err = b.Ledger.Begin(b.Ctx, id, 0, "w2")
		require.NoError(t, err)
		require.Equal(t, batch.Interrupted, second.Verdict)
		require.Equal(t, first.Token, second.Token)
	})
}
