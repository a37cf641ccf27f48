// Package fanout offers the actions of committed and retried batches to the workers: all actions of a batch at
// once or, if the batch is throttled, as many as the limit of its owner admits.
//
// It does not store batches (package upload), keep the fair queues and their tasks (package tasks), count actions
// against limits (package limits), or look for batches that make no progress (package repair).
package fanout

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/crash"
	"github.com/batchd/batchd/queue/batches"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/limits"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
)

// recordPause is the default of [Fanout.RecordPause].
const recordPause = 100 * time.Millisecond

// Fanout offers the actions of batches in one Redis. It is safe for concurrent use.
type Fanout struct {
	// RecordPause is the time for which a process collects small batches before it records that their actions are
	// offered. It must not change while batches are committed.
	RecordPause time.Duration

	offered   offeredBatches
	throttled throttledBatches

	db         *rdb.DB
	log        *slog.Logger
	background *rdb.Background
	tasks      *tasks.Queues
	limits     *limits.Limits
	batches    *batches.Batches
}

// New returns the fan-out of batches in a Redis.
func New(db *rdb.DB, log *slog.Logger, background *rdb.Background, queues *tasks.Queues, limits *limits.Limits, all *batches.Batches) *Fanout {
	return &Fanout{db: db, log: log, background: background, tasks: queues, limits: limits, batches: all, RecordPause: recordPause}
}

// Batch is a batch whose actions from the index From to Total-1 the fan-out offers to the workers.
type Batch struct {
	tasks.Flow
	From, Total int
	Offered     bool // the commit offered all actions, and the process only records that
	Resumed     bool // an earlier fan-out did not finish, so some actions may have run
	Throttled   bool // the limit of the owner decides how many actions are handed out; see [Fanout.ReleaseThrottled]
}

// offeredBatches are batches whose commits offered all actions, and for which the process has not recorded that.
type offeredBatches struct {
	mu      sync.Mutex
	batches []Batch
}

// Start offers the actions of a batch that was just committed to the workers. It returns no error: the batch is
// accepted, and if the fan-out fails, the sweeper finishes it.
func (f *Fanout) Start(ctx context.Context, b Batch) {
	if b.Offered {
		f.recordLater(rdb.Detached(ctx), b)
		return
	}
	run := func(ctx context.Context) {
		offer := f.Offer
		if b.Throttled {
			offer = func(ctx context.Context, b Batch) error { return f.release(ctx, b.ID) }
		}
		if err := offer(ctx, b); err != nil {
			f.log.WarnContext(ctx, "fan-out failed, the sweeper will finish it", "batch", b.ID, "error", err)
		}
	}
	f.runAndWait(ctx, run)
}

// runAndWait runs a fan-out, and waits for it for the time of one exchange. A slow fan-out continues in the
// background.
func (f *Fanout) runAndWait(ctx context.Context, run func(ctx context.Context)) {
	ctx, cancel := f.db.WithTimeout(ctx) // the wait counts towards the budget of the request
	defer cancel()
	f.background.GoAndWait(ctx, run)
}

// Offer offers the actions of a batch to the workers. Repeating it is harmless: an action that has a task gets no
// second task, and the ledger does not begin an action that has ended. While Redis is unavailable, Offer tries
// again, because the sweeper would take over only after a while.
func (f *Fanout) Offer(ctx context.Context, b Batch) error {
	err := rdb.RetryUnavailable(ctx, func() error {
		if b.Resumed {
			return f.OfferWaiting(ctx, b.Flow, b.From, b.Total)
		}
		b.Resumed = true // Redis may have run the step although its reply was lost
		return f.tasks.Offer(ctx, b.Flow, []tasks.IndexRange{{From: b.From, To: b.Total}})
	})
	if err != nil {
		return err
	}
	crash.At(crash.Offered)
	goesOn, err := f.recordProgress(ctx, b.ID, "", b.Total)
	if err != nil {
		return err
	}
	if !goesOn { // the batch ended, and the step that ended it may have retracted its actions before this offer
		f.tasks.Retract(ctx, b.Flow)
	}
	crash.At(crash.FannedOut)
	return nil
}

// recordProgress records the index up to which the actions of a batch are enqueued in the round that has the
// grant. It reports whether the fan-out of that round continues.
func (f *Fanout) recordProgress(ctx context.Context, id, grant string, upTo int) (bool, error) {
	var answer []string
	err := rdb.RetryUnavailable(ctx, func() (err error) {
		answer, err = f.db.Run(ctx, Steps.Progress, []string{keys.KeysOf(id).Meta}, upTo, grant)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("record the progress of the fan-out: %w", err)
	}
	return answer[0] == "1", nil
}

// recordLater records after a pause that all actions of a batch are offered, together with the other batches of
// that time. Most small batches have ended by then. If the record is lost, the sweeper offers the actions again,
// which changes nothing.
func (f *Fanout) recordLater(ctx context.Context, b Batch) {
	o := &f.offered
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.batches = append(o.batches, b); len(o.batches) > 1 {
		return
	}
	f.background.Go(func(closing context.Context) {
		select {
		case <-closing.Done():
		case <-time.After(f.RecordPause):
		}
		o.mu.Lock()
		all := o.batches
		o.batches = nil
		o.mu.Unlock()
		for part := range slices.Chunk(all, tasks.FanOutChunk) {
			err := rdb.RetryUnavailable(ctx, func() error {
				err := f.recordOffered(ctx, part)
				if err != nil && closing.Err() != nil {
					return fmt.Errorf("the store closes: %s", err.Error()) // does not wrap err, so that this is not repeated
				}
				return err
			})
			if err != nil {
				f.log.WarnContext(ctx, "progress of fan-outs not recorded, the sweeper will check them", "error", err)
				return
			}
		}
	})
}

// recordOffered records that all actions of the batches are offered. It tries every batch, and returns the error
// of the last one that failed.
func (f *Fanout) recordOffered(ctx context.Context, all []Batch) error {
	ctx, cancel := f.db.WithTimeout(ctx)
	defer cancel()
	pipe := f.db.Client.Pipeline()
	steps := make([]*redis.Cmd, len(all))
	for i, b := range all {
		steps[i] = pipe.EvalSha(ctx, Steps.Progress.Hash(), []string{keys.KeysOf(b.ID).Meta}, b.Total, "")
	}
	f.db.Send(ctx, pipe)
	var fault error
	for _, step := range steps {
		if err := f.db.AnswerOf(ctx, Steps.Progress, step).Err(); err != nil {
			fault = rdb.MapError(ctx, err)
		}
	}
	return fault
}
