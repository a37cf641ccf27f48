package tasks_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/tasks"
)

// polls takes up to n tasks of a queue, and returns their ids and whether more wait.
func (b *bundle) polls(queue string, n int, fifo bool) (ids []string, more bool) {
	b.T.Helper()
	return b.Poll(&tasks.Poll{Queue: queue, Want: n, FIFO: fifo})
}

// offers lets n actions of a batch wait.
func (b *bundle) offersOf(owner, id string, n int) {
	b.T.Helper()
	require.NoError(b.T, b.Tasks.Offer(b.Ctx, tasks.Flow{Owner: owner, ID: id, Route: queuetest.Crm(batch.Bulk)}, []tasks.IndexRange{{From: 0, To: n}}))
}

// bulkQueue is the one queue of the lane of large batches.
func (b *bundle) bulkQueue() string { return b.Tasks.QueuesOf(queuetest.Crm(batch.Bulk))[0] }

// batchesIn counts tasks by their batches.
func batchesIn(ids []string) map[string]int {
	n := make(map[string]int)
	for _, id := range ids {
		of, _, _ := strings.Cut(id, ":")
		n[of]++
	}
	return n
}

func TestOwnersGetEqualShares(t *testing.T) {
	t.Parallel()
	b := open(t)
	const owners, each = 10, 500
	for n := range owners {
		b.offersOf(fmt.Sprint("owner", n), fmt.Sprint("b", n), each)
	}
	got := make(map[string]int)
	for taken := 0; taken < owners*each; {
		ids, _ := b.polls(b.bulkQueue(), 16, false)
		require.NotEmpty(t, ids)
		taken += len(ids)
		for id, n := range batchesIn(ids) {
			got[id] += n
		}
		if share := float64(taken) / (owners * each); share < 0.25 || share > 0.95 {
			continue
		}
		require.Len(t, got, owners)
		least, most := each, 0
		for _, n := range got {
			least, most = min(least, n), max(most, n)
		}
		require.LessOrEqual(t, float64(most), 1.3*float64(least), "%v", got)
	}
}

// An owner that comes later gets its start and then the next tasks with the others, and earns nothing
// more for the time before. One that leaves and comes back gains nothing.
func TestAnOwnerEarnsNoMoreThanItsStartByWaiting(t *testing.T) {
	t.Parallel()
	b := open(t)
	const start = 16
	b.offersOf("early", "e", 10_000)
	b.polls(b.bulkQueue(), 1000, false)
	b.offersOf("late", "l", 10_000)
	ids, _ := b.polls(b.bulkQueue(), start, false)
	require.Equal(t, map[string]int{"l": start}, batchesIn(ids))
	ids, _ = b.polls(b.bulkQueue(), 320, false)
	require.Equal(t, map[string]int{"e": 160, "l": 160}, batchesIn(ids))

	again := 0
	for n := range 100 { // batches of one action, each after the one before is taken
		b.offersOf("brief", fmt.Sprint("brief", n), 1)
		ids, _ := b.polls(b.bulkQueue(), 6, false)
		for id, got := range batchesIn(ids) {
			if strings.HasPrefix(id, "brief") {
				again += got
			}
		}
	}
	require.LessOrEqual(t, again, 100)
	ids, _ = b.polls(b.bulkQueue(), 600, false)
	require.InDelta(t, batchesIn(ids)["e"], batchesIn(ids)["l"], 2*16)
}

func TestBatchesOfOneOwnerShareOrFollowOneAnother(t *testing.T) {
	t.Parallel()
	for _, fifo := range []bool{false, true} {
		b := open(t)
		for n := range 3 {
			b.offersOf("me", strconv.Itoa(n), 100)
		}
		ids, more := b.polls(b.bulkQueue(), 96, fifo)
		require.True(t, more)
		if fifo {
			require.Equal(t, map[string]int{"0": 96}, batchesIn(ids))
		} else {
			require.Equal(t, map[string]int{"0": 32, "1": 32, "2": 32}, batchesIn(ids))
		}
	}
}

