package consumer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
	"github.com/batchd/batchd/queue/upload"
)

// serve runs a server over the target "crm" until the test ends, or stop is called.
func (b *bundle) serve(target Target, handle func(index int, slot *Slot) error) (server *Server, stop func()) {
	b.T.Helper()
	target.Name = "crm"
	server = b.consumers.NewServer(ServerConfig{
		Targets: []Target{target}, WebhookSlots: 1,
		Config: asynq.Config{
			LogLevel: asynq.FatalLevel, TaskCheckInterval: 10 * time.Millisecond, ShutdownTimeout: 30 * time.Second,
			RetryDelayFunc: func(int, error, *asynq.Task) time.Duration { return 0 },
			IsFailure:      func(error) bool { return false },
		},
	})
	require.NoError(b.T, server.Start(Handlers{
		Action:  func(_ string, index int, slot *Slot) error { return handle(index, slot) },
		Webhook: func(context.Context, *asynq.Task) error { return nil },
	}))
	var once sync.Once
	stop = func() { once.Do(server.Shutdown) }
	b.T.Cleanup(stop)
	return server, stop
}

func TestTasksAreTakenManyAtATimeAndLeaveNothing(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		var got queuetest.Indexes
		var now, most atomic.Int32
		_, stop := b.serve(Target{Slots: 8}, func(index int, _ *Slot) error {
			n := now.Add(1)
			defer now.Add(-1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				continue
			}
			time.Sleep(time.Millisecond)
			got.Add(index)
			return nil
		})
		polls := &queuetest.CommandCounter{Part: "evalsha " + tasks.Steps.Poll.Hash()}
		b.DB.Client.AddHook(polls)
		b.Submit(300, queuetest.Spec())
		b.Eventually("all tasks", func() bool { return len(got.Sorted()) >= 300 })
		require.Equal(t, queuetest.Span(0, 300), got.Sorted(), "each once")
		require.LessOrEqual(t, most.Load(), int32(8), "no more than there are slots")
		require.Less(t, polls.N.Load(), int32(280), "several tasks share an exchange")
		stop()
		processed := 0
		for _, queue := range b.Tasks.QueuesOf(queuetest.Crm(batch.Bulk)) {
			q, err := b.Inspector().GetQueueInfo(queue)
			if err != nil && strings.Contains(err.Error(), "does not exist") {
				continue
			}
			require.NoError(t, err)
			require.Zero(t, q.Size, "asynq's records are empty")
			processed += q.Processed
		}
		require.Equal(t, 300, processed)
		for key := range b.AllKeys() {
			require.NotContains(t, key, ":t:")
			require.NotContains(t, key, ":lease")
		}
	})
}

func TestTasksThatWereNotBegunAreGivenBackInOrder(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		var got queuetest.Indexes
		b.Submit(20, queuetest.Spec())
		held := time.Hour
		changed := make(chan struct{})
		var mu sync.Mutex
		hold := func() (time.Duration, <-chan struct{}) {
			mu.Lock()
			defer mu.Unlock()
			return held, changed
		}
		handle := func(index int, _ *Slot) error {
			got.Add(index)
			return nil
		}
		_, stop := b.serve(Target{Slots: 8, Held: hold}, handle)
		time.Sleep(50 * time.Millisecond)
		require.Empty(t, got.Sorted(), "nothing is taken for a target that is held")
		require.Len(t, b.Pending(batch.Interactive), 20)
		mu.Lock()
		held = 0
		close(changed)
		changed = nil
		mu.Unlock()
		b.Eventually("all tasks", func() bool { return len(got.Sorted()) == 20 })
		stop()

		// Some that wait for their send times when the server stops.
		b.Submit(20, queuetest.Spec())
		stopping := make(chan struct{})
		server, stop := b.serve(Target{Slots: 8, Rate: batch.Rate{N: 10, Per: time.Minute}}, func(index int, slot *Slot) error {
			if err := errors.Join(slot.Approach(b.Ctx), slot.Ready(b.Ctx)); err != nil {
				return err
			}
			got.Add(index)
			<-stopping // in its slot
			return nil
		})
		b.Eventually("the first", func() bool { return len(got.Sorted()) > 20 })
		go func() {
			<-server.consumer.quit
			close(stopping)
		}()
		stop()
		ran := len(got.Sorted()) - 20
		require.Less(t, ran, 20)
		waiting := b.Pending(batch.Interactive)
		require.Len(t, waiting, 20-ran)
		require.Empty(t, b.Listed(batch.Interactive, b.Inspector().ListActiveTasks))
		var order []int
		for _, k := range waiting {
			_, index, err := tasks.DecodeTask(k.Payload)
			require.NoError(t, err)
			order = append(order, index)
		}
		require.Equal(t, queuetest.Span(ran, 20), order, "in the order in which they came")
	})
}

