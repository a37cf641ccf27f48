package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/rdb"
)

// serve runs a server over the target "crm" until the test ends, or stop is called.
func (b *bundle) serve(line Line, handle func(index int, place *Place) error) (server *Server, stop func()) {
	b.t.Helper()
	line.Target = "crm"
	server = b.NewServer(ServerConfig{
		Lines: []Line{line}, WebhookPlaces: 1,
		Config: asynq.Config{
			LogLevel: asynq.FatalLevel, TaskCheckInterval: 10 * time.Millisecond, ShutdownTimeout: 30 * time.Second,
			RetryDelayFunc: func(int, error, *asynq.Task) time.Duration { return 0 },
			IsFailure:      func(error) bool { return false },
		},
	})
	require.NoError(b.t, server.Start(Handlers{
		Action:  func(_ string, index int, place *Place) error { return handle(index, place) },
		Webhook: func(context.Context, *asynq.Task) error { return nil },
	}))
	var once sync.Once
	stop = func() { once.Do(server.Shutdown) }
	b.t.Cleanup(stop)
	return server, stop
}

// seen collects the indexes that a handler was given.
type seen struct {
	mu  sync.Mutex
	all []int
}

func (s *seen) add(index int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, index)
}

func (s *seen) sorted() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(slices.Values(s.all))
}

func TestTasksAreTakenManyAtATimeAndLeaveNothing(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		var got seen
		var now, most atomic.Int32
		_, stop := b.serve(Line{Places: 8}, func(index int, _ *Place) error {
			n := now.Add(1)
			defer now.Add(-1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				continue
			}
			time.Sleep(time.Millisecond)
			got.add(index)
			return nil
		})
		turns := &counted{part: "evalsha " + pollStep.Hash()}
		b.db.Client.AddHook(turns)
		b.submit(300, spec())
		b.eventually("all tasks", func() bool { return len(got.sorted()) >= 300 })
		require.Equal(t, span(0, 300), got.sorted(), "each once")
		require.LessOrEqual(t, most.Load(), int32(8), "no more than there are places")
		require.Less(t, turns.n.Load(), int32(280), "several tasks share an exchange")
		stop()
		processed := 0
		for _, queue := range b.queuesOf(crm(batch.Bulk)) {
			q, err := b.inspector().GetQueueInfo(queue)
			if err != nil && strings.Contains(err.Error(), "does not exist") {
				continue
			}
			require.NoError(t, err)
			require.Zero(t, q.Size, "asynq's books are empty")
			processed += q.Processed
		}
		require.Equal(t, 300, processed)
		for key := range b.allKeys() {
			require.NotContains(t, key, ":t:")
			require.NotContains(t, key, ":lease")
		}
	})
}

// counted counts the commands that begin with a text.
type counted struct {
	part string
	n    atomic.Int32
}

func (c *counted) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c *counted) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (c *counted) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		for _, cmd := range cmds {
			if fmt.Sprint(cmd.Args()[0], " ", cmd.Args()[1]) == c.part {
				c.n.Add(1)
			}
		}
		return next(ctx, cmds)
	}
}

func TestWhatIsNotBegunIsGivenBackInItsPlace(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		var got seen
		b.submit(20, spec())
		held := time.Hour
		changed := make(chan struct{})
		var mu sync.Mutex
		hold := func() (time.Duration, <-chan struct{}) {
			mu.Lock()
			defer mu.Unlock()
			return held, changed
		}
		handle := func(index int, _ *Place) error {
			got.add(index)
			return nil
		}
		_, stop := b.serve(Line{Places: 8, Held: hold}, handle)
		time.Sleep(50 * time.Millisecond)
		require.Empty(t, got.sorted(), "nothing is taken for a target that is held")
		require.Len(t, b.pending(batch.Interactive), 20)
		mu.Lock()
		held = 0
		close(changed)
		changed = nil
		mu.Unlock()
		b.eventually("all tasks", func() bool { return len(got.sorted()) == 20 })
		stop()

		// Some that wait for their send times when the server stops.
		b.submit(20, spec())
		stopping := make(chan struct{})
		server, stop := b.serve(Line{Places: 8, Rate: batch.Rate{N: 10, Per: time.Second}}, func(index int, place *Place) error {
			if err := errors.Join(place.Approach(b.ctx), place.Ready(b.ctx)); err != nil {
				return err
			}
			got.add(index)
			<-stopping // with its place
			return nil
		})
		b.eventually("the first", func() bool { return len(got.sorted()) > 20 })
		go func() {
			<-server.taker.quit
			close(stopping)
		}()
		stop()
		ran := len(got.sorted()) - 20
		require.Less(t, ran, 20)
		waiting := b.pending(batch.Interactive)
		require.Len(t, waiting, 20-ran)
		require.Empty(t, b.listed(batch.Interactive, b.inspector().ListActiveTasks))
		var order []int
		for _, k := range waiting {
			_, index, err := DecodeTask(k.Payload)
			require.NoError(t, err)
			order = append(order, index)
		}
		require.Equal(t, span(ran, 20), order, "in the order in which they came")
	})
}

