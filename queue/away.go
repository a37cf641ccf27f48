package queue

import (
	"context"
	"time"

	"github.com/batchd/batchd/queue/rdb"
)

// awayFor is how long what many batches share, such as a round of the sweeper, leaves out a
// node of a cluster that did not answer.
const awayFor = 5 * time.Second

// noteAway notes that the node with a key did not answer, if that is what an error says.
func (s *Store) noteAway(ctx context.Context, key string, err error) {
	if !rdb.IsUnavailable(err) {
		return
	}
	if node := s.nodeOf(context.WithoutCancel(ctx), key); node != nil {
		s.nodesAway.Store(node.Options().Addr, time.Now().Add(awayFor))
	}
}

// isAway reports whether the node of a cluster with a key did not answer lately. On anything
// but a cluster it is false: then there is nothing else to go on with.
func (s *Store) isAway(ctx context.Context, key string) bool {
	node := s.nodeOf(ctx, key)
	if node == nil {
		return false
	}
	until, _ := s.nodesAway.Load(node.Options().Addr)
	at, known := until.(time.Time)
	return known && time.Now().Before(at)
}
