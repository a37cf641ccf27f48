// Package batches keeps what a batch is: its record, its results, the list of open batches, and the outbox of webhooks.
package batches

import (
	"log/slog"
	"sync/atomic"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/limits"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
	"github.com/batchd/batchd/queue/tasks"
)

// Batches are the batches in a Redis. They are safe for concurrent use.
type Batches struct {
	Codec      *Codec
	Index      *Index
	Doubts     *Doubts
	Outbox     *Outbox
	Deliveries *Deliveries
	Owners     *Owners
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
	s := &Batches{db: db, log: log, seals: seals, background: background, tasks: queues, limits: limits}
	s.Codec = &Codec{seals}
	s.Index = &Index{db}
	s.Doubts = &Doubts{db: db, log: log, background: background, Open: s.Index}
	s.Outbox = &Outbox{db, log, queues, s.Doubts}
	s.Deliveries = &Deliveries{db: db, seals: seals, batches: s, Open: s.Index, Outbox: s.Outbox}
	s.Owners = &Owners{db: db, seals: seals}
	s.Waiters = newWaiters(pubsub, db.Name)
	return s
}

// Watch returns a channel that receives a value soon after a batch has ended; see [batch.Store].
func (s *Batches) Watch(id string) (<-chan *batch.Batch, func()) { return s.Waiters.watch(id) }

// Codec seals and opens what is stored of batches.
type Codec struct{ seals *seal.Sealer }

// Index is the list of open batches, by the time at which the sweeper looks at them next.
type Index struct{ db *rdb.DB }

// Doubts has the sweeper look at batches of which a step was not answered.
type Doubts struct {
	Open       *Index
	db         *rdb.DB
	log        *slog.Logger
	background *rdb.Background
	Doubted    doubted
}

// Outbox enqueues the webhooks of batches that have ended.
type Outbox struct {
	db     *rdb.DB
	log    *slog.Logger
	tasks  *tasks.Queues
	Doubts *Doubts
}

// Deliveries keeps the attempts at delivering webhooks.
type Deliveries struct {
	db      *rdb.DB
	seals   *seal.Sealer
	batches *Batches
	Open    *Index
	Outbox  *Outbox
}

// Owners names the owners of credentials that are passed through.
type Owners struct {
	db     *rdb.DB
	seals  *seal.Sealer
	owners atomic.Pointer[[]byte] // the salt of the owners' names, once read
}
