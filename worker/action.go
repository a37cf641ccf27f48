package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/crash"
	"github.com/batchd/batchd/queue/consumer"
)

const (
	// recordFor is how long a worker tries to record a result while the store is unavailable. Later,
	// the action counts as interrupted.
	recordFor = 90 * time.Minute
	// storePause is the pause between two attempts to record a result.
	storePause = 250 * time.Millisecond
	// heldAgain is the delay of a task whose action is in flight elsewhere.
	heldAgain = 5 * time.Second
	// storeAway is the delay of a task whose action could not be begun or recorded.
	storeAway = time.Second
	// damagedAgain is the delay of a task whose batch cannot be read. A worker with another key may read it.
	damagedAgain = 15 * time.Second
	// deadlineGrace is how long after its batch's deadline an attempt may still be
	// in flight. Most answers come in that time, and an answer is better than the outcome unknown.
	deadlineGrace = 30 * time.Second
)

// actionKey names an action.
type actionKey struct {
	id    string
	index int
}

// acting is the set of actions in flight in this worker. A group is in the set as its
// leader.
type acting struct {
	mu  sync.Mutex
	set map[actionKey]struct{}
}

// enter adds an action, and returns false if the action is already in flight.
func (a *acting) enter(key actionKey) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, in := a.set[key]; in {
		return false
	}
	if a.set == nil {
		a.set = make(map[actionKey]struct{})
	}
	a.set[key] = struct{}{}
	return true
}

func (a *acting) leave(key actionKey) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.set, key)
}

// runAction handles the task of one action.
func (w *Worker) runAction(id string, index int, slot *consumer.Slot) error {
	// If this worker already has the action in flight, a second task waits for its end.
	key := actionKey{id, index}
	if !w.acting.enter(key) {
		return &laterError{after: heldAgain, reason: "the action is in flight"}
	}
	defer w.acting.leave(key)
	crash.At(crash.Taken)
	for {
		begun, err := w.cfg.Ledger.Begin(w.held, id, index, w.cfg.Name)
		if err != nil {
			w.log.WarnContext(w.held, "action could not be begun", "batch", id, "index", index, "error", err)
			return &laterError{after: unreadable(err), reason: "the action could not be begun"}
		}
		switch begun.Verdict {
		case batch.Ended, batch.Gone, batch.Waiting:
			return nil
		case batch.Held:
			return &laterError{after: heldAgain, reason: "another worker has it in flight"}
		case batch.Run:
			defer w.cfg.Ledger.Abandon(id, index, begun.Token)
			if begun.Group != nil {
				return w.runGroup(w.held, id, begun, slot)
			}
			return w.attempt(w.held, id, index, begun, slot)
		case batch.Interrupted:
			again, err := w.resolve(w.held, id, index, begun)
			if err != nil || !again {
				return err
			}
		}
	}
}

// attempt sends an action that this worker has begun.
func (w *Worker) attempt(ctx context.Context, id string, index int, begun *batch.Begun, slot *consumer.Slot) error {
	crash.At(crash.Begun)
	target, known := w.targets[begun.Target]
	var resp *batch.Response
	switch {
	case begun.Action.Refusal != nil:
		resp = notSent(begun, begun.Action.Refusal)
	case known:
		action, cut := cutAtDeadline(begun, &target)
		received := time.Now()
		var unsent error
		if unsent = slot.Approach(ctx); unsent == nil {
			resp, unsent = w.send(ctx, &batch.Request{Target: begun.Target, Owner: begun.Owner, BatchID: id, Index: index, Action: action, Now: begun.StartedAt.Add(time.Since(received))}, slot)
		}
		if unsent != nil { // the task runs again at once, with another send time
			return w.putBack(ctx, id, index, begun, 0, w.cfg.Ledger.GiveBack)
		}
		if cut && resp.Result.Error != nil && resp.Result.Error.Code == batch.CodeTimeout {
			resp.Result.Error.Message += "; it had no more, because the batch's deadline has passed"
		}
		w.observe(ctx, target.Name, resp)
		slot.Leave() // not earlier: the next action must see the hold
	default:
		resp = notSent(begun, &batch.Failure{
			Code: batch.CodeInternal, Message: fmt.Sprintf("the target %q is no longer configured", begun.Target),
		})
	}
	crash.At(crash.Answered)
	w.metrics.attempt(begun.Target, resp)
	if w.log.Enabled(ctx, slog.LevelDebug) { // otherwise its arguments would be allocated
		w.log.DebugContext(ctx, "attempt", "batch", id, "index", index, "target", begun.Target, "attempt", begun.Attempt,
			"outcome", resp.Result.Outcome.String(), "status", resp.Result.Status, "duration", resp.Result.Duration, "repeat", resp.Repeat)
	}

	if resp.Result.Error != nil && resp.Result.Error.Code == batch.CodeInterrupted && resp.Repeat {
		// A shutdown interrupted the attempt.
		if resp.Unsent {
			return w.putBack(ctx, id, index, begun, 0, w.cfg.Ledger.GiveBack)
		}
		return w.release(ctx, id, index, begun, &resp.Result, 0)
	}
	if delay, again := nextAttempt(&target.Retry, begun, resp); again {
		return w.release(ctx, id, index, begun, &resp.Result, delay)
	}
	return w.finish(ctx, id, index, begun, &resp.Result)
}

