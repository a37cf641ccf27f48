package tasks_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/fanout"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/tasks"
)

// waits returns the ids of the tasks that wait in the lane of large batches, each once.
func (b *bundle) waits() map[string]bool {
	b.T.Helper()
	ids := make(map[string]bool)
	for _, k := range b.Pending(batch.Bulk) {
		require.False(b.T, ids[k.ID], k.ID)
		ids[k.ID] = true
	}
	return ids
}

// requireWaits requires that so many tasks wait. It does not print them.
func (b *bundle) requireWaits(n int) {
	b.T.Helper()
	waiting := len(b.waits())
	require.Equal(b.T, n, waiting)
}

// Two processes that hand out parts of a throttled batch may offer them in any order.
func TestPartsOfABatchAreOfferedInAnyOrder(t *testing.T) {
	onStores(t, func(t *testing.T, b *bundle) {
		const n = 2000
		f := tasks.Flow{Owner: "me", ID: "some", Route: queuetest.Crm(batch.Bulk)}
		for _, r := range []tasks.IndexRange{{From: 1000, To: n}, {From: 300, To: 700}, {From: 0, To: 400}, {From: 500, To: 1100}} {
			require.NoError(t, b.Tasks.Offer(b.Ctx, f, []tasks.IndexRange{r}))
		}
		b.requireWaits(n)
		require.Equal(t, n, queuetest.Must(b.Tasks.WaitingEverywhere(b.Ctx)))
	}, "embedded", "server", "cluster")
}

// An offer that a process repeats late, because Redis did not answer, takes nothing from a later round.
func TestALateOfferLeavesTheNextRound(t *testing.T) {
	onStores(t, func(t *testing.T, b *bundle) {
		of := func(round string) tasks.Flow {
			return tasks.Flow{Owner: "me", ID: "some", Round: round, Route: queuetest.Crm(batch.Bulk)}
		}
		require.NoError(t, b.Tasks.Offer(b.Ctx, of("2"), []tasks.IndexRange{{From: 4, To: 6}}))
		require.NoError(t, b.Tasks.Offer(b.Ctx, of(""), []tasks.IndexRange{{From: 0, To: 10}}))
		require.Equal(t, map[string]bool{tasks.TaskID("some", 4, "2"): true, tasks.TaskID("some", 5, "2"): true}, b.waits())
		require.NoError(t, b.Tasks.Offer(b.Ctx, of("10"), []tasks.IndexRange{{From: 1, To: 2}}))
		require.NoError(t, b.Tasks.Offer(b.Ctx, of("2"), []tasks.IndexRange{{From: 4, To: 6}}))
		require.Equal(t, map[string]bool{tasks.TaskID("some", 1, "10"): true}, b.waits())
	}, "embedded", "server", "cluster")
}

// What is offered of a batch that was cancelled meanwhile, before or after that was taken back, does not wait.
func TestWhatIsOfferedOfAnEndedBatchDoesNotWait(t *testing.T) {
	onStores(t, func(t *testing.T, b *bundle) {
		const n = 700
		offers := map[string]func(id string, m map[string]string) error{
			"fan-out": func(id string, m map[string]string) error {
				return b.Fanout.Offer(b.Ctx, fanout.Batch{Flow: tasks.FlowOf(id, m), Total: n})
			},
			"waiting": func(id string, m map[string]string) error {
				return b.Fanout.OfferWaiting(b.Ctx, tasks.FlowOf(id, m), 0, n)
			},
			"lost": func(id string, m map[string]string) error {
				_, _, err := b.Sweeper.OfferLost(b.Ctx, id, m, 0, n)
				return err
			},
		}
		for name, offer := range offers {
			t.Log(name)
			id := b.Submit(n, queuetest.Spec()).ID
			b.Background.Wait()
			m := b.head(id)
			b.Tasks.Retract(b.Ctx, tasks.FlowOf(id, m)) // as if it had not been offered
			ended := false
			b.beforeOffers(func() {
				if !ended {
					ended = true
					queuetest.Must(b.Cancel(b.Ctx, "me", id))
					b.Background.Wait()
				}
			})
			require.NoError(t, offer(id, m))
			b.Background.Wait()
			require.True(t, ended)
			b.requireWaits(0)
		}
		b.noFairKeys()
	}, "embedded", "cluster")
}

