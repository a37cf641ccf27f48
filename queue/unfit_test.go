package queue

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/redistest"
)

func TestWhatDoesNotSuitIsTold(t *testing.T) {
	unfit := func(b *bundle) []string {
		faults, err := b.Unfit(b.ctx)
		require.NoError(t, err)
		return faults
	}
	onEveryStore(t, func(t *testing.T, b *bundle) { require.Empty(t, unfit(b)) })

	evicting := unfit(open(t, redistest.Start(t, "--maxmemory-policy", "allkeys-lru").URL()))
	require.Len(t, evicting, 1)
	require.Contains(t, evicting[0], "noeviction")

	node := unfit(open(t, redistest.Start(t, "--cluster-enabled", "yes", "--cluster-port", redistest.FreePort(t)).URL()))
	require.Len(t, node, 1)
	require.Contains(t, node[0], "redis+cluster://")
}
