package fanout_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue/fanout"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/limits"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
)

// waitingFor submits batches of two actions that wait for the same limit, and reads all of them in
// rounds of ReleaseThrottled.
func (b *bundle) waitingFor(limit batch.Limit, batches int) {
	b.T.Helper()
	for range batches {
		b.throttledBatch(2, limit)
	}
	for range 2 + batches/fanout.ReleaseReads {
		b.release()
	}
}

// commandsWhileThrottled returns the commands of a second in which throttled batches of one owner wait for room.
func commandsWhileThrottled(t *testing.T, limit batch.Limit, batches int) int {
	t.Helper()
	b := open(t, redistest.Start(t).URL())
	b.waitingFor(limit, batches)
	const rounds = 40
	tick := time.NewTicker(time.Second / rounds)
	defer tick.Stop()
	before := queuetest.Commands(b.Bundle)
	for range rounds {
		waiting, err := b.Fanout.ReleaseThrottled(b.Ctx)
		require.NoError(t, err)
		require.Positive(t, waiting)
		<-tick.C
	}
	return queuetest.Commands(b.Bundle) - before
}

func TestCommandsDoNotGrowWithTheBatchesThatWaitForALimit(t *testing.T) {
	t.Parallel()
	for name, found := range map[string][2]batch.Limit{
		"concurrent":     {{Concurrent: 1}, {Concurrent: 1}},
		"rate":           {{Rate: batch.Rate{N: 1, Per: time.Hour}}, {Rate: batch.Rate{N: 1, Per: time.Hour}}},
		"much in flight": {{Concurrent: 3}, {Rate: batch.Rate{N: 500, Per: time.Hour}, Concurrent: 400}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			few, many := commandsWhileThrottled(t, found[0], 4), commandsWhileThrottled(t, found[1], 450)
			t.Logf("commands in 40 rounds: %d with 4 throttled batches, %d with 450", few, many)
			const grants = 100 // the most that one request to a limit looks at
			require.Less(t, many, few+40*2*grants)
		})
	}
}

// Batches of one owner that wait for the same limit take turns.
func TestNoThrottledBatchStarves(t *testing.T) {
	t.Parallel()
	b := open(t, rdb.Embedded)
	const batches, each = 7, 4
	var ids []string
	for range batches {
		ids = append(ids, b.throttledBatch(each, batch.Limit{Concurrent: 1}))
	}
	ended := make(map[string]int)
	for n := range batches * each {
		b.Eventually("another action", func() bool { b.release(); return b.queued() == 1 })
		id, index, ok := tasks.ParseTaskID(b.Pending(batch.Interactive)[0].ID)
		require.True(t, ok)
		b.End(id, index, batch.Succeeded)
		b.drop(id, index)
		ended[id]++
		for _, other := range ids {
			require.GreaterOrEqual(t, ended[other], n/batches-1, "after %d actions: %v", n+1, ended)
		}
	}
	b.Eventually("the end", func() bool {
		b.release()
		left, err := b.throttled(b.Ctx)
		return err == nil && len(left) == 0
	})
	batchesLeft, limitsLeft := b.Fanout.Remembered()
	require.Zero(t, batchesLeft)
	require.Zero(t, limitsLeft)
}

// A limit without room keeps no other limit waiting, though many batches wait for it.
func TestALimitWithoutRoomKeepsNoOtherWaiting(t *testing.T) {
	t.Parallel()
	b := open(t, rdb.Embedded)
	b.waitingFor(batch.Limit{Scope: "full", Concurrent: 1}, 300)
	open := batch.Limit{Scope: "open", Concurrent: 1}
	id := b.throttledBatch(3, open)
	before := b.queued()
	for i := range 2 {
		b.End(id, i, batch.Succeeded)
		b.Eventually("the next action", func() bool { b.release(); return b.queued() == before+1+i })
	}
}

func TestAFrozenNodeDelaysTheBatchesOfOthersOnceARound(t *testing.T) {
	t.Parallel()
	c := redistest.NewCluster(t, false, "--cluster-node-timeout", "60000", "--cluster-require-full-coverage", "no")
	b := open(t, c.URL())
	frozen := c.Nodes[1] // which does not have the list, nor the limits
	require.NotEqual(t, frozen.Addr, b.DB.NodeOf(b.Ctx, keys.ThrottledKey).Options().Addr)
	require.NotEqual(t, frozen.Addr, b.DB.NodeOf(b.Ctx, limits.LimitKeys("me", batch.Limit{})[0]).Options().Addr)
	var alive, dead []string
	for n := 0; len(alive) < 6 || len(dead) < 6; n++ { // each with a limit of its own
		limit := batch.Limit{Scope: fmt.Sprint(n), Concurrent: 1}
		id := b.throttledBatch(2, limit)
		if b.DB.NodeOf(b.Ctx, keys.KeysOf(id).Meta).Options().Addr == frozen.Addr {
			dead = append(dead, id)
		} else {
			b.End(id, 0, batch.Succeeded)
			alive = append(alive, id)
		}
	}
	queuetest.SetTimeout(b.Store, 500*time.Millisecond)
	frozen.Freeze()
	t.Cleanup(frozen.Thaw)
	handed := func() (n int) {
		for _, id := range alive {
			if m, err := b.Batches.Meta(b.Ctx, id); err == nil && m["handed"] == "2" {
				n++
			}
		}
		return n
	}
	began := time.Now()
	rounds := 0
	for handed() < len(alive) && rounds < 8*len(alive) {
		_, _ = b.Fanout.ReleaseThrottled(b.Ctx) // the error is that of batches on the frozen node
		rounds++
	}
	require.Equal(t, len(alive), handed())
	require.Less(t, time.Since(began), time.Duration(rounds+1)*4*b.DB.Timeout, "in %d rounds; six batches, one after the other, would take six times as long", rounds)
}
