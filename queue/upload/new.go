// Package upload takes submissions: it stages their actions, decides about idempotency keys, and commits.
package upload

import (
	"log/slog"

	"github.com/google/uuid"

	"github.com/batchd/batchd/queue/batches"
	"github.com/batchd/batchd/queue/fanout"
	"github.com/batchd/batchd/queue/limits"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
	"github.com/batchd/batchd/queue/tasks"
)

// Uploads are the submissions under way. They are safe for concurrent use.
type Uploads struct {
	db         *rdb.DB
	log        *slog.Logger
	seals      *seal.Sealer
	background *rdb.Background
	tasks      *tasks.Queues
	limits     *limits.Limits
	batches    *batches.Batches
	fanout     *fanout.Fanout
	Memory     *memoryGuard

	// NewID makes the ids of batches.
	NewID func() (uuid.UUID, error)
	// Piggyback takes tasks in the exchange that commits a small batch.
	Piggyback tasks.Piggyback
}

// New returns the uploads to a Redis.
func New(db *rdb.DB, log *slog.Logger, seals *seal.Sealer, background *rdb.Background, queues *tasks.Queues, limits *limits.Limits, all *batches.Batches, fan *fanout.Fanout) *Uploads {
	return &Uploads{
		db: db, log: log, seals: seals, background: background, tasks: queues, limits: limits, batches: all, fanout: fan,
		Memory: &memoryGuard{db: db, waiting: queues.WaitingEverywhere}, NewID: uuid.NewV7, Piggyback: tasks.NoPiggyback{},
	}
}
