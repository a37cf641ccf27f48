// Package throttle keeps all workers within the rate of a target, and away from a target that is held or cannot be reached.
package throttle

import (
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
)

// Gate is what all workers know of the targets. It implements [batch.Gate].
type Gate struct {
	db     *rdb.DB
	pubsub *rdb.PubSub
	tasks  *tasks.Queues
}

// New returns the gate of the targets in a Redis.
func New(db *rdb.DB, pubsub *rdb.PubSub, queues *tasks.Queues) *Gate {
	return &Gate{db: db, pubsub: pubsub, tasks: queues}
}