func TestTasksAreFoundWithoutAWakeup(t *testing.T) {
	onStores(t, func(t *testing.T, b *bundle) {
		var got queuetest.Indexes
		server, _ := b.serve(Target{Slots: 8}, func(index int, _ *Slot) error {
			got.Add(index)
			return nil
		})
		server.consumer.unlisten() // it receives no wakeups any more
		server.consumer.remove()
		time.Sleep(20 * time.Millisecond)
		b.Submit(3, queuetest.Spec())
		b.Eventually("the tasks", func() bool { return len(got.Sorted()) == 3 })
	}, "server", "cluster")
}

func TestFailedTasksComeAgain(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		var runs atomic.Int32
		b.serve(Target{Slots: 200}, func(int, *Slot) error {
			if runs.Add(1) <= 150 {
				return errors.New("later")
			}
			return nil
		})
		b.Submit(150, queuetest.Spec())
		b.Eventually("all of them a second time", func() bool { return runs.Load() == 300 })
	})
}

func TestAPollThatFailsLosesNothing(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		b.Submit(4, queuetest.Spec())
		c := newConsumer(b.consumers, ServerConfig{Targets: []Target{{Name: "crm", Slots: 2}}})
		target := c.targets[0]
		for target.slots.inHand < 2 { // of several queues it may poll the wrong ones first
			target.poll(true)
		}
		require.Equal(t, 2, target.slots.inHand)
		require.Len(t, c.targets[0].handed(), 2)
		for range 2 {
			k := <-c.targets[0].handed()
			k.queue.end(k.id)
			target.slots.inHand--
			target.slots.running--
		}
		fail := &queuetest.FailedPipelines{}
		b.DB.Client.AddHook(fail)
		fail.Left = 100
		target.poll(false)
		require.Equal(t, 2, target.unreported(), "its end is reported again")
		require.Len(t, b.Listed(batch.Interactive, b.Inspector().ListActiveTasks), 2)
		fail.Left = 0
		target.poll(false)
		require.Zero(t, target.unreported())
		require.Empty(t, b.Listed(batch.Interactive, b.Inspector().ListActiveTasks))
		require.Len(t, b.Pending(batch.Interactive), 2)
	})
}

func TestBothLanesGetTheirShare(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		for range 5 {
			b.Submit(batch.InteractiveActions, queuetest.Spec())
		}
		large := queuetest.Spec()
		b.Submit(1500, large)
		b.Eventually("both", func() bool { return len(b.Pending(batch.Bulk)) == 1500 })
		c := newConsumer(b.consumers, ServerConfig{Targets: []Target{{Name: "crm", Slots: 100}}})
		target := c.targets[0]
		var taken [2]int
		for range 4 {
			target.poll(true)
			for len(c.targets[0].handed()) > 0 {
				k := <-c.targets[0].handed()
				target.slots.inHand--
				target.slots.running--
				if k.queue.bulk {
					taken[1]++
				} else {
					taken[0]++
				}
			}
		}
		require.GreaterOrEqual(t, taken[0], 200, "most slots go to the small batches")
		require.GreaterOrEqual(t, taken[1], 30, "the large ones do not starve")
	})
}