func TestALostWordIsMadeUpFor(t *testing.T) {
	onStores(t, func(t *testing.T, b *bundle) {
		var got seen
		server, _ := b.serve(Line{Places: 8}, func(index int, _ *Place) error {
			got.add(index)
			return nil
		})
		server.taker.silent() // it hears nothing any more
		server.taker.remove()
		time.Sleep(20 * time.Millisecond)
		b.submit(3, spec())
		b.eventually("the tasks", func() bool { return len(got.sorted()) == 3 })
	}, "server", "cluster")
}

func TestATaskThatIsToComeLaterComes(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		var runs atomic.Int32
		b.serve(Line{Places: 200}, func(int, *Place) error {
			if runs.Add(1) <= 150 {
				return errors.New("later")
			}
			return nil
		})
		b.submit(150, spec())
		b.eventually("all of them a second time", func() bool { return runs.Load() == 300 })
	})
}

func TestATurnThatFailsLosesNothing(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		b.submit(4, spec())
		taker := newTaker(b.Store, ServerConfig{Lines: []Line{{Target: "crm", Places: 2}}})
		l := taker.lines[0]
		for l.inHand < 2 { // of several queues it may ask the wrong ones first
			l.turn(true)
		}
		require.Equal(t, 2, l.inHand)
		require.Len(t, taker.lines[0].out, 2)
		for range 2 {
			k := <-taker.lines[0].out
			k.lane.end(k.id)
			l.inHand--
			l.seated--
		}
		fail := &failing{}
		b.db.Client.AddHook(fail)
		fail.left = 100
		l.turn(false)
		require.Equal(t, 2, l.untold(), "what has ended is told again")
		require.Len(t, b.listed(batch.Interactive, b.inspector().ListActiveTasks), 2)
		fail.left = 0
		l.turn(false)
		require.Zero(t, l.untold())
		require.Empty(t, b.listed(batch.Interactive, b.inspector().ListActiveTasks))
		require.Len(t, b.pending(batch.Interactive), 2)
	})
}

// failing makes pipelines fail before they are sent.
type failing struct {
	mu   sync.Mutex
	left int
}

func (f *failing) DialHook(next redis.DialHook) redis.DialHook { return next }

func (f *failing) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (f *failing) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		f.mu.Lock()
		fails := f.left > 0
		if fails {
			f.left--
		}
		f.mu.Unlock()
		if !fails {
			return next(ctx, cmds)
		}
		for _, cmd := range cmds {
			cmd.SetErr(context.DeadlineExceeded)
		}
		return context.DeadlineExceeded
	}
}

func TestBothLanesGetTheirShare(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		for range 5 {
			b.submit(batch.InteractiveActions, spec())
		}
		large := spec()
		b.submit(1500, large)
		b.eventually("both", func() bool { return len(b.pending(batch.Bulk)) == 1500 })
		taker := newTaker(b.Store, ServerConfig{Lines: []Line{{Target: "crm", Places: 100}}})
		l := taker.lines[0]
		var taken [2]int
		for range 4 {
			l.turn(true)
			for len(taker.lines[0].out) > 0 {
				k := <-taker.lines[0].out
				l.inHand--
				l.seated--
				if k.lane.bulk {
					taken[1]++
				} else {
					taken[0]++
				}
			}
		}
		require.GreaterOrEqual(t, taken[0], 200, "most places go to the small batches")
		require.GreaterOrEqual(t, taken[1], 30, "the large ones do not starve")
	})
}

