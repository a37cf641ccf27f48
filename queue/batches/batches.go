// Package batches keeps the record of each batch: it reads batches and their results, ends and deletes
// them, and keeps what must happen after an end, which is the webhook and the wakeup of requests
// that wait.
//
// It does not create batches (package upload), offer their actions to workers (package fanout), begin
// or finish actions (package ledger), list batches (package lists), or look for batches that make no progress (package repair).
package batches

import (
	"log/slog"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/index"
	"github.com/batchd/batchd/queue/limits"
	"github.com/batchd/batchd/queue/owners"
	"github.com/batchd/batchd/queue/quotas"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
	"github.com/batchd/batchd/queue/tasks"
)

// Batches are the batches in one Redis. They are safe for concurrent use.
type Batches struct {
	Codec      *Codec
	Index      *index.Index
	Doubts     *index.Doubts
	Outbox     *Outbox
	Deliveries *Deliveries
	Owners     *owners.Owners
	Quotas     *quotas.Quotas
	Waiters    *Waiters

	db         *rdb.DB
	log        *slog.Logger
	seals      *seal.Sealer
	background *rdb.Background
	tasks      *tasks.Queues
	limits     *limits.Limits
}

// New returns the batches in a Redis.
func New(db *rdb.DB, log *slog.Logger, seals *seal.Sealer, background *rdb.Background, pubsub *rdb.PubSub, queues *tasks.Queues, limits *limits.Limits) *Batches {
	b := &Batches{db: db, log: log, seals: seals, background: background, tasks: queues, limits: limits}
	b.Codec = &Codec{seals: seals}
	b.Index = index.New(db)
	b.Doubts = b.Index.Doubts(log, background)
	b.Outbox = &Outbox{db: db, log: log, tasks: queues, doubts: b.Doubts}
	b.Deliveries = &Deliveries{db: db, seals: seals, batches: b}
	b.Owners = owners.New(db, seals)
	b.Quotas = quotas.New(db, log)
	b.Waiters = newWaiters(pubsub, db.Name)
	return b
}

// Watch returns a channel that receives a value soon after a batch has ended; see [batch.Store].
func (b *Batches) Watch(id string) (<-chan *batch.Batch, func()) { return b.Waiters.watch(id) }
