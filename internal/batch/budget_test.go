package batch_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

func TestExchangesOfOneRequestShareItsBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx := batch.WithBudget(t.Context(), time.Second)
		exchange := func(takes time.Duration) time.Duration {
			b := batch.BudgetOf(ctx)
			may := b.Begin(2 * time.Second)
			time.Sleep(min(takes, may))
			b.End()
			return may
		}
		require.Equal(t, time.Second, exchange(300*time.Millisecond))
		time.Sleep(time.Hour) // no time is spent between exchanges
		require.Equal(t, 700*time.Millisecond, exchange(300*time.Millisecond))
		require.False(t, batch.BudgetOf(ctx).Take(400*time.Millisecond))
		require.True(t, batch.BudgetOf(ctx).Take(100*time.Millisecond))
		require.Equal(t, 300*time.Millisecond, exchange(time.Minute))
		require.Zero(t, exchange(time.Minute), "nothing is left")
		require.False(t, batch.BudgetOf(ctx).Take(0))

		batch.BudgetOf(ctx).Refill()
		require.Equal(t, time.Second, exchange(time.Second))
	})
}

func TestExchangesAtTheSameTimeSpendABudgetOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := batch.BudgetOf(batch.WithBudget(t.Context(), time.Second))
		b.Begin(time.Second)
		time.Sleep(100 * time.Millisecond)
		require.Equal(t, 900*time.Millisecond, b.Begin(time.Second))
		time.Sleep(100 * time.Millisecond)
		b.End()
		time.Sleep(100 * time.Millisecond)
		b.End()
		require.Equal(t, 700*time.Millisecond, b.Begin(time.Second))
		b.End()
	})
}

func TestWithoutABudgetAnExchangeHasItsOwnTimeout(t *testing.T) {
	t.Parallel()
	require.Nil(t, batch.BudgetOf(t.Context()))
	for _, none := range []*batch.Budget{nil, batch.BudgetOf(batch.WithoutBudget(batch.WithBudget(t.Context(), 1)))} {
		require.Equal(t, time.Minute, none.Begin(time.Minute))
		require.True(t, none.Take(time.Hour))
		none.Refill()
		none.End()
	}
}
