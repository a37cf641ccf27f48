package consumer

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue/queuetest"
)

// idle returns the commands a second of a worker whose target is on hold, over some rounds
// of the sweeper, with so many open batches.
func idle(t *testing.T, batches int) float64 {
	t.Helper()
	b := open(t, redistest.Start(t).URL())
	b.serve(Target{Slots: 8, Held: func() (time.Duration, <-chan struct{}) { return time.Hour, nil }}, func(int, *Slot) error { return nil })
	for range batches {
		b.Submit(3, queuetest.Spec())
	}
	b.Background.Wait()
	const rounds = 4
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	before, began := 0, time.Time{}
	for i := range 2 + rounds {
		if i == 2 { // every batch was looked at once
			before, began = queuetest.Commands(b.Bundle), time.Now()
		}
		_, err := b.Ledger.Workers.Beat(b.Ctx, "w1")
		require.NoError(t, err)
		swept := b.Round()
		require.Equal(t, batches, swept.Open)
		_, err = b.Fanout.ReleaseThrottled(b.Ctx)
		require.NoError(t, err)
		<-tick.C
	}
	return float64(queuetest.Commands(b.Bundle)-before) / time.Since(began).Seconds()
}

func TestIdleCommandsDoNotGrowWithTheOpenBatches(t *testing.T) {
	t.Parallel()
	var few, many float64
	var wg sync.WaitGroup
	wg.Go(func() { few = idle(t, 20) })
	wg.Go(func() { many = idle(t, 2000) })
	wg.Wait()
	t.Logf("commands a second: %.0f with 20 open batches, %.0f with 2000", few, many)
	// A sweeper that looked at each batch in each round would send two commands a second for each of them. The bound
	// is a tenth of it: the number of rounds and polls in a second depends on how busy the machine is.
	require.Less(t, many, few+2*2000/10)
}
