package rdb

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"
)

// awayFor is how long work for many batches, such as a round of the sweeper, leaves out a node of a
// cluster that did not answer.
const awayFor = 5 * time.Second

// NoteAway remembers for 5 s that the node with a key did not answer, if err says that Redis is away.
func (db *DB) NoteAway(ctx context.Context, key string, err error) {
	if !IsUnavailable(err) {
		return
	}
	if node := db.NodeOf(context.WithoutCancel(ctx), key); node != nil {
		db.nodesAway.Store(node.Options().Addr, time.Now().Add(awayFor))
	}
}

// IsAway reports whether the node of a cluster with a key did not answer in the last 5 s. If Redis is no
// cluster it returns false, since there is no other node to go on with.
func (db *DB) IsAway(ctx context.Context, key string) bool {
	node := db.NodeOf(ctx, key)
	if node == nil {
		return false
	}
	until, _ := db.nodesAway.Load(node.Options().Addr)
	at, known := until.(time.Time)
	return known && time.Now().Before(at)
}

// NodeOf returns the node of a cluster that has a key. It returns nil if Redis is no cluster, or if the
// nodes of the cluster are not known.
func (db *DB) NodeOf(ctx context.Context, key string) *redis.Client {
	if db.Cluster == nil {
		return nil
	}
	node, err := db.Cluster.MasterForKey(ctx, key)
	if err != nil {
		return nil
	}
	return node
}
