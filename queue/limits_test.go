package queue

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/rdb"
)

// queued returns how many tasks of actions wait.
func (b *bundle) queued() int { return len(b.pending(batch.Interactive)) }

// throttledBatch submits a batch whose actions are handed out as a limit allows.
func (b *bundle) throttledBatch(n int, limit batch.Limit) string {
	b.t.Helper()
	s := spec()
	s.Throttle = &limit
	return b.submit(n, s).ID
}

// free returns how many actions a limit would let in now.
func (b *bundle) free(limit batch.Limit) int {
	b.t.Helper()
	u, n, _, err := b.ask("me", 1000, limit, true)
	require.NoError(b.t, err)
	u.Abort(b.ctx)
	return n
}

// drop removes the tasks of an action that has ended, as its worker does.
func (b *bundle) drop(id string, index int) {
	b.t.Helper()
	b.create()
	for _, round := range []string{"", "2", "3"} {
		err := b.inspector().DeleteTask(b.queueOf(crm(batch.Interactive), id, index), taskID(id, index, round))
		if !errors.Is(err, asynq.ErrTaskNotFound) && !errors.Is(err, asynq.ErrQueueNotFound) {
			require.NoError(b.t, err)
		}
	}
}

func (b *bundle) feeds() {
	b.t.Helper()
	require.NoError(b.t, second(b.Feed(b.ctx)))
}

// throttled returns the batches that wait for their owners' limits.
func (b *bundle) throttled(ctx context.Context) ([]string, error) {
	return b.db.Client.ZRange(ctx, throttledKey, 0, -1).Result()
}

// While a process hands out what a limit gave it, others ask the same limit.
func TestWhatIsBeingHandedOutIsGivenToNoOther(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		limit := batch.Limit{Concurrent: 4}
		require.Equal(t, 4, b.free(limit)) // from here on the server knows the step, and answers the first call
		for name, text := range map[string]string{
			"before it is handed out":        b.steps.handout.Hash(),
			"before it is offered":           b.steps.offer.Hash(),
			"before that is noted":           b.steps.progress.Hash(),
			"while another process feeds it": b.steps.admit.Hash(),
		} {
			met := false
			b.interrupt(text, text == b.steps.admit.Hash(), func() {
				met = true
				require.Zero(t, b.free(limit), name)
				b.feeds()
				require.Zero(t, b.free(limit), name)
			})
			first := b.throttledBatch(6, limit)
			require.True(t, met, name)
			other := b.throttledBatch(6, limit)
			b.feeds()
			require.Equal(t, 4, b.queued(), name)
			require.NoError(t, b.Delete(b.ctx, "me", first))
			require.NoError(t, b.Delete(b.ctx, "me", other))
			b.background.Wait()
			require.Equal(t, 4, b.free(limit), "%s: all of it is given back", name)
		}
	})
}

func TestAProcessThatDiesWhileItHandsOutLosesNothing(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		limit := batch.Limit{Rate: batch.Rate{N: 100, Per: time.Hour}, Concurrent: 3}
		used := 0
		for name, step := range map[string]*rdb.Step{
			"before it is handed out": b.steps.handout, "before the tasks": b.steps.offer, "before that is noted": b.steps.progress,
		} {
			dead := &mute{text: step.Hash()}
			b.db.Client.AddHook(dead)
			dead.armed.Store(true)
			id := b.throttledBatch(5, limit)
			dead.armed.Store(false)
			require.LessOrEqual(t, b.queued(), 3, name)
			b.feeds()
			require.Equal(t, 3, b.queued(), name)
			for i := range 3 {
				b.end(id, i, batch.Succeeded)
				b.drop(id, i)
			}
			b.feeds()
			require.Equal(t, 2, b.queued(), "%s: the rest follows", name)
			for i := 3; i < 5; i++ {
				b.end(id, i, batch.Succeeded)
				b.drop(id, i)
			}
			b.feeds()
			require.Equal(t, batch.StatusCompleted, b.get(id).Status, name)
			used += 5
			u, n, state, err := b.ask("me", 1000, limit, true)
			require.NoError(t, err)
			require.Equal(t, 3, n, "%s: nothing is in flight any more", name)
			require.Equal(t, 100-used-3, state.Remaining, "%s: nothing was counted twice", name)
			u.Abort(b.ctx)
			left, err := b.throttled(b.ctx)
			require.NoError(t, err)
			require.Empty(t, left)
		}
	})
}

// failed submits a batch and has every second action fail.
func (b *bundle) failed(n int) string {
	b.t.Helper()
	id := b.submit(n, spec()).ID
	for i := range n {
		o := batch.Succeeded
		if i%2 == 1 {
			o = batch.Failed
		}
		b.end(id, i, o)
		b.drop(id, i)
	}
	return id
}