func TestAQueueIsSpreadOverACluster(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		cluster, ok := b.db.Client.(*redis.ClusterClient)
		if !ok {
			require.Len(t, b.queuesOf(crm(batch.Bulk)), 1)
			return
		}
		var got seen
		b.serve(Line{Places: 64}, func(index int, _ *Place) error {
			got.add(index)
			return nil
		})
		b.submit(3000, spec())
		b.eventually("all tasks", func() bool { return len(got.sorted()) >= 3000 })
		require.Equal(t, span(0, 3000), got.sorted())
		processed := map[string]int{} // by the server that keeps the queue
		for _, queue := range b.queuesOf(crm(batch.Bulk)) {
			node, err := cluster.MasterForKey(b.ctx, asynqPrefix(queue)+"pending")
			require.NoError(t, err)
			b.eventually("the books", func() bool {
				q, err := b.inspector().GetQueueInfo(queue)
				require.NoError(t, err)
				if q.Size == 0 {
					processed[node.String()] += q.Processed
				}
				return q.Size == 0
			})
		}
		require.Len(t, processed, 3, "every master has its part")
		for node, n := range processed {
			require.Greater(t, n, 300, node)
		}
	})
}

func TestATaskThatWasPutBackIsNotEnded(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.submit(1, spec()).ID
		taker := newTaker(b.Store, ServerConfig{Lines: []Line{{Target: "crm", Places: 2}}})
		l := taker.lines[0]
		for len(taker.lines[0].out) == 0 { // of several queues it may ask the wrong ones first
			l.turn(true)
		}
		k := <-taker.lines[0].out
		n, err := b.requeue(b.ctx, k.lane.name, []string{k.id}) // as of a worker that was taken for dead
		require.NoError(t, err)
		require.Equal(t, 1, n)
		k.lane.end(k.id)
		l.turn(false)
		waiting := b.pending(batch.Interactive)
		require.Len(t, waiting, 1)
		require.Equal(t, taskID(id, 0, ""), waiting[0].ID, "it is whole")
	})
}

func TestAnyNumberOfTasksCanEndAtOnce(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		const most = 10_000 // places of a target
		l := newTaker(b.Store, ServerConfig{Lines: []Line{{Target: "crm", Places: most}}}).lines[0]
		for i := range most {
			l.lanes[0].end(fmt.Sprint("task-", i))
		}
		for range most / mostEnded {
			l.turn(false)
		}
		require.Zero(t, l.untold())
	})
}

func TestAHoldThatIsCalledOffHoldsNobodyLonger(t *testing.T) {
	onStores(t, func(t *testing.T, b *bundle) {
		var got seen
		require.NoError(t, b.Hold(b.ctx, "crm", time.Hour))
		server, _ := b.serve(Line{Places: 8, Rate: batch.Rate{N: 100, Per: time.Second}}, func(index int, place *Place) error {
			if err := errors.Join(place.Approach(b.ctx), place.Ready(b.ctx)); err != nil {
				return err
			}
			got.add(index)
			return nil
		})
		b.submit(3, spec())
		pacer := server.taker.lines[0].pacer
		b.eventually("Redis says that the target is held", func() bool {
			return time.Until(pacer.notBefore()) > time.Minute
		})
		b.eventually("what was taken is given back", func() bool { return len(b.pending(batch.Interactive)) == 3 })
		require.NoError(t, b.Reset(b.ctx, "crm")) // this server hears of neither
		b.eventually("all tasks", func() bool { return len(got.sorted()) == 3 })
	}, "server")
}

func TestTasksWhoseEnqueueingWasNotAnsweredAreTaken(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		err := b.enqueue(b.ctx, "warm", crm(batch.Interactive), span(0, clusterShards*shardRun)) // the script is loaded
		require.NoError(t, err)
		taker := newTaker(b.Store, ServerConfig{Lines: []Line{{Target: "crm", Places: 8}}})
		defer b.addTaker(taker)()
		for _, q := range taker.lanes {
			q.filled = false
		}
		b.db.Client.AddHook(&lostReplies{left: 1, only: b.steps.enqueue.Hash()})
		indexes := span(0, 3*shardRun)
		err = b.enqueue(b.ctx, "some", crm(batch.Interactive), indexes)
		require.Error(t, err)
		for _, i := range indexes {
			require.True(t, taker.lanes[b.queueOf(crm(batch.Interactive), "some", i)].filled)
		}
	})
}

