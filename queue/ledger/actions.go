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
	"github.com/batchd/batchd/queue/quotas"
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
func (l *Ledger) Begin(ctx context.Context, id string, index int, worker string) (*batch.Begun, error) {
	if !keys.IsBatchID(id) {
		return &batch.Begun{Verdict: batch.Gone}, nil
	}
	for {
		if err := l.history.settled(ctx); err != nil {
			return nil, err
		}
		r := &batcher.Call{Step: Steps.Begin, ID: id, SharedArgs: []any{worker, ""}, Index: index, Args: []any{l.db.Token()}, ReadAction: true}
		a := l.attempts.begin(id, index, rdb.Text(r.Args[0]))
		begun, err := l.begin(ctx, r, worker)
		if err != nil {
			if mayHaveBegun(r) {
				err = errors.Join(err, l.giveBackBegun(ctx, r))
			}
			l.attempts.notBegun(a)
			return nil, err
		}
		if begun, err = l.Restorer.compareBegun(ctx, a, begun, rdb.Text(r.SharedReply[4])); begun != nil || err != nil {
			return begun, err
		}
	}
}

// mayHaveBegun reports whether the last run of a begin may have begun the action.
func mayHaveBegun(c *batcher.Call) bool {
	return c.Failed() || c.Verdict() != "held" && c.Verdict() != "interrupted"
}

