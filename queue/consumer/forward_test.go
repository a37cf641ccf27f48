package consumer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/tasks"
)

// retrying runs a server whose tasks all fail once and run again after a delay, and returns how
// long that took for each.
func (b *bundle) retrying(tasks int, delay time.Duration) []time.Duration {
	b.T.Helper()
	var mu sync.Mutex
	failed, gaps := make(map[int]time.Time), make([]time.Duration, 0, tasks)
	server := b.consumers.NewServer(ServerConfig{
		Targets: []Target{{Name: "crm", Slots: tasks}}, WebhookSlots: 1,
		Config: asynq.Config{
			LogLevel: asynq.FatalLevel, ShutdownTimeout: time.Second,
			RetryDelayFunc: func(int, error, *asynq.Task) time.Duration { return delay },
		},
	})
	require.NoError(b.T, server.Start(Handlers{
		Action: func(_ string, index int, _ *Slot) error {
			mu.Lock()
			defer mu.Unlock()
			if at, again := failed[index]; again {
				gaps = append(gaps, time.Since(at))
				return nil
			}
			failed[index] = time.Now()
			return errors.New("again")
		},
		Webhook: func(context.Context, *asynq.Task) error { return nil },
	}))
	defer server.Shutdown()
	b.Submit(tasks, queuetest.Spec())
	b.Eventually("each a second time", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(gaps) == tasks
	})
	mu.Lock()
	defer mu.Unlock()
	slices.Sort(gaps)
	return gaps
}

func TestARetryIsNeverEarlyAndWaitsForNoPoll(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		const delay = 300 * time.Millisecond
		closest := time.Hour
		for range 20 { // a busy machine delays some, and all by a few ms
			gaps := b.retrying(8, delay)
			require.GreaterOrEqual(t, gaps[0], delay, "never early")
			if closest = min(closest, gaps[0]-delay); closest < 100*time.Millisecond {
				return
			}
		}
		t.Errorf("every attempt came later than its delay, by %s or more", closest)
	})
}

// putAside has so many tasks fail and wait for another attempt, and returns the consumer that
// took them, which moves nothing by itself, and their ids.
func (b *bundle) putAside(n int, wait time.Duration) (*consumer, []string) {
	b.T.Helper()
	b.Submit(n, queuetest.Spec())
	t := newConsumer(b.consumers, ServerConfig{Targets: []Target{{Name: "crm", Slots: 2 * n}}})
	t.retryDelay = func(int, error, *asynq.Task) time.Duration { return wait }
	target := t.targets[0]
	b.Eventually("the tasks", func() bool {
		target.markAllNonEmpty()
		target.poll(true)
		return len(target.handed()) == n
	})
	var ids []string
	for range n {
		k := <-target.handed()
		k.ran(errors.New("later"))
		ids = append(ids, k.id)
	}
	for target.unreported() > 0 {
		target.poll(false)
	}
	return t, ids
}

// moveAll moves the tasks that are due, in one exchange for each queue.
func (c *consumer) moveAll() {
	for _, q := range c.queues {
		q.due = time.Time{}
		c.forwarder.forward([]*taskQueue{q})
	}
}

func TestATaskIsDueToTheMillisecondByRedissClock(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		const wait = 90*time.Second + 300*time.Millisecond
		before, err := b.DB.Now(b.Ctx)
		require.NoError(t, err)
		began := time.Now()
		c, ids := b.putAside(1, wait)
		ended := time.Now()
		after, err := b.DB.Now(b.Ctx)
		require.NoError(t, err)
		for _, q := range c.queues {
			entries := queuetest.Must(b.DB.Client.ZRangeWithScores(b.Ctx, tasks.DueKey(q.name), 0, -1).Result())
			if len(entries) == 0 {
				continue
			}
			at := time.UnixMilli(int64(entries[0].Score))
			require.False(t, at.After(after.Add(wait+time.Millisecond)), "no later than to the millisecond")
			require.False(t, at.Before(before.Add(wait)), "not early")
			require.LessOrEqual(t, q.due.Sub(ended), wait+2*time.Millisecond, "the process moves it then")
			require.GreaterOrEqual(t, q.due.Sub(began), wait)
			second := queuetest.Must(b.DB.Client.ZScore(b.Ctx, q.prefix+"retry", ids[0]).Result())
			require.Equal(t, float64(at.Unix()), second, "released asynqmon reads whole seconds only") //nolint:testifylint // it is exact
			life := queuetest.Must(b.DB.Client.PTTL(b.Ctx, tasks.DueKey(q.name)).Result())
			require.Positive(t, life, "nothing stays behind")
		}
		c.moveAll()
		require.Len(t, b.Listed(batch.Interactive, b.Inspector().ListRetryTasks), 1, "it is not due yet")
		require.EqualValues(t, 1, queuetest.DueEntries(b.Bundle))
	})
}