func TestAQueueIsSpreadOverACluster(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		cluster, ok := b.DB.Client.(*redis.ClusterClient)
		if !ok {
			require.Len(t, b.Tasks.QueuesOf(queuetest.Crm(batch.Bulk)), 1)
			return
		}
		var got queuetest.Indexes
		b.serve(Target{Slots: 64}, func(index int, _ *Slot) error {
			got.Add(index)
			return nil
		})
		b.Submit(3000, queuetest.Spec())
		b.Eventually("all tasks", func() bool { return len(got.Sorted()) >= 3000 })
		require.Equal(t, queuetest.Span(0, 3000), got.Sorted())
		processed := map[string]int{} // by the server that keeps the queue
		for _, queue := range b.Tasks.QueuesOf(queuetest.Crm(batch.Bulk)) {
			node, err := cluster.MasterForKey(b.Ctx, tasks.AsynqPrefix(queue)+"pending")
			require.NoError(t, err)
			b.Eventually("the records", func() bool {
				q, err := b.Inspector().GetQueueInfo(queue)
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
		id := b.Submit(1, queuetest.Spec()).ID
		c := newConsumer(b.consumers, ServerConfig{Targets: []Target{{Name: "crm", Slots: 2}}})
		target := c.targets[0]
		for len(c.targets[0].handed()) == 0 { // of several queues it may poll the wrong ones first
			target.poll(true)
		}
		k := <-c.targets[0].handed()
		n, err := b.Tasks.Requeue(b.Ctx, k.queue.name, []string{k.id}) // as of a worker that was taken for dead
		require.NoError(t, err)
		require.Equal(t, 1, n)
		k.queue.end(k.id)
		target.poll(false)
		waiting := b.Pending(batch.Interactive)
		require.Len(t, waiting, 1)
		require.Equal(t, tasks.TaskID(id, 0, ""), waiting[0].ID, "it is whole")
	})
}

func TestAnyNumberOfTasksCanEndAtOnce(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		const most = 10_000 // slots of a target
		target := newConsumer(b.consumers, ServerConfig{Targets: []Target{{Name: "crm", Slots: most}}}).targets[0]
		for i := range most {
			target.queues[0].end(fmt.Sprint("task-", i))
		}
		for range most / tasks.MostEnded {
			target.poll(false)
		}
		require.Zero(t, target.unreported())
	})
}

func TestAHoldThatIsResetDelaysNoTaskLonger(t *testing.T) {
	onStores(t, func(t *testing.T, b *bundle) {
		var got queuetest.Indexes
		require.NoError(t, b.Gate.Hold(b.Ctx, "crm", time.Hour))
		server, _ := b.serve(Target{Slots: 8, Rate: batch.Rate{N: 100, Per: time.Second}}, func(index int, slot *Slot) error {
			if err := errors.Join(slot.Approach(b.Ctx), slot.Ready(b.Ctx)); err != nil {
				return err
			}
			got.Add(index)
			return nil
		})
		b.Submit(3, queuetest.Spec())
		pacer := server.consumer.targets[0].pacer
		b.Eventually("Redis says that the target is held", func() bool {
			return time.Until(pacer.NotBefore()) > time.Minute
		})
		b.Eventually("the tasks are given back", func() bool { return len(b.Pending(batch.Interactive)) == 3 })
		require.NoError(t, b.Gate.Reset(b.Ctx, "crm")) // this server receives neither message
		b.Eventually("all tasks", func() bool { return len(got.Sorted()) == 3 })
	}, "server")
}

