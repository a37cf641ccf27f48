// Package consumer takes the tasks of actions from their queues and runs them, and has asynq deliver webhooks.
package consumer

import (
	"log/slog"
	"sync"

	"github.com/batchd/batchd/queue"
	"github.com/batchd/batchd/queue/batches"
	"github.com/batchd/batchd/queue/ledger"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
	"github.com/batchd/batchd/queue/throttle"
)

// Consumers are the servers of this process.
type Consumers struct {
	db         *rdb.DB
	log        *slog.Logger
	background *rdb.Background
	pubsub     *rdb.PubSub
	tasks      *tasks.Queues
	batches    *batches.Batches
	ledger     *ledger.Ledger
	gate       *throttle.Gate

	mu        sync.Mutex
	consumers map[*consumer]struct{}
}

// New returns the consumers on a store. There is one for a store.
func New(s *queue.Store) *Consumers {
	c := &Consumers{
		db: s.DB, log: s.Log, background: s.Background, pubsub: s.PubSub, tasks: s.Tasks, batches: s.Batches, ledger: s.Ledger, gate: s.Gate,
		consumers: make(map[*consumer]struct{}),
	}
	s.Tasks.Local = c.wake
	s.Uploads.Piggyback = localConsumers{c} // with tasks.NoPiggyback{}, every poll has an exchange of its own
	s.OnForgotten(c.redisForgot)
	return c
}
