package queue

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

// active returns the ids of the tasks that run by asynq's books.
func (b *bundle) active() (ids []string) {
	b.t.Helper()
	queues, err := b.taskQueues(b.ctx)
	require.NoError(b.t, err)
	for _, queue := range queues {
		ids = append(ids, b.db.Client.LRange(b.ctx, asynqPrefix(queue)+"active", 0, -1).Val()...)
	}
	return ids
}

// takeAll has a worker take all tasks, and die.
func (b *bundle) takeAll(n int) {
	b.t.Helper()
	b.pauses()
	l := newTaker(b.Store, ServerConfig{Lines: []Line{{Target: "crm", Places: 2 * n}}}).lines[0]
	b.eventually("all tasks", func() bool {
		l.markAll()
		l.turn(true)
		return len(b.active()) == n
	})
}

// expireLeases has the leases of all held tasks end.
func (b *bundle) expireLeases() {
	b.t.Helper()
	for _, id := range b.active() {
		queues, err := b.taskQueues(b.ctx)
		require.NoError(b.t, err)
		for _, queue := range queues {
			entry := redis.Z{Member: id, Score: float64(time.Now().Add(-time.Second).Unix())}
			require.NoError(b.t, b.db.Client.ZAddXX(b.ctx, asynqPrefix(queue)+"lease", entry).Err())
		}
	}
	b.suspected = time.Time{}
}

func TestTasksOfEndedBatchesDoNotStayInAsynqsBooks(t *testing.T) {
	ends := map[string]func(b *bundle, id string){
		"cancelled": func(b *bundle, id string) { must(b.Cancel(b.ctx, "me", id)) },
		"deleted":   func(b *bundle, id string) { require.NoError(b.t, b.Delete(b.ctx, "me", id)) },
		"finished": func(b *bundle, id string) {
			for i := range 3 {
				b.end(id, i, batch.Succeeded)
			}
		},
	}
	onEveryStore(t, func(t *testing.T, b *bundle) {
		for name, end := range ends {
			t.Log(name)
			id := b.submit(3, spec()).ID
			b.takeAll(3)
			end(b, id)
			b.round()
			require.Len(t, b.active(), 3, "a worker may be about to end them")
			b.expireLeases()
			b.round()
			require.Empty(t, b.active())
			for key := range b.allKeys() {
				word := asynqWord(key)
				require.NotEqual(t, "t", word)
				require.NotEqual(t, "lease", word)
			}
		}
	})
}

func TestTasksOfADeadWorkerWhoseBatchesHaveEndedGoSoon(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.submit(3, spec()).ID
		b.takeAll(3)
		for i := range 3 {
			b.end(id, i, batch.Succeeded)
		}
		_, err := b.Recover(b.ctx, "w1", []string{"dead"})
		require.NoError(t, err)
		require.Empty(t, b.active())
	})
}

// A task that a live worker runs has a lease that has run out by another clock.
func TestATaskThatIsRunStaysThoughItsLeaseHasRunOut(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.submit(2, spec()).ID
		b.takeAll(2)
		b.begin(id, 0)
		b.begin(id, 1)
		b.expireLeases()
		paused := b.pauses()
		b.round()
		require.Len(t, b.active(), 2)
		require.Zero(t, paused.Load(), "there is nothing to look at twice")
	})
}

func TestATaskWhoseMessageIsGoneLeavesAsynqsBooks(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.submit(1, spec()).ID
		b.takeAll(1)
		b.end(id, 0, batch.Succeeded)
		for _, queue := range b.queuesOf(crm(batch.Interactive)) { // asynq's recoverer passes it over
			require.NoError(t, b.db.Client.Del(b.ctx, asynqPrefix(queue)+"t:"+taskID(id, 0, "")).Err())
		}
		b.expireLeases()
		b.round()
		require.Empty(t, b.active())
	})
}
