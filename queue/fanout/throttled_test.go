package fanout_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/fanout"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/limits"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
)

// queued returns how many tasks of actions wait.
func (b *bundle) queued() int { return len(b.Pending(batch.Interactive)) }

// throttledBatch submits a batch whose actions are handed out as a limit allows.
func (b *bundle) throttledBatch(n int, limit batch.Limit) string {
	b.T.Helper()
	s := queuetest.Spec()
	s.Throttle = &limit
	return b.Submit(n, s).ID
}

// free returns how many actions a limit would let in now.
func (b *bundle) free(limit batch.Limit) int {
	b.T.Helper()
	u, n, _, err := b.Ask("me", 1000, limit, true)
	require.NoError(b.T, err)
	u.Abort(b.Ctx)
	return n
}

// drop removes the tasks of an action that has ended, as its worker does.
func (b *bundle) drop(id string, index int) {
	b.T.Helper()
	b.CreateTasks()
	for _, round := range []string{"", "2", "3"} {
		err := b.Inspector().DeleteTask(b.Tasks.QueueOf(queuetest.Crm(batch.Interactive), id, index), tasks.TaskID(id, index, round))
		if !errors.Is(err, asynq.ErrTaskNotFound) && !errors.Is(err, asynq.ErrQueueNotFound) {
			require.NoError(b.T, err)
		}
	}
}

// release runs one round of ReleaseThrottled.
func (b *bundle) release() {
	b.T.Helper()
	require.NoError(b.T, queuetest.ErrorOf(b.Fanout.ReleaseThrottled(b.Ctx)))
}

// throttled returns the batches that wait for their owners' limits.
func (b *bundle) throttled(ctx context.Context) ([]string, error) {
	return b.DB.Client.ZRange(ctx, keys.ThrottledKey, 0, -1).Result()
}

// While a process hands out what a limit gave it, others ask the same limit.
func TestWhatIsBeingHandedOutIsGivenToNoOther(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		limit := batch.Limit{Concurrent: 4}
		require.Equal(t, 4, b.free(limit)) // from here on the server knows the step, and answers the first call
		for name, text := range map[string]string{
			"before it is handed out":           fanout.Steps.HandOut.Hash(),
			"before it is offered":              tasks.Steps.Offer.Hash(),
			"before that is noted":              fanout.Steps.Progress.Hash(),
			"while another process releases it": limits.Steps.ReserveQuota.Hash(),
		} {
			met := false
			b.Interrupt(text, text == limits.Steps.ReserveQuota.Hash(), func() {
				met = true
				require.Zero(t, b.free(limit), name)
				b.release()
				require.Zero(t, b.free(limit), name)
			})
			first := b.throttledBatch(6, limit)
			require.True(t, met, name)
			other := b.throttledBatch(6, limit)
			b.release()
			require.Equal(t, 4, b.queued(), name)
			require.NoError(t, b.Delete(b.Ctx, "me", first))
			require.NoError(t, b.Delete(b.Ctx, "me", other))
			b.Background.Wait()
			require.Equal(t, 4, b.free(limit), "%s: all of it is given back", name)
		}
	})
}

func TestAProcessThatDiesWhileItHandsOutLosesNothing(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		limit := batch.Limit{Rate: batch.Rate{N: 100, Per: time.Hour}, Concurrent: 3}
		used := 0
		for name, step := range map[string]*rdb.Step{
			"before it is handed out": fanout.Steps.HandOut, "before the tasks": tasks.Steps.Offer, "before that is noted": fanout.Steps.Progress,
		} {
			dead := &queuetest.Mute{Text: step.Hash()}
			b.DB.Client.AddHook(dead)
			dead.On.Store(true)
			id := b.throttledBatch(5, limit)
			dead.On.Store(false)
			require.LessOrEqual(t, b.queued(), 3, name)
			b.release()
			require.Equal(t, 3, b.queued(), name)
			for i := range 3 {
				b.End(id, i, batch.Succeeded)
				b.drop(id, i)
			}
			b.release()
			require.Equal(t, 2, b.queued(), "%s: the rest follows", name)
			for i := 3; i < 5; i++ {
				b.End(id, i, batch.Succeeded)
				b.drop(id, i)
			}
			b.release()
			require.Equal(t, batch.StatusCompleted, b.Read(id).Status, name)
			used += 5
			u, n, state, err := b.Ask("me", 1000, limit, true)
			require.NoError(t, err)
			require.Equal(t, 3, n, "%s: nothing is in flight any more", name)
			require.Equal(t, 100-used-3, state.Remaining, "%s: nothing was counted twice", name)
			u.Abort(b.Ctx)
			left, err := b.throttled(b.Ctx)
			require.NoError(t, err)
			require.Empty(t, left)
		}
	})
}

