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
	"github.com/batchd/batchd/queue/lists"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
)

// Sweeper checks open batches in rounds, and repairs them. It implements [batch.Sweeper]. Only one
// goroutine may call Sweep; others may call ReleaseThrottled and use Recovery meanwhile.
type Sweeper struct {
	Recovery *Recovery
	Timing   *Timing

	db      *rdb.DB
	tasks   *tasks.Queues
	batches *batches.Batches
	lists   *lists.Lists
	ledger  *ledger.Ledger
	fanout  *fanout.Fanout
	rescue  *rescue
	pages   *pages

	cleaned       time.Time // when the sweeper last cleaned the lists of batches
	holders       holders
	stuck         stuckBatches
	schedule      schedule
	leasesChecked time.Time // when the sweeper last looked for queues with expired leases
}

// Timing has the times of a sweeper and its recovery. [New] sets the defaults, and only tests
// change them.
type Timing struct {
	// SlowFor is how long all slow checks of a round may take, which need several exchanges. A
	// round makes at least one. A deadline that passes during the round waits for the next round.
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

// New returns a sweeper for the batches in a Redis.
func New(db *rdb.DB, log *slog.Logger, queues *tasks.Queues, all *batches.Batches, of *lists.Lists, actions *ledger.Ledger, fan *fanout.Fanout) *Sweeper {
	timing := &Timing{
		SlowFor: defaultSlowFor, LookFor: defaultLookFor, RenewEvery: defaultRenewEvery, StuckAfter: defaultStuckAfter, CheckLeasesEvery: rescueEvery, Sleep: sleep,
	}
	s := &Sweeper{
		db: db, tasks: queues, batches: all, lists: of, cleaned: time.Now(), ledger: actions, fanout: fan,
		rescue: &rescue{db, queues, timing}, pages: &pages{db, all},
		Timing: timing,
	}
	s.Recovery = &Recovery{db: db, log: log, tasks: queues, batches: all, ledger: actions, rescue: s.rescue, pages: s.pages}
	return s
}

// MakeAllDue makes all open batches due now, so that the next round checks them.
func (s *Sweeper) MakeAllDue(ctx context.Context) error { return s.pages.makeAllDue(ctx) }

// LookAtAll makes the next rounds check all open batches. Callers use it when work may have been
// lost.
func (s *Sweeper) LookAtAll() { s.schedule.lookAtAll() }

// ReleaseThrottled implements [batch.Sweeper].
func (s *Sweeper) ReleaseThrottled(ctx context.Context) (waiting int, err error) {
	return s.fanout.ReleaseThrottled(ctx)
}

// rescue returns tasks to their queues that a poll has taken and that no worker runs.
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

// Recovery makes new tasks for the actions of dead workers. It implements [batch.Registry].
type Recovery struct {
	db      *rdb.DB
	log     *slog.Logger
	tasks   *tasks.Queues
	batches *batches.Batches
	ledger  *ledger.Ledger
	rescue  *rescue
	pages   *pages
}

// Beat implements [batch.Registry]. The dead workers are those whose last beat is older than
// batch.DeadAfter by Redis's clock.
func (r *Recovery) Beat(ctx context.Context, worker string) ([]string, error) {
	return r.ledger.Workers.Beat(ctx, worker)
}

// Leave implements [batch.Registry]. No later Beat returns the worker as dead.
func (r *Recovery) Leave(ctx context.Context, worker string) error {
	return r.ledger.Workers.Leave(ctx, worker)
}
