package attacks_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/attacks"
)

// The tables have at least a thousand cases in all. The modes of the hostile target of package dispatch are
// further ones.
func TestTheTablesHaveAThousandCases(t *testing.T) {
	t.Parallel()
	sum := 0
	for _, pattern := range []string{"../../*/testdata/attacks/*.txt", "../../*/*/testdata/attacks/*.txt"} {
		files, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, file := range files {
			n := len(attacks.Read(t, file))
			require.GreaterOrEqual(t, n, 20, file)
			t.Logf("%4d %s", n, file)
			sum += n
		}
	}
	t.Logf("%4d in all", sum)
	require.GreaterOrEqual(t, sum, 1000)
}
