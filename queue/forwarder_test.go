package queue

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
)

// retrying runs a server whose tasks all fail once and run again after a delay, and returns how
// long that took for each.
func (b *bundle) retrying(tasks int, delay time.Duration) []time.Duration {
	b.t.Helper()
	var mu sync.Mutex
	failed, gaps := make(map[int]time.Time), make([]time.Duration, 0, tasks)
	server := b.NewServer(ServerConfig{
		Lines: []Line{{Target: "crm", Places: tasks}}, WebhookPlaces: 1,
		Config: asynq.Config{
			LogLevel: asynq.FatalLevel, ShutdownTimeout: time.Second,
			RetryDelayFunc: func(int, error, *asynq.Task) time.Duration { return delay },
		},
	})
	require.NoError(b.t, server.Start(Handlers{
		Action: func(_ string, index int, _ *Place) error {
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
	b.submit(tasks, spec())
	b.eventually("each a second time", func() bool {
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

// putAside puts so many tasks of actions aside until a time from now, and returns the server that
// did, which moves nothing by itself, and their ids.
func (b *bundle) putAside(n int, wait time.Duration) (*taker, []string) {
	b.t.Helper()
	b.submit(n, spec())
	t := newTaker(b.Store, ServerConfig{Lines: []Line{{Target: "crm", Places: 2 * n}}})
	t.later = func(int, error, *asynq.Task) time.Duration { return wait }
	l := t.lines[0]
	b.eventually("the tasks", func() bool {
		l.markAll()
		l.turn(true)
		return len(l.out) == n
	})
	var ids []string
	for range n {
		k := <-l.out
		k.ran(errors.New("later"))
		ids = append(ids, k.id)
	}
	for l.untold() > 0 {
		l.turn(false)
	}
	return t, ids
}

// moveAll moves what is due, in one exchange for each queue.
func (t *taker) moveAll() {
	for _, q := range t.lanes {
		q.due = time.Time{}
		t.forwarder.forward([]*lane{q})
	}
}

func (b *bundle) dueEntries() (n int64) {
	b.t.Helper()
	for _, lane := range []batch.Lane{batch.Interactive, batch.Bulk} {
		for _, queue := range b.queuesOf(crm(lane)) {
			n += must(b.db.Client.ZCard(b.ctx, dueKey(queue)).Result())
		}
	}
	return n
}

func TestATaskIsDueToTheMillisecondByRedissClock(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		const wait = 90*time.Second + 300*time.Millisecond
		before, err := b.db.Now(b.ctx)
		require.NoError(t, err)
		began := time.Now()
		taker, ids := b.putAside(1, wait)
		ended := time.Now()
		after, err := b.db.Now(b.ctx)
		require.NoError(t, err)
		for _, q := range taker.lanes {
			entries := must(b.db.Client.ZRangeWithScores(b.ctx, dueKey(q.name), 0, -1).Result())
			if len(entries) == 0 {
				continue
			}
			at := time.UnixMilli(int64(entries[0].Score))
			require.False(t, at.After(after.Add(wait+time.Millisecond)), "no later than to the millisecond")
			require.False(t, at.Before(before.Add(wait)), "not early")
			require.LessOrEqual(t, q.due.Sub(ended), wait+2*time.Millisecond, "the process moves it then")
			require.GreaterOrEqual(t, q.due.Sub(began), wait)
			second := must(b.db.Client.ZScore(b.ctx, q.prefix+"retry", ids[0]).Result())
			require.Equal(t, float64(at.Unix()), second, "released asynqmon reads whole seconds only") //nolint:testifylint // it is exact
			life := must(b.db.Client.PTTL(b.ctx, dueKey(q.name)).Result())
			require.Positive(t, life, "nothing stays behind")
		}
		taker.moveAll()
		require.Len(t, b.listed(batch.Interactive, b.inspector().ListRetryTasks), 1, "it is not due yet")
		require.EqualValues(t, 1, b.dueEntries())
	})
}

func TestTasksThatAreDueComeBackInBoundedNumbers(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		queue := b.queueOf(crm(batch.Bulk), "x", 0)
		prefix := asynqPrefix(queue)
		const n = 2*forwardMost + 5
		var due, retry []redis.Z
		for i := range n {
			id := fmt.Sprint("x:", i)
			due = append(due, redis.Z{Member: id, Score: float64(time.Now().Add(-time.Minute).UnixMilli())})
			retry = append(retry, redis.Z{Member: id, Score: float64(time.Now().Add(-time.Minute).Unix())})
		}
		require.NoError(t, b.db.Client.ZAdd(b.ctx, dueKey(queue), due...).Err())
		require.NoError(t, b.db.Client.ZAdd(b.ctx, prefix+"retry", retry...).Err())
		taker := newTaker(b.Store, ServerConfig{Lines: []Line{{Target: "crm", Places: 1}}})
		for _, moved := range []int64{forwardMost, 2 * forwardMost, n} {
			taker.moveAll()
			require.Equal(t, moved, must(b.db.Client.LLen(b.ctx, prefix+"pending").Result()))
			require.Equal(t, moved < n, !taker.lanes[queue].due.IsZero(), "it goes on at once while there are more")
		}
		require.Equal(t, "pending", must(b.db.Client.HGet(b.ctx, prefix+"t:x:7", "state").Result()))
		require.Zero(t, b.dueEntries())
	})
}

func TestAnEntryOfATaskThatDoesNotWaitAnyMoreMovesNothing(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		taker, ids := b.putAside(2, 50*time.Millisecond)
		for i, id := range ids {
			batchID, index, _ := parseTaskID(id)
			queue := b.queueOf(crm(batch.Interactive), batchID, index)
			if i == 0 {
				require.NoError(t, b.inspector().RunTask(queue, id))
			} else {
				require.NoError(t, b.inspector().DeleteTask(queue, id))
			}
		}
		b.eventually("the entries are dropped", func() bool {
			taker.moveAll()
			return b.dueEntries() == 0
		})
		require.Len(t, b.pending(batch.Interactive), 1, "the one that an operator ran")
	})
}

func TestATaskWhoseEntryIsGoneComesAtTheEndOfItsSecond(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		taker, _ := b.putAside(1, 50*time.Millisecond)
		for queue := range taker.lanes {
			require.NoError(t, b.db.Client.Del(b.ctx, dueKey(queue)).Err())
		}
		taker.action = func(string, int, *Place) error { return nil }
		taker.wg.Go(taker.forwarder.run)
		defer taker.wg.Wait()
		defer close(taker.quit)
		b.eventually("it is moved without being looked for again", func() bool { return len(b.pending(batch.Interactive)) == 1 })
	})
}

