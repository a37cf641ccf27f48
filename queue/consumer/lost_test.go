package consumer

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/repair"
	"github.com/batchd/batchd/queue/tasks"
)

func TestTasksOfAPollWithoutReplyArePutBackSoon(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		c := newConsumer(b.consumers, ServerConfig{Targets: []Target{{Name: "crm", Slots: 4}}})
		require.NoError(t, tasks.Steps.Poll.Load(b.Ctx, b.DB.Client).Err()) // on all servers: what is sent by its text is not lost
		b.Submit(3, queuetest.Spec())
		require.Equal(t, batch.Swept{Open: 1}, b.Sweep())
		lost := &queuetest.LostReplies{Left: 1000, Only: tasks.Steps.Poll.Hash()}
		b.DB.Client.AddHook(lost)
		for len(b.Pending(batch.Interactive)) > 0 { // of several queues it may poll the wrong ones first
			c.targets[0].markAllNonEmpty()
			c.targets[0].poll(true)
		}
		lost.Mu.Lock()
		lost.Left = 0
		lost.Mu.Unlock()
		notes := func() []string {
			notes, err := b.DB.Members(b.Ctx, keys.LostKey)
			require.NoError(t, err)
			return notes
		}
		b.Eventually("the end of telling", func() bool {
			c.targets[0].mu.Lock()
			defer c.targets[0].mu.Unlock()
			return !slices.ContainsFunc(c.targets[0].queues, func(q *taskQueue) bool { return q.reporting })
		})
		require.NotEmpty(t, notes())

		paused := b.SkipConfirmDelay()
		require.Equal(t, batch.Swept{Open: 1, Lost: 3}, b.Sweep(), "at once, not when nothing has happened for a while")
		require.EqualValues(t, 1, paused.Load())
		require.Len(t, b.Pending(batch.Interactive), 3)
		require.Empty(t, notes())
		require.Equal(t, batch.Swept{Open: 1}, b.Sweep())
	})
}

// go-redis would send a pipeline once more whose connection was closed before it was answered.
func TestAPollWhoseConnectionBreaksIsNotSentTwice(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	links := queuetest.StartBreakingProxy(t, server.Addr)
	b := open(t, "redis://"+links.Addr+"/0")
	target := newConsumer(b.consumers, ServerConfig{Targets: []Target{{Name: "crm", Slots: 2}}}).targets[0]
	target.poll(true) // the script is loaded
	b.Submit(4, queuetest.Spec())
	require.Equal(t, batch.Swept{Open: 1}, b.Sweep())
	b.Background.Wait() // what follows a submission
	for _, q := range target.queues {
		q.maybeNonEmpty = !q.bulk
	}
	links.Next.Store(true)
	target.poll(true)
	require.False(t, links.Next.Load(), "nothing was broken")
	require.Empty(t, target.handed())
	require.Len(t, b.Pending(batch.Interactive), 2)
	require.Zero(t, target.slots.inHand)
	b.Eventually("the note", func() bool { return len(queuetest.Must(b.DB.Members(b.Ctx, keys.LostKey))) > 0 })
	require.Equal(t, batch.Swept{Open: 1, Lost: 2}, b.Sweep())
	require.Len(t, b.Pending(batch.Interactive), 4)
}

func TestTasksThatCannotBeGivenBackArePutBackSoon(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		b.SkipConfirmDelay()
		target := newConsumer(b.consumers, ServerConfig{Targets: []Target{{Name: "crm", Slots: 3}}}).targets[0]
		b.Submit(3, queuetest.Spec())
		for len(b.Pending(batch.Interactive)) > 0 {
			target.markAllNonEmpty()
			target.poll(true)
		}
		require.Equal(t, batch.Swept{Open: 1}, b.Sweep())
		var brought []*task
		for range 3 {
			brought = append(brought, <-target.handed())
		}
		// It is a step of its own, and repeated by its text where the digest is not known.
		refused := &queuetest.RefusedCommands{Step: tasks.Steps.Requeue.Hash()}
		b.DB.Client.AddHook(refused)
		giveBackAll(brought)
		refused.Over.Store(true)
		require.Empty(t, b.Pending(batch.Interactive))
		b.Eventually("the note", func() bool { return len(queuetest.Must(b.DB.Members(b.Ctx, keys.LostKey))) == 1 })
		require.Equal(t, batch.Swept{Open: 1, Lost: 3}, b.Sweep())
		require.Len(t, b.Pending(batch.Interactive), 3)
	})
}

