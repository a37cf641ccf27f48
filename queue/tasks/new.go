// Package tasks keeps the tasks of actions and webhooks in Redis as asynq keeps them, and the actions that wait for their tasks.
package tasks

import (
	"log/slog"

	"github.com/hibiken/asynq"

	"github.com/batchd/batchd/queue/rdb"
)

// Queues are the queues of all targets. They are safe for concurrent use.
type Queues struct {
	db  *rdb.DB
	log *slog.Logger
	// Inspect is asynq's view of the queues.
	Inspect *asynq.Inspector
	// Shards is the number of queues of a lane.
	Shards int

	// Local wakes the consumers of this process for a queue. It may be nil.
	Local func(queue string)
}

// New returns the queues of a Redis.
func New(db *rdb.DB, log *slog.Logger) *Queues {
	s := &Queues{db: db, log: log, Inspect: asynq.NewInspectorFromRedisClient(db.Client), Shards: 1}
	if db.Cluster != nil {
		s.Shards = ClusterShards
	}
	return s
}
