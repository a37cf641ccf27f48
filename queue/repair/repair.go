// Package repair finds and repairs what crashes and lost replies left: open batches that make no
// progress, tasks that no worker runs, and the actions of dead workers.
//
// It decides nothing about attempts: it makes tasks, and the worker that begins an action asks
// package ledger. Package fanout offers actions and releases throttled batches; package batches
// keeps the list of open batches.
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

// Sweeper looks after open batches. It implements [batch.Sweeper]. One goroutine calls Sweep; others may call Feed and recover.
type Sweeper struct {
	Recovery *Recovery
	Timing   *Timing

	db      *rdb.DB
	log     *slog.Logger
	tasks   *tasks.Queues
	batches *batches.Batches
	ledger  *ledger.Ledger
	fanout  *fanout.Fanout
	rescue  *rescue
	pages   *pages

	holders       holders
	stuck         stuckBatches
	schedule      schedule
	leasesChecked time.Time // when it last looked for queues with tasks that no worker runs
}

// Timing has the times of a sweeper and its recovery. [New] sets the defaults, and only tests
// change them.
type Timing struct {
	// SlowFor is how long the checks of a round may take that need several exchanges. At least
	// one is made. What becomes due in the round, such as a deadline, waits for its end.
	SlowFor time.Duration
	// LookFor is how long the check of one batch may take. The next round continues it.
	LookFor time.Duration
	// RenewEvery is how often a round extends the lease of the sweeper.
	RenewEvery time.Duration
	// StuckAfter is how long a batch may make no progress before the sweeper checks whether
	// some of its tasks are lost.
	StuckAfter time.Duration
	// CheckLeasesEvery is how often the sweeper looks for queues that have tasks with expired
	// leases.
	CheckLeasesEvery time.Duration
	// Sleep returns after a duration, or with the cause of the context once it has ended.
	Sleep func(ctx context.Context, d time.Duration) error
}

// New returns the sweeper of what is in a Redis.
func New(db *rdb.DB, log *slog.Logger, queues *tasks.Queues, all *batches.Batches, actions *ledger.Ledger, fan *fanout.Fanout) *Sweeper {
	timing := &Timing{
		SlowFor: defaultSlowFor, LookFor: defaultLookFor, RenewEvery: defaultRenewEvery, StuckAfter: defaultStuckAfter, CheckLeasesEvery: rescueEvery, Sleep: sleep,
	}
	s := &Sweeper{
		db: db, log: log, tasks: queues, batches: all, ledger: actions, fanout: fan,
		rescue: &rescue{db, queues, timing}, pages: &pages{db, all},
		Timing: timing,
	}
	s.Recovery = &Recovery{db: db, log: log, tasks: queues, batches: all, ledger: actions, rescue: s.rescue, pages: s.pages}
	return s
}

// MakeAllDue makes all open batches due now.
func (s *Sweeper) MakeAllDue(ctx context.Context) error { return s.pages.makeAllDue(ctx) }

// LookAtAll has the next rounds look at all open batches: work may have been lost.
func (s *Sweeper) LookAtAll() { s.schedule.lookAtAll() }

// ReleaseThrottled implements [batch.Sweeper].
func (s *Sweeper) ReleaseThrottled(ctx context.Context) (waiting int, err error) {
	return s.fanout.ReleaseThrottled(ctx)
}

// rescue puts back tasks that were taken and that no worker runs.
type rescue struct {
	db     *rdb.DB
	tasks  *tasks.Queues
	timing *Timing
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
	rescue  *rescue
	pages   *pages
}

// Beat implements [batch.Registry].
func (s *Recovery) Beat(ctx context.Context, worker string) ([]string, error) {
	return s.ledger.Workers.Beat(ctx, worker)
}

// Leave implements [batch.Registry].
func (s *Recovery) Leave(ctx context.Context, worker string) error {
	return s.ledger.Workers.Leave(ctx, worker)
}