// A small batch does not wait for the large ones of others, nor for those of its owner, however many
// these are.
func TestASmallBatchIsTakenNext(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		for _, owner := range []string{"me", "other"} {
			for n := range 200 {
				b.offersOf("me", owner+fmt.Sprint("large", n), 1000)
			}
			queue := b.Tasks.QueueOf(queuetest.Crm(batch.Bulk), owner+"small", 0)
			b.polls(queue, 500, false)
			b.offersOf(owner, owner+"small", 10)
			ids, _ := b.polls(queue, 4, false)
			require.Equal(t, map[string]int{owner + "small": 4}, batchesIn(ids))
			ids, _ = b.polls(queue, 8, false)
			require.Equal(t, 6, batchesIn(ids)[owner+"small"])
		}
	})
}

// However many small batches an owner submits, its large ones go on.
func TestSmallBatchesLeaveRoomForALargeOne(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.offersOf("me", "large", 1000)
	b.polls(b.bulkQueue(), 20, false)
	got, large := 0, 0
	for n := range 200 {
		b.offersOf("me", fmt.Sprint("small", n), 10)
		ids, _ := b.polls(b.bulkQueue(), 10, false)
		got += len(ids)
		large += batchesIn(ids)["large"]
	}
	require.Equal(t, 2000, got)
	require.GreaterOrEqual(t, large, 2000/16)
	require.LessOrEqual(t, large, 2000/4)
}

// Tasks that come again get half of what is taken, so an owner whose actions all fail gets no more
// than another.
func TestTasksThatComeAgainLeaveRoomForOthers(t *testing.T) {
	t.Parallel()
	b := open(t)
	err := b.Enqueue(b.Ctx, "failing", queuetest.Crm(batch.Bulk), queuetest.Span(0, 1000))
	require.NoError(t, err)
	ids, more := b.polls(b.bulkQueue(), 100, false)
	require.True(t, more)
	require.Len(t, ids, 100, "nothing else waits")
	b.offersOf("me", "new", 1000)
	got := make(map[string]int)
	for range 400 {
		ids, _ := b.polls(b.bulkQueue(), 1, false)
		for id, n := range batchesIn(ids) {
			got[id] += n
		}
	}
	require.GreaterOrEqual(t, got["new"], 100, "%v", got)
	require.GreaterOrEqual(t, got["failing"], 100, "%v", got)
}

func TestAnOfferThatIsRepeatedAddsNothing(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		const n = 3 * tasks.ClusterShards * tasks.ShardRun / 2
		b.offersOf("me", "some", n)
		b.offersOf("me", "some", n)
		require.Len(t, b.Pending(batch.Bulk), n)
		require.Equal(t, n, queuetest.Must(b.Tasks.WaitingEverywhere(b.Ctx)))
		seen := make(map[string]bool)
		take := func(k int) {
			for _, queue := range b.Tasks.QueuesOf(queuetest.Crm(batch.Bulk)) {
				ids, _ := b.polls(queue, k, false)
				for _, id := range ids {
					require.False(t, seen[id], id)
					seen[id] = true
				}
			}
		}
		take(10)
		b.offersOf("me", "some", n)
		require.Equal(t, n, queuetest.Must(b.Tasks.WaitingEverywhere(b.Ctx)), "those that were taken wait again, and get no second task")
		require.NoError(t, b.Tasks.Offer(b.Ctx, tasks.Flow{Owner: "me", ID: "some", Route: queuetest.Crm(batch.Bulk)}, []tasks.IndexRange{{From: n - 5, To: n + 3}}))
		require.Equal(t, n+3, queuetest.Must(b.Tasks.WaitingEverywhere(b.Ctx)), "only those more that did not wait")
		for range 3 {
			take(2 * n)
		}
		require.Len(t, seen, n+3)
		for i := range n + 3 {
			require.True(t, seen[tasks.TaskID("some", i, "")], i)
		}
		b.offersOf("me", "some", n) // all of it is taken, and has tasks
		take(2 * n)
		require.Len(t, seen, n+3)
		b.noFairKeys()
		require.Zero(t, queuetest.Must(b.Tasks.WaitingEverywhere(b.Ctx)))
	})
}

// noFairKeys requires that nothing waits.
func (b *bundle) noFairKeys() {
	b.T.Helper()
	for key := range b.AllKeys() {
		require.NotContains(b.T, key, "batchd:fair:")
	}
}

