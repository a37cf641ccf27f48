package batches

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

// By the time that the answer is there, the batch may have been retried.
func TestWhoWaitsSinceTheBatchEndedIsNotHandedThatEnd(t *testing.T) {
	t.Parallel()
	n := newWaiters(nil, "")
	n.listen.Do(func() {})
	early, stopEarly := n.watch("b")
	defer stopEarly()
	last := n.Awaited("b")
	late, stopLate := n.watch("b")
	defer stopLate()
	require.Positive(t, last)
	require.Zero(t, n.Awaited("another"))
	ended := &batch.Batch{}
	n.Tell("b", ended, last)
	require.Same(t, ended, <-early)
	require.Nil(t, <-late)
}
