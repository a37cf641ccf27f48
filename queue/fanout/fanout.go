package fanout

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/crash"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
)

const (
	// notePause is how long it takes until it is noted that a small batch is enqueued.
	notePause = 100 * time.Millisecond
)

// Batch offers the actions of a batch to the workers, from an index on.
type Batch struct {
	tasks.Flow
	From, Total int
	Offered     bool // with the commit: the process has only to note it
	Resumed     bool // an earlier fan-out broke off: some of the actions may have run
	Throttled   bool // handed out as the owner's limit allows; see feed
}

// offered are the batches of which all was offered with the commit, and is not noted yet.
type offered struct {
	mu    sync.Mutex
	whole []Batch
	Pause time.Duration // until they are noted
}

// Start offers the actions of a batch that was just committed to the workers. It returns no
// error, since the batch is accepted and the sweeper finishes a fan-out that breaks off.
func (s *Fanout) Start(ctx context.Context, f Batch) {
	if f.Offered {
		s.noteWhole(rdb.Detached(ctx), f)
		return
	}
	run := func(ctx context.Context) {
		hand := s.Offer
		if f.Throttled {
			hand = func(ctx context.Context, f Batch) error { return s.release(ctx, f.ID) }
		}
		if err := hand(ctx, f); err != nil {
			s.log.WarnContext(ctx, "fan-out broke off, the sweeper will finish it", "batch", f.ID, "error", err)
		}
	}
	// The fan-out goes on if it takes longer, but its client does not wait for that.
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	s.background.GoAndWait(ctx, run)
}

// Offer offers the actions of a batch to the workers. Doing it twice is harmless: an action that
// has a task gets no second one, and the ledger refuses to begin one that has ended. While Redis is
// away it goes on trying: the sweeper would wait for a while before it takes over.
func (s *Fanout) Offer(ctx context.Context, f Batch) error {
	err := rdb.RetryUnavailable(ctx, func() error {
		if f.Resumed {
			return s.OfferWaiting(ctx, f.Flow, f.From, f.Total)
		}
		f.Resumed = true // if the reply is lost
		return s.tasks.Offer(ctx, f.Flow, []tasks.IndexRange{{From: f.From, To: f.Total}})
	})
	if err != nil {
		return err
	}
	crash.At(crash.Offered)
	goesOn, err := s.noteProgress(ctx, f.ID, "", f.Total)
	if err != nil {
		return err
	}
	if !goesOn { // the batch ended, and what waited may have been taken back before it was offered
		s.tasks.Retract(ctx, f.Flow)
	}
	crash.At(crash.FannedOut)
	return nil
}

// noteProgress notes up to which index a batch is enqueued in the round with that grant, and
// reports whether it is to go on.
func (s *Fanout) noteProgress(ctx context.Context, id, grant string, upTo int) (bool, error) {
	var answer []string
	err := rdb.RetryUnavailable(ctx, func() (err error) {
		answer, err = s.db.Run(ctx, Steps.Progress, []string{keys.KeysOf(id).Meta}, upTo, grant)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("note the progress: %w", err)
	}
	return answer[0] == "1", nil
}

// noteWhole notes that all of a batch is offered, together with other batches of the same moment: most
// small batches have ended by then. If that is lost, the sweeper offers the batch once more, which
// changes nothing.
func (s *Fanout) noteWhole(ctx context.Context, f Batch) {
	o := &s.Offered
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.whole = append(o.whole, f); len(o.whole) > 1 {
		return
	}
	s.background.Go(func(closing context.Context) {
		select {
		case <-closing.Done():
		case <-time.After(o.Pause):
		}
		o.mu.Lock()
		whole := o.whole
		o.whole = nil
		o.mu.Unlock()
		for part := range slices.Chunk(whole, tasks.FanOutChunk) {
			err := rdb.RetryUnavailable(ctx, func() error {
				err := s.NoteAll(ctx, part)
				if err != nil && closing.Err() != nil {
					return fmt.Errorf("the store closes: %s", err.Error()) // so this is not repeated
				}
				return err
			})
			if err != nil {
				s.log.WarnContext(ctx, "fan-outs not noted, the sweeper will look at them", "error", err)
				return
			}
		}
	})
}

// NoteAll notes that batches are offered. It tries all of them.
func (s *Fanout) NoteAll(ctx context.Context, whole []Batch) error {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	pipe := s.db.Client.Pipeline()
	steps := make([]*redis.Cmd, len(whole))
	for i, f := range whole {
		steps[i] = pipe.EvalSha(ctx, Steps.Progress.Hash(), []string{keys.KeysOf(f.ID).Meta}, f.Total, "")
	}
	s.db.Send(ctx, pipe)
	var fault error
	for _, step := range steps {
		if err := s.db.AnswerOf(ctx, Steps.Progress, step).Err(); err != nil {
			fault = rdb.MapError(ctx, err)
		}
	}
	return fault
}
