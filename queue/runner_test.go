package queue

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/rdb"
)

func TestATaskThatIsRunForLongKeepsItsLease(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		end := make(chan struct{})
		server, _ := b.serve(Line{Places: 2}, func(int, *Place) error {
			<-end
			return nil
		})
		defer close(end)
		id := b.submit(2, spec()).ID
		var held []*asynq.TaskInfo
		b.eventually("the tasks", func() bool {
			held = b.listed(batch.Interactive, b.inspector().ListActiveTasks)
			return len(held) == 2
		})
		lease := func(index int) (int64, error) {
			name := taskID(id, index, "")
			score, err := b.db.Client.ZScore(b.ctx, asynqPrefix(b.queueOf(crm(batch.Interactive), id, index))+"lease", name).Result()
			return int64(score), err
		}
		before, err := lease(0)
		require.NoError(t, err)
		soon := float64(before - 20) // as if it had run for 20 s
		prefix := asynqPrefix(b.queueOf(crm(batch.Interactive), id, 0))
		require.NoError(t, b.db.Client.ZAddXX(b.ctx, prefix+"lease", redis.Z{Member: taskID(id, 0, ""), Score: soon}).Err())
		n, err := b.requeue(b.ctx, b.queueOf(crm(batch.Interactive), id, 1), []string{taskID(id, 1, "")}) // somebody took it for lost
		require.NoError(t, err)
		require.Equal(t, 1, n)
		server.taker.stop() // so that it is not taken again
		server.taker.renewLeases(time.Now().Add(leaseEvery / 4))
		same, err := lease(0)
		require.NoError(t, err)
		require.Equal(t, before-20, same, "not those of tasks that were just taken")
		server.taker.renewLeases(time.Now().Add(time.Minute))
		after, err := lease(0)
		require.NoError(t, err)
		require.GreaterOrEqual(t, after, before, "by Redis's clock, whatever this process's says")
		require.Less(t, after, before+30)
	})
}

func TestALeaseThatIsGoneIsNotRenewed(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.submit(1, spec()).ID
		taker := newTaker(b.Store, ServerConfig{Lines: []Line{{Target: "crm", Places: 2}}})
		l := taker.lines[0]
		for len(l.out) == 0 { // of several queues it may ask the wrong ones first
			l.turn(true)
		}
		k := <-l.out
		r := &runner{}
		r.now.Store(k)
		l.runners = append(l.runners, r)
		n, err := b.requeue(b.ctx, k.lane.name, []string{taskID(id, 0, "")}) // as of a worker that was taken for dead
		require.NoError(t, err)
		require.Equal(t, 1, n)
		taker.renewLeases(time.Now().Add(time.Minute))
		require.Zero(t, must(b.db.Client.Exists(b.ctx, k.lane.prefix+"lease").Result()))
	})
}

func TestATaskThatPanicsComesAgain(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		var runs atomic.Int32
		b.serve(Line{Places: 1}, func(int, *Place) error {
			if runs.Add(1) == 1 {
				panic("a fault")
			}
			return nil
		})
		b.submit(2, spec())
		b.eventually("all, one of them twice", func() bool { return runs.Load() == 3 })
	})
}

func TestATaskThatIsToComeLaterStandsAmongThoseOfAsynq(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		b.submit(1, spec())
		taker := newTaker(b.Store, ServerConfig{Lines: []Line{{Target: "crm", Places: 2}}})
		taker.later = func(int, error, *asynq.Task) time.Duration { return time.Hour }
		l := taker.lines[0]
		for len(l.out) == 0 { // of several queues it may ask the wrong ones first
			l.turn(true)
		}
		k := <-l.out
		k.ran(errors.New("later"))
		fail := &failing{left: 1}
		b.db.Client.AddHook(fail)
		l.turn(false)
		require.Equal(t, 1, l.untold(), "it is told again")
		l.turn(false)
		require.Zero(t, l.untold())
		require.Empty(t, b.listed(batch.Interactive, b.inspector().ListActiveTasks))
		waiting := b.listed(batch.Interactive, b.inspector().ListRetryTasks)
		require.Len(t, waiting, 1)
		require.Equal(t, k.id, waiting[0].ID)
		require.Equal(t, asynq.TaskStateRetry, waiting[0].State)
		require.WithinDuration(t, time.Now().Add(time.Hour), waiting[0].NextProcessAt, time.Minute)
		require.Zero(t, must(b.db.Client.Exists(b.ctx, k.lane.prefix+"lease").Result()))
		require.WithinDuration(t, time.Now().Add(time.Hour), k.lane.due, time.Minute, "it is moved when it is due")
	})
}

