package queuetest

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue/keys"
)

// OpenCluster returns a store on a cluster of three masters that serves what it can while
// one of them does not, and that master: it has none of the keys that are everybody's.
func OpenCluster(t *testing.T) (*Bundle, *redistest.Server) {
	t.Helper()
	cluster := redistest.NewCluster(t, false, "--cluster-node-timeout", "60000", "--cluster-require-full-coverage", "no")
	b := OpenWithDefaultTimeout(t, cluster.URL()) // with the node that does not answer
	taken := make(map[string]bool)
	for _, key := range []string{keys.OpenKey, keys.LostKey, keys.WorkersKey, keys.SweeperKey, keys.AsynqQueues} {
		taken[b.DB.NodeOf(b.Ctx, key).Options().Addr] = true
	}
	for _, s := range cluster.Nodes {
		if !taken[s.Addr] {
			return b, s
		}
	}
	require.FailNow(t, "every node has some of them")
	return nil, nil
}

// TroubledNode are ways in which a node of a cluster does not answer.
var TroubledNode = map[string]func(s *redistest.Server){
	"frozen": (*redistest.Server).Freeze,
	"killed": (*redistest.Server).Kill,
}