// beforeOffers has something done before the next offers are sent.
func (b *bundle) beforeOffers(do func()) {
	b.DB.Client.AddHook(&beforeStep{hash: tasks.Steps.Offer.Hash(), do: do})
}

type beforeStep struct {
	hash string
	mu   sync.Mutex
	do   func()
}

func (h *beforeStep) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h *beforeStep) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (h *beforeStep) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		for _, cmd := range cmds {
			if len(cmd.Args()) > 1 && cmd.Args()[1] == h.hash && h.mu.TryLock() {
				h.do()
				h.mu.Unlock()
			}
		}
		return next(ctx, cmds)
	}
}

// At the deadline it is often a worker that ends what waits, when it begins an action.
func TestWhatABeginExpiresDoesNotWait(t *testing.T) {
	onStores(t, func(t *testing.T, b *bundle) {
		id := b.Submit(700, queuetest.Spec()).ID
		b.Background.Wait()
		token := b.Begin(id, 0).Token
		require.NoError(t, b.DB.Client.HSet(b.Ctx, keys.KeysOf(id).Meta, "expires", 1).Err())
		begun, err := b.Ledger.Begin(b.Ctx, id, 1, "w1")
		require.NoError(t, err)
		require.Equal(t, batch.Ended, begun.Verdict)
		b.Background.Wait()
		b.requireWaits(0)
		b.noFairKeys()
		require.NoError(t, b.Ledger.Finish(b.Ctx, id, 0, token, queuetest.Result(0, batch.Succeeded)))

		id = b.Submit(700, queuetest.Spec()).ID
		b.Background.Wait()
		token = b.Begin(id, 0).Token
		require.NoError(t, b.DB.Client.HSet(b.Ctx, keys.KeysOf(id).Meta, "expires", 1).Err())
		_, err = b.Ledger.Release(b.Ctx, id, 0, token, new(batch.Result))
		require.NoError(t, err)
		b.Background.Wait()
		b.noFairKeys()
	}, "embedded", "cluster")
}

// A sweeper that meets a batch whose offer was not noted offers what waits, not what has ended.
func TestTheSweeperOffersOnlyWhatWaits(t *testing.T) {
	onStores(t, func(t *testing.T, b *bundle) {
		const n = 700
		id := b.Submit(n, queuetest.Spec()).ID
		b.Background.Wait()
		for _, queue := range b.Tasks.QueuesOf(queuetest.Crm(batch.Bulk)) {
			ids, _ := b.polls(queue, n, false)
			require.NoError(t, b.Tasks.EndTasks(b.Ctx, queue, ids))
		}
		b.EndAll(id, n-3)
		require.NoError(t, b.DB.Client.HSet(b.Ctx, keys.KeysOf(id).Meta, "enqueued", 0, "fanned", 1, "created", 1).Err())
		_, _, err := b.Sweeper.Sweep(b.Ctx, "w1")
		require.NoError(t, err)
		b.Background.Wait()
		b.requireWaits(3)
		require.Equal(t, "700", b.head(id)["enqueued"])
	}, "embedded", "cluster")
}

