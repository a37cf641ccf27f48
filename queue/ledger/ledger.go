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
	"github.com/batchd/batchd/queue/quotas"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
	"github.com/batchd/batchd/queue/tasks"
)

// Ledger records in Redis which worker runs each action, and its result. It implements [batch.Ledger] and is safe for concurrent use.
type Ledger struct {
	Workers  *Workers
	Restorer *Restorer

	db        *rdb.DB
	seals     *seal.Sealer
	batches   *batches.Batches
	groups    *groups
	HandOver  HandOver // gets the batches that this process ends
	batcher   *batcher.Batcher
	running   atomic.Int64  // actions that this process runs
	releasing chan struct{} // held by each release under way
	attempts  *attempts
	history   *History
	rooms     *quotas.Rooms
}

// New returns the ledger in a Redis. The DB's connections report their servers to history.
func New(db *rdb.DB, log *slog.Logger, seals *seal.Sealer, background *rdb.Background, calls *batcher.Batcher, queues *tasks.Queues, all *batches.Batches, handOver HandOver, history *History) *Ledger {
	l := &Ledger{
		db: db, seals: seals, batches: all, groups: &groups{db, seals, all}, HandOver: handOver, history: history,
		batcher: calls, releasing: make(chan struct{}, maxReleasing), attempts: newAttempts(),
		Workers: &Workers{db: db, history: history}, rooms: quotas.NewRooms(all.Quotas),
	}
	l.Restorer = &Restorer{
		db: db, log: log, background: background, tasks: queues, batches: all, groups: l.groups, workers: l.Workers,
		attempts: l.attempts, history: history,
	}
	history.onChange(l.Restorer.restoreSoon)
	return l
}

// Webhook implements [batch.Ledger].
func (l *Ledger) Webhook(ctx context.Context, id string, delivery int) (*batch.Notice, error) {
	return l.batches.Deliveries.Notice(ctx, id, delivery)
}

// Delivered implements [batch.Ledger].
func (l *Ledger) Delivered(ctx context.Context, id string, delivery int, d batch.Delivery, state batch.DeliveryState, nextAt time.Time) error {
	return l.batches.Deliveries.Record(ctx, id, delivery, d, state, nextAt)
}

// Workers are the workers that share a Redis. Each sends heartbeats.
type Workers struct {
	db      *rdb.DB
	history *History
	beats   sync.Map // by worker of this process: the time of its last beat, in ms by Redis's clock
}

// groups runs the step that ends all members of a group.
type groups struct {
	db      *rdb.DB
	seals   *seal.Sealer
	batches *batches.Batches
}

// Restorer finds steps of this process that Redis has forgotten, and repeats them.
type Restorer struct {
	workers    *Workers
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
