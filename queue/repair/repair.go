// Package repair brings back what was lost: it looks after open batches, tasks that no worker runs, and the actions of dead workers.
package repair

import (
	"context"
	"log/slog"
	"time"

	"github.com/batchd/batchd/queue/batches"
	"github.com/batchd/batchd/queue/fanout"
	"github.com/batchd/batchd/queue/ledger"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
)

// Sweeper looks after open batches. It implements [batch.Sweeper]. One goroutine sweeps; others may feed and recover.
type Sweeper struct {
	Recovery *Recovery
	// SlowFor and LookFor bound the looks of a round; see their defaults. RenewEvery is how often the
	// sweeper extends its lease during a round.
	SlowFor, LookFor, RenewEvery time.Duration

	db      *rdb.DB
	log     *slog.Logger
	tasks   *tasks.Queues
	batches *batches.Batches
	ledger  *ledger.Ledger
	fanout  *fanout.Fanout
	Rescue  *rescue
	Pages   *pages

	Holders   holders
	Stuck     stuckBatches
	Schedule  schedule
	Suspected time.Time // when it last looked for queues with tasks that no worker runs
}

// New returns the sweeper of what is in a Redis.
func New(db *rdb.DB, log *slog.Logger, queues *tasks.Queues, all *batches.Batches, actions *ledger.Ledger, fan *fanout.Fanout) *Sweeper {
	s := &Sweeper{
		db: db, log: log, tasks: queues, batches: all, ledger: actions, fanout: fan,
		Rescue: &rescue{db, queues, pause}, Pages: &pages{db, all},
		SlowFor: SlowFor, LookFor: lookFor, RenewEvery: renewEvery,
	}
	s.Recovery = &Recovery{db: db, log: log, tasks: queues, batches: all, ledger: actions, Rescue: s.Rescue, Pages: s.Pages}
	return s
}

// LookAtAll has the next rounds look at all open batches: work may have been lost.
func (s *Sweeper) LookAtAll() { s.Schedule.lookAtAll() }

// ReleaseThrottled implements [batch.Sweeper].
func (s *Sweeper) ReleaseThrottled(ctx context.Context) (waiting int, err error) {
	return s.fanout.ReleaseThrottled(ctx)
}

// rescue puts back tasks that were taken and that no worker runs.
type rescue struct {
	db    *rdb.DB
	tasks *tasks.Queues
	Pause func(ctx context.Context, d time.Duration) error // returns after a duration, or why the context has ended
}

// pages reads the list of open batches.
type pages struct {
	db      *rdb.DB
	batches *batches.Batches
}

// Recovery brings the actions of dead workers to others. It implements [batch.Registry].
type Recovery struct {
	db      *rdb.DB
	log     *slog.Logger
	tasks   *tasks.Queues
	batches *batches.Batches
	ledger  *ledger.Ledger
	Rescue  *rescue
	Pages   *pages
}

// Beat implements [batch.Registry].
func (s *Recovery) Beat(ctx context.Context, worker string) ([]string, error) {
	return s.ledger.Workers.Beat(ctx, worker)
}

// Leave implements [batch.Registry].
func (s *Recovery) Leave(ctx context.Context, worker string) error {
	return s.ledger.Workers.Leave(ctx, worker)
}
