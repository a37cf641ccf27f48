package queue

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/crash"
	"github.com/batchd/batchd/queue/rdb"
)

const (
	// fanOutChunk is the number of tasks made, or actions handed out, in one exchange.
	fanOutChunk = 100
	// notePause is how long it takes until it is noted that a small batch is enqueued.
	notePause = 100 * time.Millisecond
	// taskTimeout is what asynq is told of how long a task may run. Handlers' own
	// bounds are shorter.
	taskTimeout = batch.MaxTimeout + time.Hour
	// forever keeps asynq from ever archiving a task: the ledger decides when
	// an action ends.
	forever = 1 << 30
)

// fanOut offers the actions of a batch to the workers, from an index on.
type fanOut struct {
	flow
	from, total int
	offered     bool // with the commit: the process has only to note it
	resumed     bool // an earlier fan-out broke off: some of the actions may have run
	throttled   bool // handed out as the owner's limit allows; see feed
}

// offered are the batches of which all was offered with the commit, and is not noted yet.
type offered struct {
	mu    sync.Mutex
	whole []fanOut
	pause time.Duration // until they are noted
}

// startFanOut offers the actions of a batch that was just committed to the workers. It returns no
// error, since the batch is accepted and the sweeper finishes a fan-out that breaks off.
func (s *Store) startFanOut(ctx context.Context, f fanOut) {
	if f.offered {
		s.noteWhole(rdb.Detached(ctx), f)
		return
	}
	run := func(ctx context.Context) {
		hand := s.fanOut
		if f.throttled {
			hand = func(ctx context.Context, f fanOut) error { return s.feed(ctx, f.id) }
		}
		if err := hand(ctx, f); err != nil {
			s.log.WarnContext(ctx, "fan-out broke off, the sweeper will finish it", "batch", f.id, "error", err)
		}
	}
	// The fan-out goes on if it takes longer, but its client does not wait for that.
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	s.background.GoAndWait(ctx, run)
}

// fanOut offers the actions of a batch to the workers. Doing it twice is harmless: an action that
// has a task gets no second one, and the ledger refuses to begin one that has ended. While Redis is
// away it goes on trying: the sweeper would wait for a while before it takes over.
func (s *Store) fanOut(ctx context.Context, f fanOut) error {
	err := rdb.RetryUnavailable(ctx, func() error {
		if f.resumed {
			return s.offerWaiting(ctx, f.flow, f.from, f.total)
		}
		f.resumed = true // if the reply is lost
		return s.offer(ctx, f.flow, []indexRange{{f.from, f.total}})
	})
	if err != nil {
		return err
	}
	crash.At(crash.Offered)
	goesOn, err := s.noteProgress(ctx, f.id, "", f.total)
	if err != nil {
		return err
	}
	if !goesOn { // the batch ended, and what waited may have been taken back before it was offered
		s.retract(ctx, f.flow)
	}
	crash.At(crash.FannedOut)
	return nil
}

// noteProgress notes up to which index a batch is enqueued in the round with that grant, and
// reports whether it is to go on.
func (s *Store) noteProgress(ctx context.Context, id, grant string, upTo int) (bool, error) {
	var answer []string
	err := rdb.RetryUnavailable(ctx, func() (err error) {
		answer, err = s.db.Run(ctx, s.steps.progress, []string{keysOf(id).meta}, upTo, grant)
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
func (s *Store) noteWhole(ctx context.Context, f fanOut) {
	o := &s.offered
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.whole = append(o.whole, f); len(o.whole) > 1 {
		return
	}
	s.background.Go(func(closing context.Context) {
		select {
		case <-closing.Done():
		case <-time.After(o.pause):
		}
		o.mu.Lock()
		whole := o.whole
		o.whole = nil
		o.mu.Unlock()
		for part := range slices.Chunk(whole, fanOutChunk) {
			err := rdb.RetryUnavailable(ctx, func() error {
				err := s.noteAll(ctx, part)
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

// noteAll notes that batches are offered. It tries all of them.
func (s *Store) noteAll(ctx context.Context, whole []fanOut) error {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	pipe := s.db.Client.Pipeline()
	steps := make([]*redis.Cmd, len(whole))
	for i, f := range whole {
		steps[i] = pipe.EvalSha(ctx, s.steps.progress.Hash(), []string{keysOf(f.id).meta}, f.total, "")
	}
	s.db.Send(ctx, pipe)
	var fault error
	for _, step := range steps {
		if err := s.db.AnswerOf(ctx, s.steps.progress, step).Err(); err != nil {
			fault = rdb.MapError(ctx, err)
		}
	}
	return fault
}