// send sends a request, at its send time if the target has a rate. It returns an error if it sent
// nothing, because no send time was soon enough or because the worker ends.
func (w *Worker) send(ctx context.Context, r *batch.Request, slot *consumer.Slot) (resp *batch.Response, unsent error) {
	if slot.Paced() {
		r.Ready = func(ctx context.Context) error {
			unsent = slot.Ready(ctx)
			return unsent
		}
	}
	inFlight := w.metrics.inFlight.WithLabelValues(r.Target)
	inFlight.Inc()
	defer inFlight.Dec()
	resp = w.cfg.Dispatcher.Do(ctx, r)
	return resp, unsent
}

// cutAtDeadline returns the action to send, with a timeout that ends soon after its
// batch's deadline, and whether that shortened the timeout. Both times are the
// ledger's.
func cutAtDeadline(begun *batch.Begun, target *batch.Target) (_ *batch.Action, cut bool) {
	timeout := target.Timeout
	if begun.Action.Timeout > 0 {
		timeout = begun.Action.Timeout
	}
	left := begun.ExpiresAt.Sub(begun.StartedAt) + deadlineGrace
	if left >= timeout {
		return &begun.Action, false
	}
	shorter := begun.Action
	shorter.Timeout = left
	return &shorter, true
}

// notSent returns the response of an action that the worker does not send.
func notSent(begun *batch.Begun, why *batch.Failure) *batch.Response {
	return &batch.Response{Unsent: true, Result: batch.Result{Outcome: batch.Errored, StartedAt: begun.StartedAt, Error: why}}
}

// resolve decides about an action that another worker began and did not end. It reports whether this
// worker begins the action again.
func (w *Worker) resolve(ctx context.Context, id string, index int, begun *batch.Begun) (again bool, err error) {
	crash.At(crash.Interrupted)
	target := w.targets[begun.Target]
	w.log.InfoContext(ctx, "action was interrupted", "batch", id, "index", index, "worker", begun.Worker, "attempt", begun.Attempt)
	if w.cfg.Dispatcher.Repeatable(begun.Target, &begun.Action) && begun.Attempt-begun.Earlier < target.Retry.Attempts {
		last := lastAttempt(index, begun, &batch.Result{StartedAt: begun.StartedAt, Error: &batch.Failure{
			Code: batch.CodeInterrupted, Message: "the worker stopped while it was in flight",
		}})
		err := w.retryUnavailable(ctx, func(ctx context.Context) error {
			_, err := w.cfg.Ledger.Release(ctx, id, index, begun.Token, last)
			return err
		})
		crash.At(crash.Resumed)
		switch {
		case errors.Is(err, batch.ErrStale), errors.Is(err, batch.ErrNotFound), err == nil:
			return true, nil // Begin then returns the reason
		default:
			return false, &laterError{after: storeAway, reason: "the action could not be put back"}
		}
	}
	r := &batch.Result{Outcome: batch.Unknown, StartedAt: begun.StartedAt, Error: &batch.Failure{
		Code:    batch.CodeInterrupted,
		Message: "the worker stopped while this action was in flight; it may have reached the target, and it is not safe to send again",
	}}
	if w.cfg.Dispatcher.Repeatable(begun.Target, &begun.Action) {
		r.Outcome = batch.Errored
		r.Error.Message = fmt.Sprintf("the worker stopped while this action was in flight, in each of %d attempts", begun.Attempt)
	}
	return false, w.finish(ctx, id, index, begun, r)
}