func TestATaskOfSomebodyElseIsDropped(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		_, err := asynq.NewClientFromRedisClient(b.db.Client).Enqueue(asynq.NewTask("theirs", nil),
			asynq.Queue(b.queueOf(crm(batch.Interactive), "x", 0)), asynq.TaskID("whatever"))
		require.NoError(t, err)
		b.serve(Line{Places: 2}, func(int, *Place) error {
			t.Error("it was run")
			return nil
		})
		b.eventually("it is gone", func() bool {
			n := 0
			for key := range b.allKeys() {
				if word := asynqWord(key); word == "t" || word == "pending" || word == "active" {
					n++
				}
			}
			return n == 0
		})
	})
}

func TestAHandlerThatDoesNotEndHoldsNoServer(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		end := make(chan struct{})
		began := make(chan struct{})
		server, stop := b.serve(Line{Places: 2}, func(int, *Place) error {
			close(began)
			<-end
			return nil
		})
		server.drain = 100 * time.Millisecond
		b.submit(1, spec())
		<-began
		stop()
		require.Len(t, b.listed(batch.Interactive, b.inspector().ListActiveTasks), 1, "it is not run a second time")
		close(end)
	})
}

func TestTaskIDsAreRead(t *testing.T) {
	t.Parallel()
	for _, round := range []string{"", "2", "tok-en"} {
		id, index, ok := parseTaskID(taskID("some", 17, round))
		require.True(t, ok)
		require.Equal(t, "some", id)
		require.Equal(t, 17, index)
	}
	for _, bad := range []string{"", "some", "some:", ":1", "some:x", "some:-1"} {
		_, _, ok := parseTaskID(bad)
		require.False(t, ok, bad)
	}
}

// Runners take tasks while the server takes back what they have not begun.
func TestAServerStopsWhileItsRunnersBegin(t *testing.T) {
	t.Parallel()
	b := open(t, rdb.Embedded)
	for range 300 {
		k := newTaker(b.Store, ServerConfig{Lines: []Line{{Target: "crm", Places: 64}}})
		k.action = func(string, int, *Place) error { return nil }
		l := k.lines[0]
		l.mu.Lock()
		for range 64 {
			l.inHand++
			l.sit(1)
			l.hand(&task{lane: l.lanes[0], id: "x:1", place: Place{lane: l.lanes[0]}})
		}
		l.mu.Unlock()
		close(k.quit)
		left := l.unrun()
		require.Empty(t, l.unrun(), "a second time")
		k.runners.Wait()
		require.Equal(t, 64, l.untold()+len(left))
		require.Zero(t, b.running.Load())
	}
}

// Whatever tasks do, all places, runners and books are as before in the end.
func TestNothingIsLeftOfTasksThatAreDone(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		var runs atomic.Int32
		server, _ := b.serve(Line{Places: 16}, func(_ int, place *Place) error {
			switch n := runs.Add(1); n % 5 {
			case 0:
				place.Leave()
			case 1:
				place.Leave()
				return errors.New("again")
			case 2:
				if n%7 == 0 {
					panic("a fault")
				}
			}
			return nil
		})
		for range 5 {
			b.submit(60, spec())
		}
		l := server.taker.lines[0]
		b.eventually("the end", func() bool {
			for key := range b.allKeys() {
				if word := asynqWord(key); word == "t" {
					return false
				}
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.inHand == 0 && l.leaving == 0
		})
		l.mu.Lock()
		defer l.mu.Unlock()
		require.Zero(t, l.inBulk)
		require.Zero(t, l.seated)
		require.Zero(t, b.running.Load())
		require.Empty(t, l.out)
		require.Empty(t, l.ready)
		require.Len(t, l.runners, l.idle)
		require.LessOrEqual(t, len(l.runners), 16+l.leavers())
	})
}
