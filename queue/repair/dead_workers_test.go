package repair_test

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/tasks"
)

func TestAWorkerThatFallsSilentIsDead(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		for _, w := range []string{"w1", "w2", "w3"} {
			dead, err := b.Ledger.Workers.Beat(b.Ctx, w)
			require.NoError(t, err)
			require.Empty(t, dead)
		}
		b.Silence("w2", batch.DeadAfter+time.Second)
		b.Silence("w3", batch.DeadAfter-2*time.Second)
		dead, err := b.Ledger.Workers.Beat(b.Ctx, "w1")
		require.NoError(t, err)
		require.Equal(t, []string{"w2"}, dead)
		require.NoError(t, b.Ledger.Workers.Leave(b.Ctx, "w3"))
		b.Silence("w2", 0) // it comes back before it is buried
		_, err = b.Sweeper.Recovery.Recover(b.Ctx, "w1", dead)
		require.NoError(t, err)
		n, err := b.DB.Client.ZCard(b.Ctx, keys.WorkersKey).Result()
		require.NoError(t, err)
		require.EqualValues(t, 2, n)
		b.Silence("w2", time.Hour)
		_, err = b.Sweeper.Recovery.Recover(b.Ctx, "w1", []string{"w2"})
		require.NoError(t, err)
		dead, err = b.Ledger.Workers.Beat(b.Ctx, "w1")
		require.NoError(t, err)
		require.Empty(t, dead)
	})
}

func TestWhatADeadWorkerBeganIsBroughtToOthers(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.Submit(6, queuetest.Spec()).ID
		done := b.Submit(1, queuetest.Spec()).ID
		b.End(done, 0, batch.Succeeded)
		b.Begin(id, 0) // by w1, which is alive
		begun := make(map[int]batch.Token)
		for _, i := range []int{1, 4} {
			got, err := b.Ledger.Begin(b.Ctx, id, i, "dead")
			require.NoError(t, err)
			begun[i] = got.Token
		}
		b.End(id, 5, batch.Succeeded)
		for range 2 { // finding them twice brings them once
			found, err := b.Sweeper.Recovery.Recover(b.Ctx, "w1", []string{"dead", "other"})
			require.NoError(t, err)
			require.Equal(t, 2, found)
		}
		brought := b.Pending(batch.Interactive)
		require.Len(t, brought, 6+1+2)
		extra := map[int]bool{}
		for _, task := range brought {
			gotID, index, err := tasks.DecodeTask(task.Payload)
			require.NoError(t, err)
			if begun[index] != "" && gotID == id && task.ID == tasks.TaskID(id, index, string(begun[index])) {
				extra[index] = true
			}
		}
		require.Equal(t, map[int]bool{1: true, 4: true}, extra)
	})
}

func TestOneProcessTakesOverTheActionsOfDeadWorkers(t *testing.T) {
	t.Parallel()
	url := redistest.Start(t).URL()
	b, other := open(t, url), open(t, url)
	require.NoError(t, other.Sweeper.Recovery.Claim(other.Ctx, "w2"))
	_, err := b.Sweeper.Recovery.Recover(b.Ctx, "w1", []string{"dead"})
	require.ErrorIs(t, err, batch.ErrRecovering)
	b.Silence("dead", time.Hour)
	_, err = other.Sweeper.Recovery.Recover(other.Ctx, "w2", []string{"dead"})
	require.NoError(t, err)
	require.ErrorIs(t, b.DB.Client.ZScore(b.Ctx, keys.WorkersKey, "dead").Err(), redis.Nil)
	_, err = b.Sweeper.Recovery.Recover(b.Ctx, "w1", []string{"dead"})
	require.NoError(t, err, "the lease ended with the recovery")
	require.NoError(t, other.Sweeper.Recovery.Claim(other.Ctx, "w2"))
	require.Positive(t, queuetest.Must(b.DB.Client.PTTL(b.Ctx, keys.RecoveryKey).Result()), "it ends with its holder")
}

// A recovery reads all open batches: its exchanges grow with their pages, not their number.
func TestARecoveryReadsManyBatchesInOneExchange(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		const batches = 60
		for i := range batches {
			id := b.Submit(2, queuetest.Spec()).ID
			b.Begin(id, 0)
			if i == 0 {
				_, err := b.Ledger.Begin(b.Ctx, id, 1, "dead")
				require.NoError(t, err)
			}
		}
		seen := &queuetest.Exchanges{}
		b.DB.Client.AddHook(seen)
		found, err := b.Sweeper.Recovery.Recover(b.Ctx, "w1", []string{"dead"})
		require.NoError(t, err)
		require.Equal(t, 1, found)
		require.Less(t, len(seen.All), batches/2, "%d exchanges", len(seen.All))
	})
}
