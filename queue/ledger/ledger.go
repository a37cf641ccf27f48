// Package ledger keeps the state of each action, and remembers what this process did with
// actions, so that the process can repeat it if Redis goes back to an earlier state. Every
// change of state is one Lua step, decided by Redis's clock.
//
// Package batches has the batches themselves (reading, cancelling, webhooks) and the Lua
// library of the steps; package batcher runs steps of several actions in one exchange; package
// repair looks for lost work in open batches.
package ledger

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/batcher"
	"github.com/batchd/batchd/queue/batches"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
	"github.com/batchd/batchd/queue/tasks"
)

// Ledger is the ledger in a Redis. It implements [batch.Ledger] and is safe for concurrent use.
type Ledger struct {
	Workers  *Workers
	Restorer *Restorer

	db        *rdb.DB
	log       *slog.Logger
	seals     *seal.Sealer
	batches   *batches.Batches
	groups    *groups
	HandOver  HandOver
	batcher   *batcher.Batcher
	running   atomic.Int64  // actions that this process runs
	releasing chan struct{} // held by each release under way
	attempts  *attempts
	history   *History
}

// New returns the ledger in a Redis. The history is that of the connections of the DB.
func New(db *rdb.DB, log *slog.Logger, seals *seal.Sealer, background *rdb.Background, calls *batcher.Batcher, queues *tasks.Queues, all *batches.Batches, handOver HandOver, history *History) *Ledger {
	s := &Ledger{
		db: db, log: log, seals: seals, batches: all, groups: &groups{db, seals, all}, HandOver: handOver, history: history,
		batcher: calls, releasing: make(chan struct{}, maxReleasing), attempts: newAttempts(),
		Workers: &Workers{db: db, history: history},
	}
	s.Restorer = &Restorer{
		db: db, log: log, background: background, tasks: queues, batches: all, groups: s.groups, workers: s.Workers,
		attempts: s.attempts, history: history, OnForgotten: func() {},
	}
	history.onChange(s.Restorer.restoreSoon)
	return s
}

// Webhook implements [batch.Ledger].
func (s *Ledger) Webhook(ctx context.Context, id string, delivery int) (*batch.Notice, error) {
	return s.batches.Deliveries.Notice(ctx, id, delivery)
}

// Delivered implements [batch.Ledger].
func (s *Ledger) Delivered(ctx context.Context, id string, delivery int, d batch.Delivery, state batch.DeliveryState, nextAt time.Time) error {
	return s.batches.Deliveries.Record(ctx, id, delivery, d, state, nextAt)
}

// Workers are the workers on a Redis, by their heartbeats.
type Workers struct {
	db      *rdb.DB
	history *History
	beats   sync.Map // the workers of this process, and the time of the last beat of each
}

// groups finishes groups.
type groups struct {
	db      *rdb.DB
	seals   *seal.Sealer
	batches *batches.Batches
}

// Restorer repeats the steps of this process on actions that Redis has forgotten.
type Restorer struct {
	workers *Workers
	// OnForgotten is called when Redis may have forgotten something.
	OnForgotten func()

	db         *rdb.DB
	log        *slog.Logger
	background *rdb.Background
	tasks      *tasks.Queues
	batches    *batches.Batches
	groups     *groups
	attempts   *attempts
	history    *History
	restoring  restoring
}