func TestTasksThatAreDueComeBackInBoundedNumbers(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		queue := b.Tasks.QueueOf(queuetest.Crm(batch.Bulk), "x", 0)
		prefix := tasks.AsynqPrefix(queue)
		const most = 1000 // of one exchange
		const n = 2*most + 5
		var due, retry []redis.Z
		for i := range n {
			id := fmt.Sprint("x:", i)
			due = append(due, redis.Z{Member: id, Score: float64(time.Now().Add(-time.Minute).UnixMilli())})
			retry = append(retry, redis.Z{Member: id, Score: float64(time.Now().Add(-time.Minute).Unix())})
		}
		require.NoError(t, b.DB.Client.ZAdd(b.Ctx, tasks.DueKey(queue), due...).Err())
		require.NoError(t, b.DB.Client.ZAdd(b.Ctx, prefix+"retry", retry...).Err())
		c := newConsumer(b.consumers, ServerConfig{Targets: []Target{{Name: "crm", Slots: 1}}})
		for _, moved := range []int64{most, 2 * most, n} {
			c.moveAll()
			require.Equal(t, moved, queuetest.Must(b.DB.Client.LLen(b.Ctx, prefix+"pending").Result()))
			require.Equal(t, moved < n, !c.queues[queue].due.IsZero(), "it goes on at once while there are more")
		}
		require.Equal(t, "pending", queuetest.Must(b.DB.Client.HGet(b.Ctx, prefix+"t:x:7", "state").Result()))
		require.Zero(t, queuetest.DueEntries(b.Bundle))
	})
}

func TestAnEntryOfATaskThatDoesNotWaitAnyMoreMovesNothing(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		c, ids := b.putAside(2, 50*time.Millisecond)
		for i, id := range ids {
			batchID, index, _ := tasks.ParseTaskID(id)
			queue := b.Tasks.QueueOf(queuetest.Crm(batch.Interactive), batchID, index)
			if i == 0 {
				require.NoError(t, b.Inspector().RunTask(queue, id))
			} else {
				require.NoError(t, b.Inspector().DeleteTask(queue, id))
			}
		}
		b.Eventually("the entries are dropped", func() bool {
			c.moveAll()
			return queuetest.DueEntries(b.Bundle) == 0
		})
		require.Len(t, b.Pending(batch.Interactive), 1, "the one that an operator ran")
	})
}

func TestATaskWhoseEntryIsGoneComesAtTheEndOfItsSecond(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		c, _ := b.putAside(1, 50*time.Millisecond)
		for queue := range c.queues {
			require.NoError(t, b.DB.Client.Del(b.Ctx, tasks.DueKey(queue)).Err())
		}
		c.action = func(string, int, *Slot) error { return nil }
		c.wg.Go(c.forwarder.run)
		defer c.wg.Wait()
		defer close(c.quit)
		b.Eventually("it is moved without being looked for again", func() bool { return len(b.Pending(batch.Interactive)) == 1 })
	})
}

func TestTasksThatWaitForAServerThatDiedComeAtAnother(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		b.putAside(3, time.Millisecond) // and dies
		var got queuetest.Indexes
		b.serve(Target{Slots: 4}, func(index int, _ *Slot) error {
			got.Add(index)
			return nil
		})
		b.Eventually("the tasks", func() bool { return len(got.Sorted()) == 3 })
	})
}

func TestTasksAreMovedAfterAnExchangeThatFailed(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		c, _ := b.putAside(1, time.Millisecond)
		b.DB.Client.AddHook(&queuetest.FailedPipelines{Left: 3})
		c.forwarder.forwardAll()
		c.wg.Go(c.forwarder.run)
		defer c.wg.Wait()
		defer close(c.quit)
		b.Eventually("the task", func() bool { return len(b.Pending(batch.Interactive)) == 1 })
	})
}

func TestATaskWhoseLeaseHasExpiredComesAgain(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		b.Submit(3, queuetest.Spec())
		target := newConsumer(b.consumers, ServerConfig{Targets: []Target{{Name: "crm", Slots: 6}}}).targets[0]
		b.Eventually("a server takes the tasks and dies", func() bool {
			target.markAllNonEmpty()
			target.poll(true)
			return len(b.Active()) == 3
		})
		now, err := b.DB.Now(b.Ctx)
		require.NoError(t, err)
		expire := func(ids []string, at time.Time) {
			for _, id := range ids {
				batchID, index, _ := tasks.ParseTaskID(id)
				entry := redis.Z{Member: id, Score: float64(at.Unix())}
				require.NoError(t, b.DB.Client.ZAddXX(b.Ctx, tasks.AsynqPrefix(b.Tasks.QueueOf(queuetest.Crm(batch.Interactive), batchID, index))+"lease", entry).Err())
			}
		}
		held := b.Active()
		expire(held[:1], now.Add(time.Minute))
		expire(held[1:2], now.Add(-reapGrace/2)) // as of a worker that could not renew it
		expire(held[2:], now.Add(-reapGrace-2*time.Second))
		c := newConsumer(b.consumers, ServerConfig{Targets: []Target{{Name: "crm", Slots: 6}}})
		for _, q := range c.queues {
			q.maybeNonEmpty = false
		}
		for _, q := range c.queues {
			c.reapQueues([]*taskQueue{q})
		}
		waiting := b.Pending(batch.Interactive)
		require.Len(t, waiting, 1)
		require.Equal(t, held[2], waiting[0].ID)
		require.Zero(t, waiting[0].Retried, "the ledger decides about attempts")
		require.Len(t, b.Active(), 2)
		require.True(t, c.queues[waiting[0].Queue].maybeNonEmpty, "and it is taken at once")
		require.ErrorIs(t, b.DB.Client.ZScore(b.Ctx, tasks.AsynqPrefix(waiting[0].Queue)+"lease", held[2]).Err(), redis.Nil)

		// While a batch is open, a server looks for such tasks by itself.
		expire(b.Active(), now.Add(-time.Hour))
		var got queuetest.Indexes
		b.serve(Target{Slots: 4}, func(index int, _ *Slot) error {
			got.Add(index)
			return nil
		})
		b.Eventually("all of them", func() bool { return len(got.Sorted()) == 3 })
	})
}