func TestARetryIsHeldToTheOwnersLimit(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		limit := batch.Limit{Rate: batch.Rate{N: 10, Per: time.Hour}, Concurrent: 5}
		id := b.failed(8)
		again := &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Failed}, Limit: &limit}
		held, _, _, err := b.ask("me", 2, limit, false)
		require.NoError(t, err)
		limited := (*batch.LimitedError)(nil)
		_, _, err = b.Retry(b.ctx, "me", id, again)
		require.ErrorAs(t, err, &limited)
		require.Positive(t, limited.RetryAfter)
		require.Equal(t, batch.StatusCompleted, b.get(id).Status)
		require.Zero(t, b.queued())
		held.Abort(b.ctx)

		_, _, err = b.Retry(b.ctx, "you", id, again)
		require.ErrorIs(t, err, batch.ErrNotFound)
		got, state, err := b.Retry(b.ctx, "me", id, again)
		require.NoError(t, err)
		require.Equal(t, 4, got.Counts.Pending)
		require.Equal(t, 6, state.Remaining, "neither refusal cost anything")
		require.Equal(t, 1, state.Free)
		require.Equal(t, 4, b.queued())
		require.Equal(t, 1, b.free(limit))
		_, _, err = b.Retry(b.ctx, "me", id, again)
		require.ErrorIs(t, err, batch.ErrNotTerminal)
		require.Equal(t, 1, b.free(limit), "nor did this one")
		for i := 1; i < 8; i += 2 {
			b.end(id, i, batch.Failed)
			b.drop(id, i)
		}
		require.Equal(t, 5, b.free(limit))
		_, _, err = b.Retry(b.ctx, "me", id, again)
		require.NoError(t, err)
		require.Equal(t, 1, b.free(limit), "each round counts")
		for i := 1; i < 8; i += 2 {
			b.end(id, i, batch.Failed)
			b.drop(id, i)
		}
		_, _, err = b.Retry(b.ctx, "me", id, again)
		require.ErrorAs(t, err, &limited, "the rate is used up")
	})
}

func TestARetryThatComesToNothingGivesBackWhatItWasAdmitted(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		limit := batch.Limit{Rate: batch.Rate{N: 20, Per: time.Hour}, Concurrent: 20}
		again := &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Failed}, Limit: &limit}
		plain := &batch.RetrySpec{Outcomes: again.Outcomes}

		// Another retry comes first.
		id := b.failed(8)
		b.interrupt(b.steps.retry.Hash(), false, func() {
			_, _, err := b.Retry(b.ctx, "me", id, plain)
			require.NoError(t, err)
		})
		_, _, err := b.Retry(b.ctx, "me", id, again)
		require.ErrorIs(t, err, batch.ErrNotTerminal)
		require.Equal(t, 20, b.free(limit))

		// Another retry comes first, and that round has ended with other outcomes.
		id = b.failed(8)
		b.interrupt(b.steps.retry.Hash(), false, func() {
			_, _, err := b.Retry(b.ctx, "me", id, plain)
			require.NoError(t, err)
			for i := 1; i < 8; i += 2 {
				b.end(id, i, map[bool]batch.Outcome{true: batch.Failed, false: batch.Succeeded}[i == 1])
			}
		})
		got, state, err := b.Retry(b.ctx, "me", id, again)
		require.NoError(t, err)
		require.Equal(t, 1, got.Counts.Pending)
		require.Equal(t, 19, state.Remaining, "it counts what really runs again")
		require.Equal(t, 19, b.free(limit))
		b.end(id, 1, batch.Succeeded)

		// The process dies before the step.
		id = b.failed(8)
		died := &retrial{s: b.Store, owner: "me", id: id, token: "T", marker: markerKey(id, "T"), n: 4}
		_, err = died.prepare(b.ctx, &limit, false)
		require.NoError(t, err)
		require.Equal(t, 20-1-4, b.free(limit), "as long as its step can come")
		require.Positive(t, b.db.Client.PTTL(b.ctx, died.marker).Val())
		require.NoError(t, b.db.Client.Del(b.ctx, died.marker).Err()) // its time is over
		_, _, left, err := b.ask("me", 1, limit, false)
		require.NoError(t, err)
		require.Equal(t, 20-1-4-1, left.Remaining, "the rate runs out with its window")
		require.Equal(t, 19, b.free(batch.Limit{Concurrent: 20}))
		answer, err := b.db.Run(b.ctx, b.steps.retry, append(keysOf(id).step(), keysOf(id).deliveries, died.marker), "me", "F", "T", 4, "")
		require.NoError(t, err)
		require.Equal(t, "lost", answer[0], "a step that comes late changes nothing")
	})
}