func TestTasksWhoseEnqueueingHadNoReplyAreTaken(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		err := b.Enqueue(b.Ctx, "warm", queuetest.Crm(batch.Interactive), queuetest.Span(0, tasks.ClusterShards*tasks.ShardRun)) // the script is loaded
		require.NoError(t, err)
		c := newConsumer(b.consumers, ServerConfig{Targets: []Target{{Name: "crm", Slots: 8}}})
		defer b.consumers.add(c)()
		for _, q := range c.queues {
			q.maybeNonEmpty = false
		}
		b.DB.Client.AddHook(&queuetest.LostReplies{Left: 1, Only: tasks.Steps.Enqueue.Hash()})
		indexes := queuetest.Span(0, 3*tasks.ShardRun)
		err = b.Enqueue(b.Ctx, "some", queuetest.Crm(batch.Interactive), indexes)
		require.Error(t, err)
		for _, i := range indexes {
			require.True(t, c.queues[b.Tasks.QueueOf(queuetest.Crm(batch.Interactive), "some", i)].maybeNonEmpty)
		}
	})
}

func TestTheLedgerDecidesAboutATaskThatLostItsMessage(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		target := newConsumer(b.consumers, ServerConfig{Targets: []Target{{Name: "crm", Slots: 2}}}).targets[0]
		prefix := target.queues[0].prefix
		require.NoError(t, b.DB.Client.HSet(b.Ctx, prefix+"t:x", "state", "pending").Err())
		require.NoError(t, b.DB.Client.LPush(b.Ctx, prefix+"pending", "x").Err())
		b.Eventually("it is taken", func() bool {
			target.markAllNonEmpty()
			target.poll(true)
			return len(target.handed()) == 1
		})
		k := <-target.handed()
		k.queue.end(k.id)
		target.poll(false)
		require.Zero(t, queuetest.Must(b.DB.Client.Exists(b.Ctx, prefix+"t:x", prefix+"pending", prefix+"active", prefix+"lease").Result()))
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

// As when another process has loaded some of them into a new Redis server.
func TestAServerThatKnowsSomeScriptsRunsNoTaskBeforeItsBatchExists(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		var got queuetest.Indexes
		var there atomic.Int32
		b.serve(Target{Slots: 8}, func(index int, _ *Slot) error {
			batches, _, err := b.List(b.Ctx, batch.OwnedBy("me"), "", 100)
			if err != nil || len(batches) != int(there.Load()) {
				t.Errorf("of %d batches %d exist: %v", there.Load(), len(batches), err)
			}
			got.Add(index)
			return nil
		})
		for n := range 5 {
			there.Add(1)
			require.NoError(t, b.DB.Client.ScriptFlush(b.Ctx).Err())
			for _, step := range []*rdb.Step{tasks.Steps.Offer, tasks.Steps.Poll} {
				require.NoError(t, step.Load(b.Ctx, b.DB.Client).Err())
			}
			seen := &queuetest.Exchanges{}
			b.DB.Client.AddHook(seen)
			b.Submit(3, queuetest.Spec())
			b.Eventually("the tasks", func() bool { return len(got.Sorted()) == 3*(n+1) })
			if b.DB.Cluster == nil {
				commits := seen.With(upload.Steps.Commit.Hash())
				require.Contains(t, commits[0], tasks.Steps.Offer.Hash(), "they were offered in the same exchange")
			}
		}
	})
}

// As after a failover, or SCRIPT FLUSH.
func TestScriptsAreLoadedIntoAServerThatKnowsNone(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		forget := func() { require.NoError(t, b.DB.Client.ScriptFlush(b.Ctx).Err()) }
		forget()
		id := b.Submit(2, queuetest.Spec()).ID
		c := newConsumer(b.consumers, ServerConfig{Targets: []Target{{Name: "crm", Slots: 2}}})
		forget()
		for len(c.targets[0].handed()) < 2 {
			c.targets[0].markAllNonEmpty()
			c.targets[0].poll(true)
		}
		forget()
		begun := b.Begin(id, 0)
		forget()
		require.NoError(t, b.Ledger.Finish(b.Ctx, id, 0, begun.Token, queuetest.Result(0, batch.Succeeded)))
		b.End(id, 1, batch.Succeeded)
		require.Equal(t, batch.StatusCompleted, b.Read(id).Status)
	})
}