// begin runs the step and reads its answer. After an error, the action may have begun.
func (l *Ledger) begin(ctx context.Context, r *batcher.Call, worker string) (*batch.Begun, error) {
	id, index := r.ID, r.Index
	again := func() error {
		return rdb.RetryUnavailableFor(ctx, beginRetryFor, func() error { return l.batcher.Do(r) })
	}
	err := again()
	if err == nil && r.First {
		l.batches.Outbox.EnqueueIf(ctx, id, rdb.Text(r.SharedReply[2]))
		if waited, ok := r.SharedReply[5].([]any); ok {
			l.batches.RetractInBackground(id, rdb.Texts(waited))
		}
	}
	if err == nil && r.Verdict() == "held" {
		var alive []string
		holder := batches.ParseEntry(r.Reply[1])
		if alive, _, err = l.Workers.Alive(ctx); err == nil && (holder.Worker == worker || !slices.Contains(alive, holder.Worker)) {
			r.SharedArgs = []any{worker, holder.Token}
			err = again()
		}
	}
	if err == nil && r.Verdict() == "interrupted" {
		// A live worker may run the action: this task is a second one, made because the first
		// one seemed to be lost.
		var held bool
		holder := batches.ParseEntry(r.Reply[1])
		if held, err = l.heldByOther(ctx, worker, holder.Worker, holder.Started); held {
			r.Reply[0] = "held"
		}
	}
	if err != nil {
		return nil, fmt.Errorf("begin action %d of batch %s: %w", index, id, err)
	}
	switch r.Verdict() {
	case batcher.Usual, "run":
		return l.begunOf(r, batch.Run)
	case "interrupted":
		return l.begunOf(r, batch.Interrupted)
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

// begunOf reads the answer of lua/begin.lua for an action that has begun.
func (l *Ledger) begunOf(r *batcher.Call, verdict batch.Verdict) (*batch.Begun, error) {
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
	if b.Owner, err = l.verifyHead(r, b.Target); err != nil {
		return nil, err
	}
	if b.Action, err = l.batches.Codec.OpenAction(r.ID, r.Index, rdb.Text(r.Action)); err != nil {
		return nil, err
	}
	if (b.Action.Group != "") != (group != "") {
		return nil, batches.Damaged(r.ID, "g", r.Index, fmt.Errorf("%w: the action and the record do not agree", seal.ErrSealed))
	}
	if group != "" {
		if b.Group, err = l.batches.Codec.OpenGroup(r.ID, r.Index, group); err != nil {
			return nil, err
		}
	}
	if b.Previous, err = l.batches.Codec.Previous(r.ID, r.Index, previous, last); err != nil {
		return nil, err
	}
	return b, nil
}

// verifyHead checks what lua/begin.lua returned of the batch, and by which the worker acts. It
// returns the owner.
func (l *Ledger) verifyHead(r *batcher.Call, target string) (owner string, err error) {
	var head []any
	if len(r.SharedReply) > 6 {
		head, _ = r.SharedReply[6].([]any)
	}
	if len(head) != 5 {
		return "", fmt.Errorf("begin action %d of batch %s: %w", r.Index, r.ID, rdb.ErrAnswer)
	}
	m := rdb.Texts(head)
	return m[0], l.batches.Codec.VerifyTarget(r.ID, m[0], target, m[1], m[2], m[3], m[4])
}

// heldByOther reports whether the holder is another live worker that may still run the action,
// which it began at the given time.
func (l *Ledger) heldByOther(ctx context.Context, worker, holder string, began time.Time) (bool, error) {
	if holder == worker {
		return false, nil
	}
	alive, now, err := l.Workers.Alive(ctx)
	return err == nil && now.Sub(began) <= tasks.TaskTimeout && slices.Contains(alive, holder), err
}

// Finish implements [batch.Ledger].
func (l *Ledger) Finish(ctx context.Context, id string, index int, token batch.Token, r *batch.Result) error {
	state, err := batches.StateOf(r.Outcome)
	if err != nil {
		return err
	}
	try := l.rooms.Store(id)
	for {
		sealed := l.groups.seal(id, index, r)
		origin, waited := "", l.HandOver.Awaited(id)
		if waited > 0 {
			origin = l.db.Name
		}
		call := &batcher.Call{
			Step: Steps.Finish, ID: id, SharedArgs: []any{origin, batches.FirstResults, batches.FirstBytes, try.Forced},
			Index: index, Args: []any{string(token), state, sealed}, CanWait: l.running.Load() > 0, // otherwise no other call may come soon
		}
		if err := l.batcher.Do(call); err != nil {
			return fmt.Errorf("finish action %d of batch %s: %w", index, id, err)
		}
		if call.Verdict() == "stale" && l.Restorer.restored(ctx, id, index, token, batch.ErrStale) {
			continue
		}
		if call.First {
			if ended := call.SharedReply[1]; ended != "" {
				l.HandOver.Tell(id, l.batches.EndedBatch(ctx, id, ended), waited)
			}
			l.batches.Outbox.EnqueueIf(ctx, id, rdb.Text(call.SharedReply[0]))
		}
		if call.Verdict() == quotas.NoRoom {
			if err := try.Again(ctx, int64(len(sealed)), call.Reply[1:], r); err != nil {
				return err
			}
			continue
		}
		err = batches.VerdictError(call.Verdict())
		l.attemptEnded(id, index, token, err, state, sealed, nil)
		return err
	}
}

// Release implements [batch.Ledger].
func (l *Ledger) Release(ctx context.Context, id string, index int, token batch.Token, last *batch.Result) (bool, error) {
	return l.release(ctx, id, index, token, "0", l.batches.Codec.SealLast(id, index, last))
}

// GiveBack implements [batch.Ledger].
func (l *Ledger) GiveBack(ctx context.Context, id string, index int, token batch.Token) (bool, error) {
	return l.release(ctx, id, index, token, "1", nil)
}

// giveBackBegun gives back an action that a begin may have begun and that this process does
// not send. Until Redis replies, the action's fate would count as unknown, so the process
// repeats the step for up to beginRetryFor.
func (l *Ledger) giveBackBegun(ctx context.Context, r *batcher.Call) error {
	ctx = context.WithoutCancel(ctx)
	err := rdb.RetryUnavailableFor(ctx, beginRetryFor, func() error {
		_, err := l.GiveBack(ctx, r.ID, r.Index, batch.Token(rdb.Text(r.Args[0])))
		return err
	})
	if errors.Is(err, batch.ErrStale) || errors.Is(err, batch.ErrNotFound) {
		return nil // the action was not begun, or its batch is gone
	}
	return err
}

// maxReleasing is the most concurrent releases. Each has an exchange and a connection of
// its own: when hundreds of actions are released at once, begins and finishes must still find connections.
const maxReleasing = rdb.PoolSize * 3 / 8

// release runs the release step. unsent is "1" if nothing of the action was sent. It reports whether
// the action waits for its next attempt; it does not if the batch is ending.
func (l *Ledger) release(ctx context.Context, id string, index int, token batch.Token, unsent string, last []byte) (bool, error) {
	select {
	case l.releasing <- struct{}{}:
	case <-ctx.Done():
		return false, fmt.Errorf("release action %d of batch %s: %w", index, id, rdb.MapError(ctx, ctx.Err()))
	}
	answer, err := l.db.Run(ctx, Steps.Release, keys.KeysOf(id).Step(), id, keys.DoneChannel, index, string(token), unsent, last)
	<-l.releasing
	if err != nil {
		l.batches.Doubts.AddIf(id, err)
		return false, fmt.Errorf("release action %d of batch %s: %w", index, id, err)
	}
	l.batches.Outbox.EnqueueIf(ctx, id, answer[1])
	l.batches.RetractInBackground(id, answer[2:])
	err = batches.VerdictError(answer[0])
	if l.Restorer.restored(ctx, id, index, token, err) {
		return l.release(ctx, id, index, token, unsent, last)
	}
	if unsent == "1" {
		l.attempts.uncount(id, index, string(token))
	}
	l.attemptEnded(id, index, token, err, stateWaiting, last, nil)
	return answer[0] == "released", err
}

// AddRunning adds n, which may be negative, to the number of actions that this process runs,
// and returns that number. While actions run, results wait a moment for others to share their
// exchange with Redis.
func (l *Ledger) AddRunning(n int) int { return int(l.running.Add(int64(n))) }