// The pacer of a target with a rate can have more tasks than one exchange puts back, and Redis can be distant.
func TestEachExchangeThatGivesTasksBackHasItsOwnTimeout(t *testing.T) {
	t.Parallel()
	b := open(t, rdb.Embedded)
	require.NoError(t, tasks.Steps.Requeue.Load(b.Ctx, b.DB.Client).Err())
	const n = tasks.MostEnded + 100
	b.Submit(n, queuetest.Spec())
	b.Background.Wait() // until all actions are offered
	target := newConsumer(b.consumers, ServerConfig{Targets: []Target{{Name: "crm", Slots: n}}}).targets[0]
	var taken []*task
	for _, q := range target.queues {
		for more := q.bulk; more; {
			var ids []string
			ids, more = b.Poll(&tasks.Poll{Queue: q.name, Want: n})
			for _, id := range ids {
				taken = append(taken, &task{queue: q, id: id})
			}
		}
	}
	require.Len(t, taken, n)
	deadlines := &queuetest.Deadlines{Step: tasks.Steps.Requeue.Hash()}
	b.DB.Client.AddHook(deadlines)
	giveBackAll(taken)
	require.Len(t, deadlines.At, 2)
	require.True(t, deadlines.At[1].After(deadlines.At[0]))
	require.Zero(t, len(b.Active()))                //nolint:testifylint // a failure would list all of them
	require.Equal(t, n, len(b.Pending(batch.Bulk))) //nolint:testifylint // as above
	require.Empty(t, queuetest.Must(b.DB.Members(b.Ctx, keys.LostKey)))
}

// The restarted server has a new history. Other processes may have taken tasks that the queues contain again.
func TestAllQueuesArePolledAndReportedLostAfterRedisForgot(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	b := open(t, server.URL())
	c := newConsumer(b.consumers, ServerConfig{Targets: []Target{{Name: "crm", Slots: 1}, {Name: "erp", Slots: 1}}})
	t.Cleanup(b.consumers.add(c))
	var queues []string
	for _, q := range c.queues {
		q.maybeNonEmpty = false
		queues = append(queues, q.name)
	}
	require.NoError(t, b.DB.Client.Ping(b.Ctx).Err()) // the process knows the history
	server.Kill()
	server.Restart()
	b.Eventually("a note for each queue", func() bool {
		notes, err := b.DB.Members(b.Ctx, keys.LostKey)
		noted := make(map[string]bool)
		for _, note := range notes {
			queue, _, _ := strings.Cut(note, " ")
			noted[queue] = true
		}
		return err == nil && !slices.ContainsFunc(queues, func(queue string) bool { return !noted[queue] })
	})
	b.Eventually("all queues may have tasks", func() bool {
		for _, t := range c.targets {
			t.mu.Lock()
			empty := slices.ContainsFunc(t.queues, func(q *taskQueue) bool { return !q.maybeNonEmpty })
			t.mu.Unlock()
			if empty {
				return false
			}
		}
		return true
	})
}

// As when the next poll fails before the loss of the one before was reported.
func TestALossDuringTheReportOfAnotherIsReportedToo(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		q := newConsumer(b.consumers, ServerConfig{Targets: []Target{{Name: "crm", Slots: 4}}}).targets[0].queues[0]
		q.reporting = true // a goroutine is about to
		q.target.mu.Lock()
		q.reportLost()
		q.target.mu.Unlock()
		require.True(t, q.takeLost())
		require.True(t, q.reporting, "the goroutine goes on")
		require.False(t, q.takeLost())
		require.False(t, q.reporting)
	})
}

// A live worker has taken tasks, and Redis refuses its begins. It keeps them, although
// tasks of the queue are reported lost, or another worker has died.
func TestTasksThatALiveWorkerHasInHandAreLeftAlone(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		var exchanges queuetest.Exchanges
		b.DB.Client.AddHook(&exchanges)
		refused := make(chan struct{})
		b.serve(Target{Slots: 4}, func(int, *Slot) error {
			<-refused
			return nil
		})
		t.Cleanup(func() { close(refused) })
		b.Submit(3, queuetest.Spec())
		taken := func() (n int) {
			return len(b.Listed(batch.Interactive, b.Inspector().ListActiveTasks))
		}
		b.Eventually("the worker takes them", func() bool { return taken() == 3 })
		b.Eventually("it hears questions", func() bool {
			n, err := b.DB.Client.PubSubNumSub(b.Ctx, keys.TasksChannel).Result()
			require.NoError(t, err)
			return n[keys.TasksChannel] > 0 || b.DB.Cluster != nil
		})
		asked := 0
		b.Sweeper.Timing.Sleep = func(ctx context.Context, d time.Duration) error { // until the worker has answered
			asked++
			b.Eventually("the answer", func() bool {
				for key := range b.AllKeys() {
					if strings.HasPrefix(key, tasks.InHandKey("")) {
						all, err := b.DB.Members(ctx, key)
						return err == nil && len(all) == 3 && d == repair.ConfirmDelay
					}
				}
				return false
			})
			return nil
		}
		for n := range 2 {
			for key := range b.AllKeys() { // the answer to the question before
				if strings.HasPrefix(key, tasks.InHandKey("")) {
					require.NoError(t, b.DB.Client.Del(b.Ctx, key).Err())
				}
			}
			found, err := b.Sweeper.Recovery.Recover(b.Ctx, "w1", []string{"dead"})
			require.NoError(t, err)
			require.Zero(t, found)
			require.Equal(t, n+1, asked)
		}
		require.Equal(t, 3, taken())
		require.Empty(t, b.Pending(batch.Interactive))
		b.Eventually("the replies to both answers", func() bool { return len(exchanges.With(tasks.Steps.InHand.Hash())) >= 2 })
		for key := range b.AllKeys() {
			if strings.HasPrefix(key, tasks.InHandKey("")) {
				require.Positive(t, b.DB.Client.PTTL(b.Ctx, key).Val())
			}
		}
	})
}
