package queue

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

// waits returns the ids of the tasks that wait in the lane of large batches, each once.
func (b *bundle) waits() map[string]bool {
	b.t.Helper()
	ids := make(map[string]bool)
	for _, k := range b.pending(batch.Bulk) {
		require.False(b.t, ids[k.ID], k.ID)
		ids[k.ID] = true
	}
	return ids
}

// requireWaits requires that so many tasks wait. It does not print them.
func (b *bundle) requireWaits(n int) {
	b.t.Helper()
	waiting := len(b.waits())
	require.Equal(b.t, n, waiting)
}

// Two processes that hand out parts of a throttled batch may offer them in any order.
func TestPartsOfABatchAreOfferedInAnyOrder(t *testing.T) {
	onStores(t, func(t *testing.T, b *bundle) {
		const n = 2000
		f := flow{owner: "me", id: "some", route: crm(batch.Bulk)}
		for _, r := range []indexRange{{1000, n}, {300, 700}, {0, 400}, {500, 1100}} {
			require.NoError(t, b.offer(b.ctx, f, []indexRange{r}))
		}
		b.requireWaits(n)
		require.Equal(t, n, must(b.waitingEverywhere(b.ctx)))
	}, "embedded", "server", "cluster")
}

// An offer that a process repeats late, because Redis did not answer, takes nothing from a later round.
func TestALateOfferLeavesTheNextRound(t *testing.T) {
	onStores(t, func(t *testing.T, b *bundle) {
		of := func(round string) flow { return flow{"me", "some", round, crm(batch.Bulk)} }
		require.NoError(t, b.offer(b.ctx, of("2"), []indexRange{{4, 6}}))
		require.NoError(t, b.offer(b.ctx, of(""), []indexRange{{0, 10}}))
		require.Equal(t, map[string]bool{taskID("some", 4, "2"): true, taskID("some", 5, "2"): true}, b.waits())
		require.NoError(t, b.offer(b.ctx, of("10"), []indexRange{{1, 2}}))
		require.NoError(t, b.offer(b.ctx, of("2"), []indexRange{{4, 6}}))
		require.Equal(t, map[string]bool{taskID("some", 1, "10"): true}, b.waits())
	}, "embedded", "server", "cluster")
}

// What is offered of a batch that was cancelled meanwhile, before or after that was taken back, does not wait.
func TestWhatIsOfferedOfAnEndedBatchDoesNotWait(t *testing.T) {
	onStores(t, func(t *testing.T, b *bundle) {
		const n = 700
		offers := map[string]func(id string, m map[string]string) error{
			"fan-out": func(id string, m map[string]string) error {
				return b.fanOut(b.ctx, fanOut{flow: flowOf(id, m), total: n})
			},
			"waiting": func(id string, m map[string]string) error { return b.offerWaiting(b.ctx, flowOf(id, m), 0, n) },
			"lost": func(id string, m map[string]string) error {
				_, _, err := b.offerLost(b.ctx, id, m, 0, n)
				return err
			},
		}
		for name, offer := range offers {
			t.Log(name)
			id := b.submit(n, spec()).ID
			b.background.Wait()
			m := b.head(id)
			b.retract(b.ctx, flowOf(id, m)) // as if it had not been offered
			ended := false
			b.beforeOffers(func() {
				if !ended {
					ended = true
					must(b.Cancel(b.ctx, "me", id))
					b.background.Wait()
				}
			})
			require.NoError(t, offer(id, m))
			b.background.Wait()
			require.True(t, ended)
			b.requireWaits(0)
		}
		b.noFairKeys()
	}, "embedded", "cluster")
}

// beforeOffers has something done before the next offers are sent.
func (b *bundle) beforeOffers(do func()) {
	b.db.Client.AddHook(&beforeStep{hash: b.steps.offer.Hash(), do: do})
}

type beforeStep struct {
	hash string
	mu   sync.Mutex
	do   func()
}

