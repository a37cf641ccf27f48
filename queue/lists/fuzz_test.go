package lists

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

func FuzzListCursor(f *testing.F) {
	for _, seed := range []string{"1-01a22a66-ad15-7f20-b1d1-1234567890ab", "-1-x", "1-", "", "01-01a22a66-ad15-7f20-b1d1-1234567890ab", "+1-01a22a66-ad15-7f20-b1d1-1234567890ab", "99999999999999999999-x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, cursor string) {
		e, err := parseCursor(cursor)
		if err != nil {
			require.ErrorIs(t, err, batch.ErrCursor)
			return
		}
		again, err := parseCursor(e.cursor())
		require.NoError(t, err)
		require.Equal(t, e, again)
	})
}
