package limits_test

import (
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/limits"
	"github.com/batchd/batchd/queue/queuetest"
)

// A batch on a node that is away keeps no other batch from what its owner's limit finds.
func TestALimitSeesTheBatchesOfOthersWhileANodeIsAway(t *testing.T) {
	t.Parallel()
	b, node := queuetest.OpenCluster(t)
	var alive, dead string
	for alive == "" || dead == "" {
		id := b.Submit(1, queuetest.Spec()).ID
		b.Begin(id, 0)
		if b.DB.NodeOf(b.Ctx, keys.KeysOf(id).Meta).Options().Addr == node.Addr {
			dead = id
		} else {
			alive = id
		}
	}
	grants := limits.LimitKeys("me", batch.Limit{})[1]
	for i := 0; b.DB.NodeOf(b.Ctx, grants).Options().Addr == node.Addr; i++ {
		grants = limits.LimitKeys(strconv.Itoa(i), batch.Limit{})[1]
	}
	require.NoError(t, b.DB.Client.HSet(b.Ctx, grants, alive, "1|0", dead, "1|0").Err())
	node.Kill()
	seen, err := b.Limits.InFlight(b.Ctx, grants, 0)
	require.NoError(t, err)
	require.Len(t, seen, 3)
	require.Equal(t, alive, seen[0])
}
