package repair

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Of more batches than are asked for at a time, those have their turn first in which nothing
// has happened for the longest time.
func TestHoldersAreAskedForTheOldestBeginsFirst(t *testing.T) {
	t.Parallel()
	var h holders
	began := time.Now()
	since := make(map[string]time.Time)
	meet := func() {
		for i := range 3 * holdersBatches {
			id := strconv.Itoa(i)
			since[id] = began.Add(-time.Duration(i) * time.Second)
			h.add(id, map[string]string{"status": "running"})
		}
	}
	at := func(id string) time.Time { return since[id] }
	for round := range 6 { // every batch has its turn, though all are met again and again
		meet()
		next := h.next(began.Add(time.Duration(round+1)*holdersEvery), at)
		require.Len(t, next, holdersBatches)
		for id := range next {
			i, err := strconv.Atoi(id)
			require.NoError(t, err)
			require.Equal(t, 2-round%3, i/holdersBatches, "round %d", round)
		}
	}
}
