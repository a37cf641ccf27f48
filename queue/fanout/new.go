// Package fanout offers the actions of committed and retried batches to the workers, at once or as the limits of their owners allow.
package fanout

import (
	"log/slog"

	"github.com/batchd/batchd/queue/batches"
	"github.com/batchd/batchd/queue/limits"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
)

// Fanout is safe for concurrent use.
type Fanout struct {
	db         *rdb.DB
	log        *slog.Logger
	background *rdb.Background
	tasks      *tasks.Queues
	limits     *limits.Limits
	batches    *batches.Batches
	Offered    offered
	Throttled  throttledBatches
}

// New returns the fan-out of batches in a Redis.
func New(db *rdb.DB, log *slog.Logger, background *rdb.Background, queues *tasks.Queues, limits *limits.Limits, all *batches.Batches) *Fanout {
	return &Fanout{db: db, log: log, background: background, tasks: queues, limits: limits, batches: all, Offered: offered{Pause: notePause}}
}