func TestOneThrottledBatchKeepsNoOtherWaiting(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		s := queuetest.Spec()
		s.Throttle = &batch.Limit{Concurrent: 2} // without a rate
		queued := func() int {
			return len(b.Pending(batch.Interactive))
		}
		broken := b.Submit(3, s).ID
		require.NoError(t, b.DB.Client.HSet(b.Ctx, keys.KeysOf(broken).Meta, "throttle", "{").Err())
		b.End(broken, 0, batch.Succeeded)
		b.End(broken, 1, batch.Succeeded)
		good := b.Submit(3, s).ID
		require.Equal(t, 2+2, queued())
		b.End(good, 0, batch.Succeeded)
		require.Error(t, queuetest.ErrorOf(b.Fanout.ReleaseThrottled(b.Ctx)))
		require.Equal(t, 2+3, queued())
	})
}

func TestThrottledActionsAreHandedOutAsTheLimitAllows(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		s := queuetest.Spec()
		s.Throttle = &batch.Limit{Rate: batch.Rate{N: 4, Per: time.Hour}, Concurrent: 3}
		id := b.Submit(10, s).ID
		queued := func() int {
			return len(b.Pending(batch.Interactive))
		}
		require.Equal(t, 3, queued(), "no more than may be in flight")
		require.NoError(t, queuetest.ErrorOf(b.Fanout.ReleaseThrottled(b.Ctx)))
		require.Equal(t, 3, queued())
		require.Equal(t, batch.Swept{Open: 1}, b.Sweep(), "it is no fan-out that broke off")
		for i := range 3 {
			b.End(id, i, batch.Succeeded)
		}
		require.NoError(t, queuetest.ErrorOf(b.Fanout.ReleaseThrottled(b.Ctx)))
		require.Equal(t, 4, queued(), "no more than the rate")
		require.NoError(t, b.DB.Client.Del(b.Ctx, limits.LimitKeys("me", *s.Throttle)[0]).Err()) // the window moves on
		require.NoError(t, queuetest.ErrorOf(b.Fanout.ReleaseThrottled(b.Ctx)))
		require.Equal(t, 6, queued())
		for i := 3; i < 6; i++ {
			b.End(id, i, batch.Succeeded)
		}
		_, err := b.Cancel(b.Ctx, "me", id)
		require.NoError(t, err)
		require.NoError(t, queuetest.ErrorOf(b.Fanout.ReleaseThrottled(b.Ctx)))
		b.Background.Wait()
		require.Zero(t, queued())
		left, err := b.throttled(b.Ctx)
		require.NoError(t, err)
		require.Empty(t, left)
	})
}

// Throttled batches of several owners at one address start no more actions than its limit admits.
func TestThrottledBatchesOfAnAddressShareItsLimit(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		for name, limit := range map[string]batch.Limit{
			"in flight": {Scope: "a", Concurrent: 2},
			"rate":      {Scope: "b", Rate: batch.Rate{N: 2, Per: time.Hour}},
		} {
			limit.Address = &batch.AddressLimit{Name: "address", Rate: limit.Rate, Concurrent: limit.Concurrent}
			before := b.queued()
			ids := map[string]string{}
			for _, owner := range []string{"one", "two", "three"} {
				u, err := b.Open(b.Ctx, owner, "")
				require.NoError(t, err)
				for i := range 2 {
					require.NoError(t, u.Add(b.Ctx, queuetest.Action(i)))
				}
				s := queuetest.Spec()
				s.Throttle = &limit
				got, _, err := u.Commit(b.Ctx, s)
				require.NoError(t, err)
				ids[owner] = got.ID
			}
			require.Equal(t, before+2, b.queued(), name)
			for range 3 {
				b.release()
			}
			require.Equal(t, before+2, b.queued(), name)
			for i := range 2 {
				b.End(ids["one"], i, batch.Succeeded)
			}
			if limit.Rate.N > 0 {
				require.NoError(t, b.DB.Client.Del(b.Ctx, limits.PlacesOf("one", limit)[1]).Err()) // the window moves on
			}
			b.Eventually("the actions of another owner", func() bool { b.release(); return b.queued() == before+4 })
			for _, owner := range []string{"two", "three"} {
				_, err := b.Cancel(b.Ctx, owner, ids[owner])
				require.NoError(t, err)
			}
			for range 3 {
				b.release()
			}
			if limit.Concurrent == 0 {
				require.Empty(t, queuetest.Must(b.DB.Client.HKeys(b.Ctx, limits.LimitKeys("address", limit)[1]).Result()), "no grant is left")
			}
		}
	})
}
