package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/batcher"
	"github.com/batchd/batchd/queue/batches"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
	"github.com/batchd/batchd/queue/tasks"
)

const (
	// beginRetryFor is how long a process repeats a begin, or gives the action back, while Redis
	// is away. A process that gave up earlier would leave the action in doubt.
	beginRetryFor = 90 * time.Minute
)

// Begin implements [batch.Ledger].
func (s *Ledger) Begin(ctx context.Context, id string, index int, worker string) (*batch.Begun, error) {
	if !keys.IsBatchID(id) {
		return &batch.Begun{Verdict: batch.Gone}, nil
	}
	for {
		if err := s.history.settled(ctx); err != nil {
			return nil, err
		}
		r := &batcher.Call{Step: Steps.Begin, ID: id, SharedArgs: []any{worker, ""}, Index: index, Args: []any{s.db.Token()}, ReadAction: true}
		a := s.attempts.begin(id, index, rdb.Text(r.Args[0]))
		begun, err := s.begin(ctx, r, worker)
		if err != nil {
			if mayHaveBegun(r) {
				err = errors.Join(err, s.giveBackBegun(ctx, r))
			}
			s.attempts.notBegun(a)
			return nil, err
		}
		if begun, err = s.Restorer.compareBegun(ctx, a, begun, rdb.Text(r.SharedReply[4])); begun != nil || err != nil {
			return begun, err
		}
	}
}

// mayHaveBegun reports whether the last run of a begin may have begun the action.
func mayHaveBegun(c *batcher.Call) bool {
	return c.Failed() || c.Verdict() != "held" && c.Verdict() != "interrupted"
}

// begin runs the step and reads its answer. With an error the action may be begun.
func (s *Ledger) begin(ctx context.Context, r *batcher.Call, worker string) (*batch.Begun, error) {
	id, index := r.ID, r.Index
	again := func() error {
		return rdb.RetryUnavailableFor(ctx, beginRetryFor, func() error { return s.batcher.Do(r) })
	}
	err := again()
	if err == nil && r.First {
		s.batches.Outbox.EnqueueIf(ctx, id, rdb.Text(r.SharedReply[2]))
		if waited, ok := r.SharedReply[5].([]any); ok {
			s.batches.RetractInBackground(id, rdb.Texts(waited))
		}
	}
	if err == nil && r.Verdict() == "held" {
		var alive []string
		holder := batches.ParseEntry(r.Reply[1])
		if alive, err = s.Workers.Alive(ctx); err == nil && (holder.Worker == worker || !slices.Contains(alive, holder.Worker)) {
			r.SharedArgs = []any{worker, holder.Token}
			err = again()
		}
	}
	if err == nil && r.Verdict() == "interrupted" {
		// A live worker may run the action: this task is a second one, made because the first
		// one seemed to be lost.
		var held bool
		holder := batches.ParseEntry(r.Reply[1])
		if held, err = s.heldByOther(ctx, worker, holder.Worker, holder.Started); held {
			r.Reply[0] = "held"
		}
	}
	if err != nil {
		return nil, fmt.Errorf("begin action %d of batch %s: %w", index, id, err)
	}
	switch r.Verdict() {
	case batcher.Usual, "run":
		return s.begunOf(r, batch.Run)
	case "interrupted":
		return s.begunOf(r, batch.Interrupted)
	case "ended":
		return &batch.Begun{Verdict: batch.Ended}, nil
	case "gone":
		return &batch.Begun{Verdict: batch.Gone}, nil
	case "held":
		return &batch.Begun{Verdict: batch.Held}, nil
	case "waiting":
		return &batch.Begun{Verdict: batch.Waiting}, nil
	default:
		return nil, fmt.Errorf("begin action %d of batch %s: %w: %q", index, id, rdb.ErrAnswer, r.Verdict())
	}
}

// begunOf reads the answer of lua/begin.lua for an action that has been begun.
func (s *Ledger) begunOf(r *batcher.Call, verdict batch.Verdict) (*batch.Begun, error) {
	b := &batch.Begun{Verdict: verdict, ExpiresAt: rdb.FromMillis(rdb.Text(r.SharedReply[0])), Target: rdb.Text(r.SharedReply[1])}
	var group, previous, last string
	if r.Reply == nil {
		b.Token, b.Worker = batch.Token(rdb.Text(r.Args[0])), rdb.Text(r.SharedArgs[0])
		b.Attempt, b.StartedAt = 1, rdb.FromMillis(rdb.Text(r.SharedReply[3]))
		b.FirstAt = b.StartedAt
	} else {
		e := batches.ParseEntry(r.Reply[1])
		b.Token, b.Worker = batch.Token(e.Token), e.Worker
		b.Attempt, b.Earlier, b.FirstAt, b.StartedAt = e.Attempts, e.Earlier, e.First, e.Started
		group, previous, last = r.Reply[2], r.Reply[3], r.Reply[4]
	}
	var err error
	if b.Action, err = s.batches.Codec.OpenAction(r.ID, r.Index, rdb.Text(r.Action)); err != nil {
		return nil, err
	}
	if group != "" {
		if b.Group, err = s.batches.Codec.OpenGroup(r.ID, r.Index, group); err != nil {
			return nil, err
		}
	}
	if b.Previous, err = s.batches.Codec.Previous(r.ID, r.Index, previous, last); err != nil {
		return nil, err
	}
	return b, nil
}