func TestAThrottledRetryIsHandedOutAsTheLimitAllows(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		limit := batch.Limit{Concurrent: 2}
		id := b.failed(12) // 1, 3, 5, 7, 9, 11
		got, state, err := b.Retry(b.ctx, "me", id, &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Failed}, Throttle: &limit})
		require.NoError(t, err)
		require.Nil(t, state)
		require.Equal(t, 6, got.Counts.Pending)
		handed := func() (ids []string) {
			for _, task := range b.pending(batch.Interactive) {
				ids = append(ids, task.ID)
			}
			return ids
		}
		for _, pair := range [][]int{{1, 3}, {5, 7}, {9, 11}} {
			b.feeds()
			b.feeds()
			require.Zero(t, b.sweep().Resumed, "it is no fan-out that broke off")
			want := []string{taskID(id, pair[0], "2"), taskID(id, pair[1], "2")}
			require.ElementsMatch(t, want, handed())
			if pair[0] < 9 {
				begun, err := b.Begin(b.ctx, id, 11, "w1") // a task of the round before
				require.NoError(t, err)
				require.Equal(t, batch.Waiting, begun.Verdict)
			}
			require.Zero(t, b.free(limit))
			for _, i := range pair {
				b.end(id, i, batch.Succeeded)
				b.drop(id, i)
			}
		}
		require.Equal(t, batch.StatusCompleted, b.get(id).Status)
		require.Equal(t, batch.Counts{Total: 12, Succeeded: 12}, b.get(id).Counts)
		require.Equal(t, 2, b.free(limit))
	})
}

// What the fan-out of the first round notes late is not the next round's.
func TestALateNoteOfAFanOutHandsNothingOut(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		limit := batch.Limit{Concurrent: 1}
		id := b.failed(6)
		_, _, err := b.Retry(b.ctx, "me", id, &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Failed}, Throttle: &limit})
		require.NoError(t, err)
		require.NoError(t, b.noteAll(b.ctx, []fanOut{{flow: flow{id: id}, total: 6}}))
		b.end(id, 1, batch.Succeeded)
		b.drop(id, 1)
		b.feeds()
		m, err := b.meta(b.ctx, id)
		require.NoError(t, err)
		require.Equal(t, "4", m["enqueued"])
		left, err := b.throttled(b.ctx)
		require.NoError(t, err)
		require.Equal(t, []string{id}, left)
	})
}

// A batch that is retried, or whose event is sent again, while the sweeper looks at it as
// it was, stays in the list of open ones.
func TestTheSweeperForgetsNoBatchThatRunsAgain(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		listed := func(list, id string) bool {
			return b.db.Client.ZScore(b.ctx, list, id).Err() == nil
		}
		id := b.hooked(1)
		b.interrupt(keysOf(id).meta+" status", true, func() {
			_, _, err := b.Retry(b.ctx, "me", id, &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Failed}})
			require.NoError(t, err)
		})
		require.Zero(t, b.sweep().Closed)
		require.True(t, listed(openKey, id), "retried")
		b.end(id, 0, batch.Succeeded)

		redelivered := b.hooked(1)
		b.interrupt(keysOf(redelivered).meta+" status", true, func() {
			require.NoError(t, b.Redeliver(b.ctx, "me", redelivered))
		})
		b.sweep()
		require.True(t, listed(openKey, redelivered), "redelivered")

		throttled := b.throttledBatch(1, batch.Limit{Concurrent: 1})
		b.end(throttled, 0, batch.Failed)
		b.interrupt("hgetall "+keysOf(throttled).meta, true, func() {
			_, _, err := b.Retry(b.ctx, "me", throttled, &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Failed}, Throttle: &batch.Limit{Rate: batch.Rate{N: 1, Per: time.Hour}}})
			require.NoError(t, err)
		})
		b.feeds()
		require.True(t, listed(throttledKey, throttled), "throttled")

		// In the end they go.
		b.end(throttled, 0, batch.Succeeded)
		for _, list := range []string{openKey, throttledKey} {
			for _, again := range b.db.Client.ZRange(b.ctx, madeAgain(list), 0, -1).Val() {
				old := redis.Z{Score: float64(time.Now().Add(-2 * listHold).UnixMilli()), Member: again}
				require.NoError(t, b.db.Client.ZAdd(b.ctx, madeAgain(list), old).Err())
			}
		}
		require.Equal(t, 3, b.sweep().Closed)
		b.feeds()
		for _, list := range []string{openKey, throttledKey} {
			require.Zero(t, b.db.Client.Exists(b.ctx, list, madeAgain(list)).Val(), list)
		}
	})
}