func (h *beforeStep) DialHook(next redis.DialHook) redis.DialHook          { return next }
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
		id := b.submit(700, spec()).ID
		b.background.Wait()
		token := b.begin(id, 0).Token
		require.NoError(t, b.db.Client.HSet(b.ctx, keysOf(id).meta, "expires", 1).Err())
		begun, err := b.Begin(b.ctx, id, 1, "w1")
		require.NoError(t, err)
		require.Equal(t, batch.Ended, begun.Verdict)
		b.background.Wait()
		b.requireWaits(0)
		b.noFairKeys()
		require.NoError(t, b.Finish(b.ctx, id, 0, token, result(0, batch.Succeeded)))

		id = b.submit(700, spec()).ID
		b.background.Wait()
		token = b.begin(id, 0).Token
		require.NoError(t, b.db.Client.HSet(b.ctx, keysOf(id).meta, "expires", 1).Err())
		_, err = b.Release(b.ctx, id, 0, token, new(batch.Result))
		require.NoError(t, err)
		b.background.Wait()
		b.noFairKeys()
	}, "embedded", "cluster")
}

// A sweeper that meets a batch whose offer was not noted offers what waits, not what has ended.
func TestTheSweeperOffersOnlyWhatWaits(t *testing.T) {
	onStores(t, func(t *testing.T, b *bundle) {
		const n = 700
		id := b.submit(n, spec()).ID
		b.background.Wait()
		for _, queue := range b.queuesOf(crm(batch.Bulk)) {
			ids, _ := b.polls(queue, n, false)
			require.NoError(t, b.endTasks(b.ctx, queue, ids))
		}
		b.endAll(id, n-3)
		require.NoError(t, b.db.Client.HSet(b.ctx, keysOf(id).meta, "enqueued", 0, "fanned", 1, "created", 1).Err())
		_, _, err := b.Sweep(b.ctx, "w1")
		require.NoError(t, err)
		b.background.Wait()
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
			err := b.enqueue(b.ctx, "again", crm(batch.Bulk), span(0, 4))
			require.NoError(t, err)
			for _, id := range []string{"b0", "b1"} {
				b.offersOf("me", id, 5)
			}
			b.offersOf("other", "b2", 5)
			require.NoError(t, b.db.Client.Del(b.ctx, fairPrefix(queue)+lost).Err())
			got := make(map[string]int)
			for range 20 {
				ids, _ := b.polls(queue, 2, false)
				for id, n := range batchesIn(ids) {
					got[id] += n
				}
				require.NoError(t, b.endTasks(b.ctx, queue, ids))
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
				require.NoError(t, b.endTasks(b.ctx, queue, ids))
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
		f := flow{owner: "me", id: "some", route: crm(batch.Bulk)}
		require.NoError(t, b.offer(b.ctx, f, []indexRange{{0, n}}))
		queue := b.queueOf(f.route, f.id, 0)
		prefix := fairPrefix(queue)
		slot := int(b.db.Cluster.ClusterKeySlot(b.ctx, prefix).Val())
		from := must(b.db.Cluster.MasterForKey(b.ctx, prefix))
		var to *redis.Client
		var mu sync.Mutex
		require.NoError(t, b.db.Cluster.ForEachMaster(b.ctx, func(_ context.Context, c *redis.Client) error {
			mu.Lock()
			defer mu.Unlock()
			if c.Options().Addr != from.Options().Addr {
				to = c
			}
			return nil
		}))
		fromID := must(from.Do(b.ctx, "cluster", "myid").Text())
		toID := must(to.Do(b.ctx, "cluster", "myid").Text())
		require.NoError(t, to.Do(b.ctx, "cluster", "setslot", slot, "importing", fromID).Err())
		require.NoError(t, from.Do(b.ctx, "cluster", "setslot", slot, "migrating", toID).Err())
		host, port, _ := strings.Cut(to.Options().Addr, ":")
		for _, key := range []string{prefix + "b:some", prefix + "m"} {
			require.NoError(t, from.Do(b.ctx, "migrate", host, port, key, 0, 5000).Err())
			short, cancel := context.WithTimeout(b.ctx, 200*time.Millisecond)
			_ = b.offer(short, flow{owner: "me", id: "other", route: f.route}, []indexRange{{0, n}})
			b.retract(short, f)
			_, _, _ = b.pollFor(short, &Poll{Queue: queue, Want: 5})
			cancel()
		}
		left := must(from.Do(b.ctx, "cluster", "getkeysinslot", slot, 100).StringSlice())
		for _, key := range left {
			require.NoError(t, from.Do(b.ctx, "migrate", host, port, key, 0, 5000).Err(), key)
		}
		for _, c := range []*redis.Client{to, from} {
			require.NoError(t, c.Do(b.ctx, "cluster", "setslot", slot, "node", toID).Err())
		}
		b.db.Cluster.ReloadState(b.ctx)
		seen := make(map[string]bool)
		for _, q := range b.queuesOf(f.route) {
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