func TestTasksThatWaitForAServerThatDiedComeAtAnother(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		b.putAside(3, time.Millisecond) // and dies
		var got seen
		b.serve(Line{Places: 4}, func(index int, _ *Place) error {
			got.add(index)
			return nil
		})
		b.eventually("the tasks", func() bool { return len(got.sorted()) == 3 })
	})
}

func TestTasksAreMovedAfterAnExchangeThatFailed(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		taker, _ := b.putAside(1, time.Millisecond)
		b.db.Client.AddHook(&failing{left: 3})
		taker.forwarder.lookAtAll()
		taker.wg.Go(taker.forwarder.run)
		defer taker.wg.Wait()
		defer close(taker.quit)
		b.eventually("the task", func() bool { return len(b.pending(batch.Interactive)) == 1 })
	})
}

func TestATaskWhoseLeaseHasExpiredComesAgain(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		b.submit(3, spec())
		l := newTaker(b.Store, ServerConfig{Lines: []Line{{Target: "crm", Places: 6}}}).lines[0]
		b.eventually("a server takes the tasks and dies", func() bool {
			l.markAll()
			l.turn(true)
			return len(b.active()) == 3
		})
		now, err := b.db.Now(b.ctx)
		require.NoError(t, err)
		expire := func(ids []string, at time.Time) {
			for _, id := range ids {
				batchID, index, _ := parseTaskID(id)
				entry := redis.Z{Member: id, Score: float64(at.Unix())}
				require.NoError(t, b.db.Client.ZAddXX(b.ctx, asynqPrefix(b.queueOf(crm(batch.Interactive), batchID, index))+"lease", entry).Err())
			}
		}
		held := b.active()
		expire(held[:1], now.Add(time.Minute))
		expire(held[1:2], now.Add(-reapGrace/2)) // as of a worker that could not renew it
		expire(held[2:], now.Add(-reapGrace-2*time.Second))
		taker := newTaker(b.Store, ServerConfig{Lines: []Line{{Target: "crm", Places: 6}}})
		for _, q := range taker.lanes {
			q.filled = false
		}
		for _, q := range taker.lanes {
			taker.reapQueues([]*lane{q})
		}
		waiting := b.pending(batch.Interactive)
		require.Len(t, waiting, 1)
		require.Equal(t, held[2], waiting[0].ID)
		require.Zero(t, waiting[0].Retried, "the ledger decides about attempts")
		require.Len(t, b.active(), 2)
		require.True(t, taker.lanes[waiting[0].Queue].filled, "and it is taken at once")
		require.ErrorIs(t, b.db.Client.ZScore(b.ctx, asynqPrefix(waiting[0].Queue)+"lease", held[2]).Err(), redis.Nil)

		// While a batch is open, a server looks for such tasks by itself.
		expire(b.active(), now.Add(-time.Hour))
		var got seen
		b.serve(Line{Places: 4}, func(index int, _ *Place) error {
			got.add(index)
			return nil
		})
		b.eventually("all of them", func() bool { return len(got.sorted()) == 3 })
	})
}