// A poll survives that Redis, or an operator, lost some keys of a fair queue. It takes what is left,
// and loses no task that waits in asynq's list.
func TestAPollSurvivesLostKeysOfAFairQueue(t *testing.T) {
	onStores(t, func(t *testing.T, b *bundle) {
		queue := b.bulkQueue()
		for _, lost := range []string{"o", "m", "n", "p", "v", "g", "o:me", "s:me", "b:b0"} {
			t.Log(lost)
			err := b.Enqueue(b.Ctx, "again", queuetest.Crm(batch.Bulk), queuetest.Span(0, 4))
			require.NoError(t, err)
			for _, id := range []string{"b0", "b1"} {
				b.offersOf("me", id, 5)
			}
			b.offersOf("other", "b2", 5)
			require.NoError(t, b.DB.Client.Del(b.Ctx, tasks.FairPrefix(queue)+lost).Err())
			got := make(map[string]int)
			for range 20 {
				ids, _ := b.polls(queue, 2, false)
				for id, n := range batchesIn(ids) {
					got[id] += n
				}
				require.NoError(t, b.Tasks.EndTasks(b.Ctx, queue, ids))
			}
			require.Equal(t, 4, got["again"])
			for _, id := range []string{"b0", "b1", "b2"} { // they are offered again, as by the sweeper
				of := "me"
				if id == "b2" {
					of = "other"
				}
				b.offersOf(of, id, 5)
			}
			for range 20 {
				ids, _ := b.polls(queue, 2, false)
				for id, n := range batchesIn(ids) {
					got[id] += n
				}
				require.NoError(t, b.Tasks.EndTasks(b.Ctx, queue, ids))
			}
			for _, id := range []string{"b0", "b1", "b2"} {
				require.GreaterOrEqual(t, got[id], 5, "%v", got)
			}
			b.noFairKeys()
		}
	}, "embedded", "server")
}

// While a cluster moves a slot, some keys of a fair queue are on one node and some on the other. Steps are
// refused then rather than done in part.
func TestAFairQueueSurvivesTheMoveOfItsSlot(t *testing.T) {
	onStores(t, func(t *testing.T, b *bundle) {
		const n = 700
		f := tasks.Flow{Owner: "me", ID: "some", Route: queuetest.Crm(batch.Bulk)}
		require.NoError(t, b.Tasks.Offer(b.Ctx, f, []tasks.IndexRange{{From: 0, To: n}}))
		queue := b.Tasks.QueueOf(f.Route, f.ID, 0)
		prefix := tasks.FairPrefix(queue)
		slot := int(b.DB.Cluster.ClusterKeySlot(b.Ctx, prefix).Val())
		from := queuetest.Must(b.DB.Cluster.MasterForKey(b.Ctx, prefix))
		var to *redis.Client
		var mu sync.Mutex
		require.NoError(t, b.DB.Cluster.ForEachMaster(b.Ctx, func(_ context.Context, c *redis.Client) error {
			mu.Lock()
			defer mu.Unlock()
			if c.Options().Addr != from.Options().Addr {
				to = c
			}
			return nil
		}))
		fromID := queuetest.Must(from.Do(b.Ctx, "cluster", "myid").Text())
		toID := queuetest.Must(to.Do(b.Ctx, "cluster", "myid").Text())
		require.NoError(t, to.Do(b.Ctx, "cluster", "setslot", slot, "importing", fromID).Err())
		require.NoError(t, from.Do(b.Ctx, "cluster", "setslot", slot, "migrating", toID).Err())
		host, port, _ := strings.Cut(to.Options().Addr, ":")
		for _, key := range []string{prefix + "b:some", prefix + "m"} {
			require.NoError(t, from.Do(b.Ctx, "migrate", host, port, key, 0, 5000).Err())
			short, cancel := context.WithTimeout(b.Ctx, 200*time.Millisecond)
			_ = b.Tasks.Offer(short, tasks.Flow{Owner: "me", ID: "other", Route: f.Route}, []tasks.IndexRange{{From: 0, To: n}})
			b.Tasks.Retract(short, f)
			_, _, _ = b.PollFor(short, &tasks.Poll{Queue: queue, Want: 5})
			cancel()
		}
		left := queuetest.Must(from.Do(b.Ctx, "cluster", "getkeysinslot", slot, 100).StringSlice())
		for _, key := range left {
			require.NoError(t, from.Do(b.Ctx, "migrate", host, port, key, 0, 5000).Err(), key)
		}
		for _, c := range []*redis.Client{to, from} {
			require.NoError(t, c.Do(b.Ctx, "cluster", "setslot", slot, "node", toID).Err())
		}
		b.DB.Cluster.ReloadState(b.Ctx)
		seen := make(map[string]bool)
		for _, q := range b.Tasks.QueuesOf(f.Route) {
			for range 50 {
				ids, _ := b.polls(q, 100, false)
				for _, id := range ids {
					require.False(t, seen[id], id)
					seen[id] = true
				}
			}
		}
		b.noFairKeys()
	}, "cluster")
}