func TestTheLedgerDecidesAboutATaskThatLostItsMessage(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		l := newTaker(b.Store, ServerConfig{Lines: []Line{{Target: "crm", Places: 2}}}).lines[0]
		prefix := l.lanes[0].prefix
		require.NoError(t, b.db.Client.HSet(b.ctx, prefix+"t:x", "state", "pending").Err())
		require.NoError(t, b.db.Client.LPush(b.ctx, prefix+"pending", "x").Err())
		b.eventually("it is taken", func() bool {
			l.markAll()
			l.turn(true)
			return len(l.out) == 1
		})
		k := <-l.out
		k.lane.end(k.id)
		l.turn(false)
		require.Zero(t, must(b.db.Client.Exists(b.ctx, prefix+"t:x", prefix+"pending", prefix+"active", prefix+"lease").Result()))
	})
}

func TestTheLowestIsThatOfTheLastSeconds(t *testing.T) {
	t.Parallel()
	at := time.Unix(1000, 0)
	var m lowest
	require.Equal(t, time.Hour, m.of(at))
	m.add(at, 5)
	m.add(at.Add(time.Millisecond), 3)
	m.add(at.Add(2*time.Millisecond), 4)
	require.EqualValues(t, 3, m.of(at.Add(900*time.Millisecond)))
	m.add(at.Add(1100*time.Millisecond), 7)
	require.EqualValues(t, 3, m.of(at.Add(1200*time.Millisecond)))
	m.add(at.Add(2200*time.Millisecond), 8)
	require.EqualValues(t, 7, m.of(at.Add(2300*time.Millisecond)))
	require.Equal(t, time.Hour, m.of(at.Add(time.Minute)))
}

// As when another process has taught a new server some of them.
func TestAServerThatKnowsSomeScriptsRunsNoTaskBeforeItsBatchExists(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		var got seen
		var there atomic.Int32
		b.serve(Line{Places: 8}, func(index int, _ *Place) error {
			batches, _, err := b.List(b.ctx, "me", "", 100)
			if err != nil || len(batches) != int(there.Load()) {
				t.Errorf("of %d batches %d exist: %v", there.Load(), len(batches), err)
			}
			got.add(index)
			return nil
		})
		for n := range 5 {
			there.Add(1)
			require.NoError(t, b.db.Client.ScriptFlush(b.ctx).Err())
			for _, step := range []*rdb.Step{b.steps.offer, pollStep} {
				require.NoError(t, step.Load(b.ctx, b.db.Client).Err())
			}
			seen := &sent{}
			b.db.Client.AddHook(seen)
			b.submit(3, spec())
			b.eventually("the tasks", func() bool { return len(got.sorted()) == 3*(n+1) })
			if b.shards == 1 {
				commits := seen.with(b.steps.commit.Hash())
				require.Contains(t, commits[0], b.steps.offer.Hash(), "they were to be offered along with it")
			}
		}
	})
}

// As after a failover, or SCRIPT FLUSH.
func TestAServerThatKnowsNoScriptsIsTaughtThem(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		forget := func() { require.NoError(t, b.db.Client.ScriptFlush(b.ctx).Err()) }
		forget()
		id := b.submit(2, spec()).ID
		taker := newTaker(b.Store, ServerConfig{Lines: []Line{{Target: "crm", Places: 2}}})
		forget()
		for len(taker.lines[0].out) < 2 {
			taker.lines[0].markAll()
			taker.lines[0].turn(true)
		}
		forget()
		begun := b.begin(id, 0)
		forget()
		require.NoError(t, b.Finish(b.ctx, id, 0, begun.Token, result(0, batch.Succeeded)))
		b.end(id, 1, batch.Succeeded)
		require.Equal(t, batch.StatusCompleted, b.get(id).Status)
	})
}
