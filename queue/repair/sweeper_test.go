package repair_test

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/repair"
	"github.com/batchd/batchd/queue/tasks"
)

func TestTheSweeperRepairsWhatACrashLeft(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		b.Background.Stop() // fan-outs in the background break off at once
		large := b.Submit(1250, queuetest.Spec())
		b.Background.Wait()
		require.Less(t, len(b.Pending(batch.Bulk)), 1250, "the fan-out is not complete")
		require.Equal(t, batch.Swept{Open: 1}, b.Sweep(), "a fan-out is given its time")
		long := time.Now().Add(-time.Minute).UnixMilli()
		require.NoError(t, b.DB.Client.HSet(b.Ctx, keys.KeysOf(large.ID).Meta, "created", long, "fanned", long).Err())
		require.Equal(t, batch.Swept{Open: 1, Resumed: 1}, b.Sweep())
		require.Len(t, b.Pending(batch.Bulk), 1250)
		require.Equal(t, batch.Swept{Open: 1}, b.Sweep())

		// A webhook whose outbox mark still stands.
		s := queuetest.Spec()
		s.WebhookURL = "https://example.com/hook"
		told := b.Submit(1, s).ID
		b.End(told, 0, batch.Succeeded)
		require.NoError(t, b.Inspector().DeleteTask(tasks.WebhookQueue, queuetest.WebhookTaskID(told, 1)))
		require.NoError(t, b.DB.Client.HSet(b.Ctx, keys.KeysOf(told).Meta, "outbox", "1").Err())
		require.Equal(t, batch.Swept{Open: 2, Notified: 1}, b.Sweep())
		tasks, err := b.Inspector().ListPendingTasks(tasks.WebhookQueue)
		require.NoError(t, err)
		require.Len(t, tasks, 1)
		require.Equal(t, batch.Swept{Open: 2, Closed: 1}, b.Sweep())

		// A batch whose deadline passed without anybody touching it.
		s = queuetest.Spec()
		s.ExpiresIn = time.Millisecond
		late := b.Submit(2, s).ID
		b.Eventually("the deadline", func() bool { return b.Sweep().Expired == 1 })
		require.Equal(t, batch.StatusExpired, b.Read(late).Status)
		require.Equal(t, batch.Swept{Open: 2, Closed: 1}, b.Sweep())

		_, ok, err := b.Sweeper.Sweep(b.Ctx, "w2")
		require.NoError(t, err)
		require.False(t, ok, "one sweeps at a time")
		require.NoError(t, b.Sweeper.Resign(b.Ctx, "w2"))
		require.NoError(t, b.Sweeper.Resign(b.Ctx, "w1"))
		_, ok, err = b.Sweeper.Sweep(b.Ctx, "w2")
		require.NoError(t, err)
		require.True(t, ok)
	})
}

func TestWhatABatchLostIsBroughtBack(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.Submit(7, queuetest.Spec()).ID
		_, err := b.Ledger.Begin(b.Ctx, id, 2, "missing") // the list of workers does not have this worker
		require.NoError(t, err)
		_, err = b.Ledger.Workers.Beat(b.Ctx, "w1")
		require.NoError(t, err)
		b.Begin(id, 3) // by w1, which is alive
		b.End(id, 6, batch.Succeeded)
		for i := range 7 {
			b.DropTask(id, i)
		}
		require.Equal(t, batch.Swept{Open: 1}, b.Sweep())
		require.Equal(t, batch.Swept{Open: 1}, b.Sweep(), "it is given its time")
		long := time.Now().Add(-time.Minute)
		age := func() { b.Sweeper.Age(id, time.Minute) }
		age()
		entry := readLedger(b, id, 2)
		require.NoError(t, b.DB.Client.HSet(b.Ctx, keys.KeysOf(id).Ledger, "2", entry).Err())
		b.Sweeper.AskHoldersNow()
		require.Equal(t, batch.Swept{Open: 1, Lost: 4}, b.Sweep())
		require.Contains(t, b.Sweeper.Missing(), "missing")
		b.Sweeper.SetMissing("missing", long)
		b.Sweeper.AskHoldersNow()
		age()
		require.Equal(t, batch.Swept{Open: 1, Lost: 1}, b.Sweep(), "tasks that are there are left alone")
		require.Len(t, b.Pending(batch.Interactive), 5)
	})
}

