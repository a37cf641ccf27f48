package queuetest

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

// SkipConfirmDelay lets the sweeper confirm unstarted tasks without a delay, and returns the number of
// delays that it skipped. No worker may run meanwhile: the sweeper would put back the tasks that the
// worker has taken and not begun yet.
func (b *Bundle) SkipConfirmDelay() *atomic.Int32 {
	n := new(atomic.Int32)
	b.Sweeper.Timing.Sleep = func(context.Context, time.Duration) error {
		n.Add(1)
		return nil
	}
	return n
}

// Round runs one round of the sweeper, which looks at the batches that are due.
func (b *Bundle) Round() batch.Swept {
	b.T.Helper()
	swept, ok, err := b.Sweeper.Sweep(b.Ctx, "w1")
	require.NoError(b.T, err)
	require.True(b.T, ok)
	return swept
}

// Sweep runs one round of the sweeper that looks at all open batches.
func (b *Bundle) Sweep() batch.Swept {
	b.T.Helper()
	require.NoError(b.T, b.Sweeper.MakeAllDue(b.Ctx))
	swept, ok, err := b.Sweeper.Sweep(b.Ctx, "w1")
	require.NoError(b.T, err)
	require.True(b.T, ok)
	return swept
}

// DueAtOnce returns an entry of the open list that is due before all others.
func DueAtOnce(id string) redis.Z {
	return redis.Z{Member: id, Score: -float64(time.Now().UnixMilli())}
}
