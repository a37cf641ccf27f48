package queue

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
)

// silence makes a worker's last beat as old as that.
func (b *bundle) silence(worker string, d time.Duration) {
	b.t.Helper()
	now, err := b.db.Now(b.ctx)
	require.NoError(b.t, err)
	require.NoError(b.t, b.db.Client.ZAdd(b.ctx, workersKey, redis.Z{Score: float64(now.Add(-d).UnixMilli()), Member: worker}).Err())
}

func TestAWorkerThatFallsSilentIsDead(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		for _, w := range []string{"w1", "w2", "w3"} {
			dead, err := b.Beat(b.ctx, w)
			require.NoError(t, err)
			require.Empty(t, dead)
		}
		b.silence("w2", batch.DeadAfter+time.Second)
		b.silence("w3", batch.DeadAfter-2*time.Second)
		dead, err := b.Beat(b.ctx, "w1")
		require.NoError(t, err)
		require.Equal(t, []string{"w2"}, dead)
		require.NoError(t, b.Leave(b.ctx, "w3"))
		b.silence("w2", 0) // it comes back before it is buried
		_, err = b.Recover(b.ctx, "w1", dead)
		require.NoError(t, err)
		n, err := b.db.Client.ZCard(b.ctx, workersKey).Result()
		require.NoError(t, err)
		require.EqualValues(t, 2, n)
		b.silence("w2", time.Hour)
		_, err = b.Recover(b.ctx, "w1", []string{"w2"})
		require.NoError(t, err)
		dead, err = b.Beat(b.ctx, "w1")
		require.NoError(t, err)
		require.Empty(t, dead)
	})
}

func TestWhatADeadWorkerBeganIsBroughtToOthers(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.submit(6, spec()).ID
		done := b.submit(1, spec()).ID
		b.end(done, 0, batch.Succeeded)
		b.begin(id, 0) // by w1, which is alive
		begun := make(map[int]batch.Token)
		for _, i := range []int{1, 4} {
			got, err := b.Begin(b.ctx, id, i, "dead")
			require.NoError(t, err)
			begun[i] = got.Token
		}
		b.end(id, 5, batch.Succeeded)
		for range 2 { // finding them twice brings them once
			found, err := b.Recover(b.ctx, "w1", []string{"dead", "other"})
			require.NoError(t, err)
			require.Equal(t, 2, found)
		}
		tasks := b.pending(batch.Interactive)
		require.Len(t, tasks, 6+1+2)
		extra := map[int]bool{}
		for _, task := range tasks {
			gotID, index, err := DecodeTask(task.Payload)
			require.NoError(t, err)
			if begun[index] != "" && gotID == id && task.ID == taskID(id, index, string(begun[index])) {
				extra[index] = true
			}
		}
		require.Equal(t, map[int]bool{1: true, 4: true}, extra)
	})
}

func TestWhatALiveWorkerHasInFlightIsNotTakenFromIt(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.submit(1, spec()).ID
		_, err := b.Beat(b.ctx, "w1")
		require.NoError(t, err)
		first := b.begin(id, 0)
		second, err := b.Begin(b.ctx, id, 0, "w2")
		require.NoError(t, err)
		require.Equal(t, batch.Held, second.Verdict)
		second, err = b.Begin(b.ctx, id, 0, "w1")
		require.NoError(t, err)
		require.Equal(t, batch.Interrupted, second.Verdict, "it knows itself whether it still has it")
		b.silence("w1", batch.DeadAfter+time.Second)
		second, err = b.Begin(b.ctx, id, 0, "w2")
		require.NoError(t, err)
		require.Equal(t, batch.Interrupted, second.Verdict)
		require.Equal(t, first.Token, second.Token)
	})
}

func TestOneProcessTakesOverTheActionsOfDeadWorkers(t *testing.T) {
	t.Parallel()
	url := redistest.Start(t).URL()
	b, other := open(t, url), open(t, url)
	require.NoError(t, other.claimRecovery(other.ctx, "w2"))
	_, err := b.Recover(b.ctx, "w1", []string{"dead"})
	require.ErrorIs(t, err, batch.ErrRecovering)
	b.silence("dead", time.Hour)
	_, err = other.Recover(other.ctx, "w2", []string{"dead"})
	require.NoError(t, err)
	require.ErrorIs(t, b.db.Client.ZScore(b.ctx, workersKey, "dead").Err(), redis.Nil)
	_, err = b.Recover(b.ctx, "w1", []string{"dead"})
	require.NoError(t, err, "the lease ended with the recovery")
	require.NoError(t, other.claimRecovery(other.ctx, "w2"))
	require.Positive(t, must(b.db.Client.PTTL(b.ctx, recoveryKey).Result()), "it ends with its holder")
}

// A recovery reads all open batches: its exchanges grow with their pages, not their number.
func TestARecoveryReadsManyBatchesInOneExchange(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		const batches = 60
		for i := range batches {
			id := b.submit(2, spec()).ID
			b.begin(id, 0)
			if i == 0 {
				_, err := b.Begin(b.ctx, id, 1, "dead")
				require.NoError(t, err)
			}
		}
		seen := &sent{}
		b.db.Client.AddHook(seen)
		found, err := b.Recover(b.ctx, "w1", []string{"dead"})
		require.NoError(t, err)
		require.Equal(t, 1, found)
		require.Less(t, len(seen.all), batches/2, "%d exchanges", len(seen.all))
	})
}
