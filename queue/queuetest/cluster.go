package queuetest

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue/keys"
)

// OpenCluster returns a store on a cluster of three masters that serves the keys of the others while one
// master does not answer, and a master that has none of the keys shared by all batches.
func OpenCluster(t *testing.T) (*Bundle, *redistest.Server) {
	t.Helper()
	cluster := redistest.NewCluster(t, false, "--cluster-node-timeout", "60000", "--cluster-require-full-coverage", "no")
	b := OpenWithDefaultTimeout(t, cluster.URL()) // so that an exchange with the other master ends
	taken := make(map[string]bool)
	for _, key := range []string{keys.OpenKey, keys.LostKey, keys.WorkersKey, keys.SweeperKey, keys.AsynqQueues} {
		taken[b.DB.NodeOf(b.Ctx, key).Options().Addr] = true
	}
	for _, s := range cluster.Nodes {
		if !taken[s.Addr] {
			return b, s
		}
	}
	require.FailNow(t, "every master has some of these keys")
	return nil, nil
}

// TroubledNode has ways to make a node of a cluster stop answering, by name.
var TroubledNode = map[string]func(s *redistest.Server){
	"frozen": (*redistest.Server).Freeze,
	"killed": (*redistest.Server).Kill,
}
