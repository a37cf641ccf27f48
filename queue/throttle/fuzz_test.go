package throttle

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/queue/rdb"
)

func FuzzReserved(f *testing.F) {
	for _, seed := range []string{"1 2 3 4 5", "1", "", "1 2", "x", "1 2 3 4 99999999999999999999", "1 2 3 4 5 6 7 8 9"} {
		f.Add("1", seed)
	}
	f.Fuzz(func(t *testing.T, now, runs string) {
		r, err := parseReserved([]string{now, runs})
		if err != nil {
			require.ErrorIs(t, err, rdb.ErrAnswer)
			require.Nil(t, r)
		}
	})
}
