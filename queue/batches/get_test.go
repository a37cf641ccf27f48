package batches_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/batches"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/queuetest"
)

func TestResultsOfASmallBatchAreReadInOneExchange(t *testing.T) {
	queuetest.OnEveryStore(t, func(t *testing.T, b *queuetest.Bundle) {
		id := b.Submit(10, queuetest.Spec()).ID
		for i := range 10 {
			b.End(id, i, batch.Succeeded)
		}
		b.AllResults(id, 1) // the step is known there
		seen := &queuetest.Exchanges{}
		b.DB.Client.AddHook(seen)
		require.Len(t, b.AllResults(id, 100), 10)
		require.Len(t, seen.With(id), 1)
	})
}

func TestABatchThatHasEndedComesWithItsFirstResults(t *testing.T) {
	queuetest.OnEveryStore(t, func(t *testing.T, b *queuetest.Bundle) {
		small, large := b.Submit(10, queuetest.Spec()).ID, b.Submit(batches.FirstResults+50, queuetest.Spec()).ID
		get := func(id string, few int) *batch.Batch {
			return queuetest.Must(b.Get(b.Ctx, "me", id, few))
		}
		require.Nil(t, get(small, 10).First, "it has not ended")
		b.EndAll(large, batches.FirstResults+50)
		for i := range 9 {
			b.End(small, i, batch.Succeeded)
		}
		_, err := b.Cancel(b.Ctx, "me", small)
		require.NoError(t, err)

		all := func(id string) [][]byte {
			return queuetest.Must(b.Results(b.Ctx, "me", id, batch.ResultQuery{Limit: 1000})).Results
		}
		require.Equal(t, &batch.ResultPage{Results: all(small), Next: -1}, get(small, 10).First)
		require.Nil(t, get(small, 9).First, "it has too many actions")
		require.Nil(t, get(small, 0).First)
		require.Equal(t, &batch.ResultPage{Results: all(large)[:batches.FirstResults], Next: batches.FirstResults}, get(large, 1000).First)

		whole := get(small, 10)
		whole.First = nil
		require.Equal(t, get(small, 0), whole)
		_, err = b.Get(b.Ctx, "you", small, 10)
		require.ErrorIs(t, err, batch.ErrNotFound)
		require.NoError(t, b.Delete(b.Ctx, "me", small))
		_, err = b.Get(b.Ctx, "me", small, 10)
		require.ErrorIs(t, err, batch.ErrNotFound)

		require.NoError(t, b.DB.Client.HDel(b.Ctx, keys.KeysOf(large).Results, "7").Err())
		require.Nil(t, get(large, 1000).First, "whoever asks for the results is told")
	})
}