// readLedger returns an entry of the ledger as if it were a minute old.
func readLedger(b *bundle, id string, index int) string {
	b.T.Helper()
	packed, err := b.DB.Client.HGet(b.Ctx, keys.KeysOf(id).Ledger, strconv.Itoa(index)).Result()
	require.NoError(b.T, err)
	parts := strings.Split(packed, "|")
	parts[3] = strconv.FormatInt(time.Now().Add(-time.Minute).UnixMilli(), 10)
	return strings.Join(parts, "|")
}

func TestASweeperThatResignsLeavesItsSuccessorAlone(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		_, ok, err := b.Sweeper.Sweep(b.Ctx, "w1")
		require.NoError(t, err)
		require.True(t, ok)
		// The lease ends, and another process has it, just before it is given up.
		b.DB.Client.AddHook(&foreseen{commands: []string{"del", "evalsha", "eval"}, call: func() {
			require.NoError(t, b.DB.Client.Set(b.Ctx, keys.SweeperKey, "w2", 0).Err())
		}})
		require.NoError(t, b.Sweeper.Resign(b.Ctx, "w1"))
		require.Equal(t, "w2", b.DB.Client.Get(b.Ctx, keys.SweeperKey).Val())
		require.NoError(t, b.Sweeper.Resign(b.Ctx, "w2"))
		n, err := b.DB.Client.Exists(b.Ctx, keys.SweeperKey).Result()
		require.NoError(t, err)
		require.Zero(t, n)
	})
}

// foreseen is a hook that calls a function once, before one of the commands is sent.
type foreseen struct {
	commands []string
	call     func()
	once     sync.Once
}

func (f *foreseen) DialHook(next redis.DialHook) redis.DialHook { return next }

func (f *foreseen) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (f *foreseen) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if slices.Contains(f.commands, cmd.Name()) {
			f.once.Do(f.call)
		}
		return next(ctx, cmd)
	}
}

func TestWhatIsInFlightForEverIsUnknownInTheEnd(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		s := queuetest.Spec()
		s.WebhookURL = "https://example.com/hook"
		id := b.Submit(2, s).ID
		b.Begin(id, 0)
		expired := func(ago time.Duration) {
			require.NoError(t, b.DB.Client.HSet(b.Ctx, keys.KeysOf(id).Meta, "expires", time.Now().Add(-ago).UnixMilli()).Err())
		}
		expired(time.Minute)
		require.Equal(t, batch.Swept{Open: 1, Expired: 1}, b.Sweep())
		require.Equal(t, batch.Counts{Total: 2, Pending: 1, Expired: 1}, b.Read(id).Counts)
		b.Sweep()
		require.Equal(t, 1, b.Read(id).Counts.Pending, "it is given its time")
		expired(repair.OverdueAfter + time.Minute)
		require.Equal(t, 1, b.Sweep().Expired)
		got := b.Read(id)
		require.Equal(t, batch.StatusExpired, got.Status)
		require.Equal(t, batch.Counts{Total: 2, Unknown: 1, Expired: 1}, got.Counts)
		require.Equal(t, batch.CodeInterrupted, b.AllResults(id, 10)[0].Error.Code)
		tasks, err := b.Inspector().ListPendingTasks(tasks.WebhookQueue)
		require.NoError(t, err)
		require.Len(t, tasks, 1)
	})
}

func indexesOf(results []batch.Result) []int {
	indexes := make([]int, len(results))
	for i, r := range results {
		indexes[i] = r.Index
	}
	return indexes
}

// A group whose worker never came back ends as a whole: its leader and its members.
func TestAnOverdueGroupEndsAsUnknownWithAllItsMembers(t *testing.T) {
	t.Parallel()
	b := open(t, redistest.Start(t).URL())
	id := b.Grouped(queuetest.Spec())
	b.Begin(id, 1) // and with it 3 and 4
	expire := func(ago time.Duration) {
		require.NoError(t, b.DB.Client.HSet(b.Ctx, keys.KeysOf(id).Meta, "expires", time.Now().Add(-ago).UnixMilli()).Err())
	}
	expire(time.Minute)
	b.Sweep()
	require.Equal(t, batch.Counts{Total: 6, Pending: 3, Expired: 3}, b.Read(id).Counts, "the group has begun, and has its time")
	expire(repair.OverdueAfter + time.Minute)
	b.Sweep()
	got := b.Read(id)
	require.Equal(t, batch.Counts{Total: 6, Unknown: 3, Expired: 3}, got.Counts)
	require.Equal(t, batch.StatusExpired, got.Status)
	require.Equal(t, []int{1, 3, 4}, indexesOf(b.AllResults(id, 10, batch.Unknown)))
	require.Equal(t, []int{0, 2, 5}, indexesOf(b.AllResults(id, 10, batch.Expired)))
}