// heldByOther reports whether another live worker may still run an action that it began at
// that time.
func (s *Ledger) heldByOther(ctx context.Context, worker, holder string, began time.Time) (bool, error) {
	if holder == worker {
		return false, nil
	}
	now, err := s.db.Now(ctx)
	if err != nil || now.Sub(began) > tasks.TaskTimeout {
		return false, err
	}
	alive, err := s.Workers.Alive(ctx)
	return slices.Contains(alive, holder), err
}

// Finish implements [batch.Ledger].
func (s *Ledger) Finish(ctx context.Context, id string, index int, token batch.Token, r *batch.Result) error {
	state, err := batches.StateOf(r.Outcome)
	if err != nil {
		return err
	}
	sealed := s.seals.Seal(seal.Label{ID: id, Kind: "r", Index: index}, r.Encode())
	origin, waited := "", s.HandOver.Awaited(id)
	if waited > 0 {
		origin = s.db.Name
	}
	call := &batcher.Call{
		Step: Steps.Finish, ID: id, SharedArgs: []any{origin, batches.FirstResults, batches.FirstBytes},
		Index: index, Args: []any{string(token), state, sealed}, CanWait: s.running.Load() > 0, // otherwise no other call may come soon
	}
	if err := s.batcher.Do(call); err != nil {
		return fmt.Errorf("finish action %d of batch %s: %w", index, id, err)
	}
	if call.Verdict() == "stale" && s.Restorer.restored(ctx, id, index, token, batch.ErrStale) {
		return s.Finish(ctx, id, index, token, r)
	}
	if call.First {
		if ended := call.SharedReply[1]; ended != "" {
			s.HandOver.Tell(id, s.batches.EndedBatch(ctx, id, ended), waited)
		}
		s.batches.Outbox.EnqueueIf(ctx, id, rdb.Text(call.SharedReply[0]))
	}
	err = batches.VerdictError(call.Verdict())
	s.attemptEnded(id, index, token, err, state, sealed, nil)
	return err
}

// Release implements [batch.Ledger].
func (s *Ledger) Release(ctx context.Context, id string, index int, token batch.Token, last *batch.Result) (bool, error) {
	return s.release(ctx, id, index, token, "0", s.batches.Codec.SealLast(id, index, last))
}

// GiveBack implements [batch.Ledger].
func (s *Ledger) GiveBack(ctx context.Context, id string, index int, token batch.Token) (bool, error) {
	return s.release(ctx, id, index, token, "1", nil)
}

// giveBackBegun gives back an action that a begin may have begun and that this process does
// not send. Until Redis replies, the action's fate would count as unknown, so the process
// repeats the step for up to beginRetryFor.
func (s *Ledger) giveBackBegun(ctx context.Context, r *batcher.Call) error {
	ctx = context.WithoutCancel(ctx)
	err := rdb.RetryUnavailableFor(ctx, beginRetryFor, func() error {
		_, err := s.GiveBack(ctx, r.ID, r.Index, batch.Token(rdb.Text(r.Args[0])))
		return err
	})
	if errors.Is(err, batch.ErrStale) || errors.Is(err, batch.ErrNotFound) {
		return nil // it was not begun, or is gone
	}
	return err
}

// maxReleasing is the most concurrent releases. Each has an exchange and a connection of
// its own: when hundreds of actions are released at once, begins and finishes must still find connections.
const maxReleasing = rdb.PoolSize * 3 / 8

func (s *Ledger) release(ctx context.Context, id string, index int, token batch.Token, unsent string, last []byte) (bool, error) {
	select {
	case s.releasing <- struct{}{}:
	case <-ctx.Done():
		return false, fmt.Errorf("release action %d of batch %s: %w", index, id, rdb.MapError(ctx, ctx.Err()))
	}
	answer, err := s.db.Run(ctx, Steps.Release, keys.KeysOf(id).Step(), id, keys.DoneChannel, index, string(token), unsent, last)
	<-s.releasing
	if err != nil {
		s.batches.Doubts.AddIf(id, err)
		return false, fmt.Errorf("release action %d of batch %s: %w", index, id, err)
	}
	s.batches.Outbox.EnqueueIf(ctx, id, answer[1])
	s.batches.RetractInBackground(id, answer[2:])
	err = batches.VerdictError(answer[0])
	if s.Restorer.restored(ctx, id, index, token, err) {
		return s.release(ctx, id, index, token, unsent, last)
	}
	if unsent == "1" {
		s.attempts.uncount(id, index, string(token))
	}
	s.attemptEnded(id, index, token, err, stateWaiting, last, nil)
	return answer[0] == "released", err
}

// AddRunning adds n, which may be negative, to the number of actions that this process runs,
// and returns that number. While actions run, results wait a moment for others to share their
// exchange with Redis.
func (s *Ledger) AddRunning(n int) int { return int(s.running.Add(int64(n))) }
