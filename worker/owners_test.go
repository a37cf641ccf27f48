package worker

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue"
	"github.com/batchd/batchd/queue/rdb"
)

// arrivals counts the requests at a target, in their order.
type arrivals struct {
	mu     sync.Mutex
	owners map[string]int // from batch to owner
	order  []int
}

func (a *arrivals) of(id string, owner int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.owners[id] = owner
}

func (a *arrivals) add(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.order = append(a.order, a.owners[id])
}

// Ten owners submit one after another. From the first actions to the last ones, no owner is far ahead
// of another at the target.
func TestOwnersAreServedAlikeAtTheTarget(t *testing.T) {
	t.Parallel()
	const owners = 10
	cases := map[string]struct{ batches, actions int }{
		"one large batch each": {1, 250},
		"many batches each":    {5, 50},
	}
	from := 30 // percent: with 250 actions each and 16 at the target, shares are coarse at first
	if long {
		cases["one large batch each"], cases["many batches each"], from = struct{ batches, actions int }{1, 2500}, struct{ batches, actions int }{25, 100}, 5
	}
	for name, of := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			came := &arrivals{owners: make(map[string]int)}
			b := setupOn(t, queue.Config{Redis: rdb.Config{URL: rdb.URL(redistest.Start(t).URL())}}, func(_ context.Context, r *batch.Request, _ int) *batch.Response {
				came.add(r.BatchID)
				time.Sleep(20 * time.Millisecond) // a target needs some time
				return answer(200)
			})
			b.cfg.Targets[0].Concurrency = 16
			ids := make(map[string]int)
			for owner := range owners {
				for range of.batches {
					id := b.submitOf(fmt.Sprint("owner-", owner), of.actions)
					came.of(id, owner)
					ids[id] = owner
				}
			}
			b.run()
			for id, owner := range ids {
				require.Eventually(t, func() bool {
					got, err := b.store.Get(t.Context(), fmt.Sprint("owner-", owner), id, 0)
					require.NoError(t, err)
					return got.Status.Terminal()
				}, endless, 20*time.Millisecond)
			}
			all := owners * of.batches * of.actions
			require.Len(t, came.order, all)
			begun := make([]int, owners)
			for n, owner := range came.order {
				begun[owner]++
				if n+1 < all*from/100 || n+1 > 19*all/20 {
					continue
				}
				least, most := all, 0
				for _, k := range begun {
					least, most = min(least, k), max(most, k)
				}
				require.LessOrEqual(t, float64(most), 1.3*float64(least), "after %d of %d: %v", n+1, all, begun)
			}
		})
	}
}

// submitOf submits a batch of an owner.
func (b *bundle) submitOf(owner string, n int) string {
	b.t.Helper()
	u, err := b.store.Open(b.t.Context(), owner, "")
	require.NoError(b.t, err)
	for i := range n {
		require.NoError(b.t, u.Add(b.t.Context(), &batch.Action{Method: "POST", Path: fmt.Sprintf("/%d", i)}))
	}
	got, _, err := u.Commit(b.t.Context(), &batch.Spec{Target: "crm", ExpiresIn: time.Hour, Retention: time.Hour})
	require.NoError(b.t, err)
	return got.ID
}