func TestWhatNoMoreWaitsIsTakenBack(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		ends := map[string]func(id string){
			"cancelled": func(id string) { queuetest.Must(b.Cancel(b.Ctx, "me", id)) },
			"deleted":   func(id string) { require.NoError(t, b.Delete(b.Ctx, "me", id)) },
			"expired": func(id string) {
				require.NoError(t, b.DB.Client.HSet(b.Ctx, keys.KeysOf(id).Meta, "expires", 1).Err())
				require.NoError(t, b.Batches.Expire(b.Ctx, id))
			},
		}
		for name, end := range ends {
			t.Log(name)
			id, other := b.Submit(700, queuetest.Spec()).ID, b.Submit(3, queuetest.Spec()).ID
			b.Background.Wait()
			require.Len(t, b.Offers(batch.Bulk), 700)
			end(id)
			b.Background.Wait()
			require.Empty(t, b.Offers(batch.Bulk))
			require.Len(t, b.Offers(batch.Interactive), 3)
			queuetest.Must(b.Cancel(b.Ctx, "me", other))
			b.Background.Wait()
			b.noFairKeys()
		}
	})
}

// What was cancelled late, by a process that stood still, takes nothing back of the next round.
func TestALateRetractionLeavesTheNextRound(t *testing.T) {
	t.Parallel()
	b := open(t)
	of := func(round string) tasks.Flow {
		return tasks.Flow{Owner: "me", ID: "some", Round: round, Route: queuetest.Crm(batch.Bulk)}
	}
	require.NoError(t, b.Tasks.Offer(b.Ctx, of(""), []tasks.IndexRange{{From: 0, To: 10}}))
	require.NoError(t, b.Tasks.Offer(b.Ctx, of("2"), []tasks.IndexRange{{From: 4, To: 6}}))
	b.Tasks.Retract(b.Ctx, of(""))
	waiting := b.Pending(batch.Bulk)
	require.Len(t, waiting, 2)
	require.Equal(t, tasks.TaskID("some", 4, "2"), waiting[0].ID)
}

// A batch that waits for its turn has lost nothing, however long it waits. What Redis forgot is
// offered again.
func TestOnlyWhatRedisForgotIsOfferedAgain(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		const n = 1200
		id := b.Submit(n, queuetest.Spec()).ID
		b.Background.Wait()
		m := b.head(id)
		lost, next, err := b.Sweeper.OfferLost(b.Ctx, id, m, 0, n)
		require.NoError(t, err)
		require.Zero(t, lost+next)
		queues := b.Tasks.QueuesOf(queuetest.Crm(batch.Bulk))
		taken, _ := b.polls(queues[0], 20, false)
		require.Len(t, taken, 20)
		forgotten := len(b.Offers(batch.Bulk))
		for key := range b.AllKeys() {
			if strings.HasPrefix(key, "batchd:fair:{"+queues[0]+"}") {
				require.NoError(t, b.DB.Client.Del(b.Ctx, key).Err())
			}
		}
		forgotten -= len(b.Offers(batch.Bulk))
		require.Positive(t, forgotten)
		lost, next, err = b.Sweeper.OfferLost(b.Ctx, id, m, 0, n)
		require.NoError(t, err)
		require.Zero(t, next)
		require.Equal(t, forgotten, lost, "not those that have tasks")
		require.Len(t, b.Offers(batch.Bulk), n-20)
		lost, _, err = b.Sweeper.OfferLost(b.Ctx, id, m, 0, n)
		require.NoError(t, err)
		require.Zero(t, lost)
	})
}

func (b *bundle) head(id string) map[string]string {
	b.T.Helper()
	return queuetest.Must(b.DB.Client.HGetAll(b.Ctx, keys.KeysOf(id).Meta).Result())
}

func TestAMillionWaitingActionsCostAlmostNothing(t *testing.T) {
	t.Parallel()
	b := open(t)
	for n := range 10 {
		b.offersOf(fmt.Sprint("owner", n), fmt.Sprint("b", n), 100_000)
	}
	size := 0
	for key := range b.AllKeys() {
		size += len(key) + 100*int(b.DB.Client.MemoryUsage(b.Ctx, key).Val())/100
	}
	require.Less(t, size, 1<<20)
}
