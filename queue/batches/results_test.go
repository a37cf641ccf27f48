package batches_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue/batches"
	"github.com/batchd/batchd/queue/queuetest"
)

func TestResultsStandInTheOrderOfTheActionsWhileTheBatchRuns(t *testing.T) {
	queuetest.OnEveryStore(t, func(t *testing.T, b *queuetest.Bundle) {
		id := b.Submit(40, queuetest.Spec()).ID
		for _, i := range []int{39, 0, 17, 3} {
			b.End(id, i, batch.Succeeded)
		}
		b.End(id, 20, batch.Failed)
		all := b.AllResults(id, 7)
		require.Len(t, all, 40)
		for i, r := range all {
			require.Equal(t, i, r.Index)
			require.Equal(t, fmt.Sprintf("a-%d", i), r.ID)
		}
		require.Equal(t, "answer 17", string(all[17].Body))
		require.Equal(t, batch.Pending, all[18].Outcome)

		some := b.AllResults(id, 2, batch.Succeeded, batch.Failed)
		indexes := make([]int, 0, len(some))
		for _, r := range some {
			indexes = append(indexes, r.Index)
		}
		require.Equal(t, []int{0, 3, 17, 20, 39}, indexes)
		require.Len(t, b.AllResults(id, 9, batch.Pending), 35)
		require.Empty(t, b.AllResults(id, 9, batch.Unknown))
	})
}

func TestAPageOfLargeResultsIsCutByItsSize(t *testing.T) {
	queuetest.OnEveryStore(t, func(t *testing.T, b *queuetest.Bundle) {
		const n = 7
		id := b.Submit(n, queuetest.Spec()).ID
		for i := range n {
			begun := b.Begin(id, i)
			r := queuetest.Result(i, batch.Succeeded)
			r.Body = []byte(strings.Repeat("x", batches.PageBytes/2))
			require.NoError(t, b.Ledger.Finish(b.Ctx, id, i, begun.Token, r))
		}
		page, err := b.Results(b.Ctx, "me", id, batch.ResultQuery{Limit: 1000})
		require.NoError(t, err)
		require.Less(t, len(page.Results), n)
		require.Equal(t, len(page.Results), page.Next)
		require.Len(t, b.AllResults(id, 1000), n)
	})
}

// A page holds as many results as it may, also where that is more than the store reads at
// a time and no multiple of it.
func TestAPageHoldsAsManyResultsAsItsLimitSays(t *testing.T) {
	t.Parallel()
	b := queuetest.Open(t, redistest.Start(t).URL())
	const total, limit = 2600, 1203
	id := b.Submit(total, queuetest.Spec()).ID
	for i := 0; i < total; i += 7 {
		b.End(id, i, batch.Failed)
	}
	var pages []int
	next := 0
	for from := 0; from >= 0; {
		page, err := b.Results(b.Ctx, "me", id, batch.ResultQuery{From: from, Limit: limit})
		require.NoError(t, err)
		pages = append(pages, len(page.Results))
		for _, encoded := range page.Results {
			var r batch.Result
			require.NoError(t, r.UnmarshalJSON(encoded))
			require.Equal(t, next, r.Index)
			next++
		}
		from = page.Next
	}
	require.Equal(t, []int{limit, limit, total - 2*limit}, pages)

	filtered := b.AllResults(id, 301, batch.Failed)
	require.Len(t, filtered, (total+6)/7)
	for i, r := range filtered {
		require.Equal(t, 7*i, r.Index)
	}
}
