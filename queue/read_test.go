package queue

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

func TestResultsOfASmallBatchAreReadInOneExchange(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.submit(10, spec()).ID
		for i := range 10 {
			b.end(id, i, batch.Succeeded)
		}
		b.results(id, 1) // the step is known there
		seen := &sent{}
		b.db.Client.AddHook(seen)
		require.Len(t, b.results(id, 100), 10)
		require.Len(t, seen.with(id), 1)
	})
}

func TestABatchThatHasEndedComesWithItsFirstResults(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		small, large := b.submit(10, spec()).ID, b.submit(firstResults+50, spec()).ID
		get := func(id string, few int) *batch.Batch {
			return must(b.Get(b.ctx, "me", id, few))
		}
		require.Nil(t, get(small, 10).First, "it has not ended")
		b.endAll(large, firstResults+50)
		for i := range 9 {
			b.end(small, i, batch.Succeeded)
		}
		_, err := b.Cancel(b.ctx, "me", small)
		require.NoError(t, err)

		all := func(id string) [][]byte {
			return must(b.Results(b.ctx, "me", id, batch.ResultQuery{Limit: 1000})).Results
		}
		require.Equal(t, &batch.ResultPage{Results: all(small), Next: -1}, get(small, 10).First)
		require.Nil(t, get(small, 9).First, "it has too many actions")
		require.Nil(t, get(small, 0).First)
		require.Equal(t, &batch.ResultPage{Results: all(large)[:firstResults], Next: firstResults}, get(large, 1000).First)

		whole := get(small, 10)
		whole.First = nil
		require.Equal(t, get(small, 0), whole)
		_, err = b.Get(b.ctx, "you", small, 10)
		require.ErrorIs(t, err, batch.ErrNotFound)
		require.NoError(t, b.Delete(b.ctx, "me", small))
		_, err = b.Get(b.ctx, "me", small, 10)
		require.ErrorIs(t, err, batch.ErrNotFound)

		require.NoError(t, b.db.Client.HDel(b.ctx, keysOf(large).results, "7").Err())
		require.Nil(t, get(large, 1000).First, "whoever asks for the results is told")
	})
}
