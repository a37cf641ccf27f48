package main

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestQuantiles(t *testing.T) {
	t.Parallel()
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(100 - i) // not sorted
	}
	tests := []struct {
		values []float64
		q      float64
		want   float64
	}{
		{hundred, 0.5, 50},
		{hundred, 0.99, 99},
		{hundred, 1, 100},
		{hundred, 0, 1},
		{[]float64{3, 1, 2}, 0.5, 2},
		{[]float64{3, 1, 2}, 0.99, 3},
		{[]float64{7}, 0.5, 7},
	}
	for _, tt := range tests {
		require.InDelta(t, tt.want, quantile(tt.values, tt.q), 0, "q=%v of %d values", tt.q, len(tt.values))
	}
	require.InDelta(t, 100.0, hundred[0], 0, "the values keep their order")
	require.True(t, math.IsNaN(quantile(nil, 0.5)))
}

func TestMedians(t *testing.T) {
	t.Parallel()
	require.InDelta(t, 2.0, median([]float64{3, 1, 2}), 0)
	require.InDelta(t, 2.5, median([]float64{4, 1, 3, 2}), 0)
	require.True(t, math.IsNaN(median(nil)))
}

func TestARatioIsTakenWithinARound(t *testing.T) {
	t.Parallel()
	require.Equal(t, []float64{2, 0.5}, ratios([]float64{4, 1}, []float64{2, 2}))
	require.Empty(t, ratios([]float64{1, 2}, nil), "the other did not take part")
}

func TestMilliseconds(t *testing.T) {
	t.Parallel()
	require.Equal(t, []float64{1500, 0.25}, milliseconds([]time.Duration{1500 * time.Millisecond, 250 * time.Microsecond}))
}