// release returns an action to waiting and its task to the queue after the delay. Last is the result
// of the attempt.
func (w *Worker) release(ctx context.Context, id string, index int, begun *batch.Begun, last *batch.Result, delay time.Duration) error {
	last = lastAttempt(index, begun, last)
	return w.putBack(ctx, id, index, begun, delay, func(ctx context.Context, id string, index int, token batch.Token) (bool, error) {
		return w.cfg.Ledger.Release(ctx, id, index, token, last)
	})
}

// putBack returns an action to waiting with the given step of the ledger.
func (w *Worker) putBack(ctx context.Context, id string, index int, begun *batch.Begun, delay time.Duration,
	step func(context.Context, string, int, batch.Token) (bool, error),
) error {
	released := false
	err := w.retryUnavailable(ctx, func(ctx context.Context) (err error) {
		released, err = step(ctx, id, index, begun.Token)
		return err
	})
	if !released || err != nil {
		return w.settled(ctx, id, index, err)
	}
	crash.At(crash.Released)
	return &laterError{after: delay, reason: "waits for its next attempt"}
}

// lastAttempt returns the result of an attempt, in the ledger's form, if another attempt
// follows.
func lastAttempt(index int, begun *batch.Begun, r *batch.Result) *batch.Result {
	last := &batch.Result{
		ID: batch.ActionID(begun.Action.ID, index), Index: index, Status: r.Status, Error: r.Error,
		Attempts: begun.Attempt, StartedAt: r.StartedAt, Duration: r.Duration,
	}
	if begun.Previous != nil {
		last.History = begun.Previous.Past()
	}
	return last
}

// finish records the result of an action.
func (w *Worker) finish(ctx context.Context, id string, index int, begun *batch.Begun, r *batch.Result) error {
	r.ID, r.Index, r.Attempts = batch.ActionID(begun.Action.ID, index), index, begun.Attempt
	if begun.Previous != nil {
		r.History = begun.Previous.Past()
	}
	err := w.retryUnavailable(ctx, func(ctx context.Context) error {
		return w.cfg.Ledger.Finish(ctx, id, index, begun.Token, r)
	})
	crash.At(crash.Finished)
	if err == nil {
		w.metrics.ended(begun.Target, r)
	}
	return w.settled(ctx, id, index, err)
}

// settled converts the answer of the ledger's last step to the error of a task's handler.
func (w *Worker) settled(ctx context.Context, id string, index int, err error) error {
	switch {
	case err == nil, errors.Is(err, batch.ErrNotFound):
		return nil
	case errors.Is(err, batch.ErrStale):
		w.log.InfoContext(ctx, "result refused: the action is no longer this worker's", "batch", id, "index", index)
		return nil
	default:
		w.log.ErrorContext(ctx, "result not recorded", "batch", id, "index", index, "error", err)
		return &laterError{after: storeAway, reason: "the result could not be recorded"}
	}
}

// retryUnavailable repeats a step of the ledger while the store is unavailable. At this point the
// target has processed the request, so the result must not be lost. retryUnavailable continues
// during a shutdown.
func (w *Worker) retryUnavailable(ctx context.Context, step func(context.Context) error) error {
	ctx = context.WithoutCancel(ctx)
	err := step(ctx)
	if !isAway(err) {
		return err // the usual case, so it needs no timer
	}
	ctx, cancel := context.WithTimeout(ctx, recordFor)
	defer cancel()
	for {
		select {
		case <-ctx.Done():
			return err
		case <-time.After(storePause):
		}
		if err = step(ctx); !isAway(err) {
			return err
		}
	}
}

// unreadable returns the delay of a task whose action or batch could not be read.
func unreadable(err error) time.Duration {
	if damaged := (*batch.DamagedError)(nil); errors.As(err, &damaged) {
		return damagedAgain
	}
	return storeAway
}

// isAway reports whether the store was unavailable.
func isAway(err error) bool {
	away := (*batch.UnavailableError)(nil)
	return err != nil && errors.As(err, &away)
}
