package queue

import (
	"context"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
)

func TestWhatADeadWorkerTookAndNeverBeganIsPutBack(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		b.pauses()
		id := b.submit(4, spec()).ID
		b.create()
		queue := b.queueOf(crm(batch.Interactive), id, 0)
		// All four are taken, as a worker takes them. Two of them were begun by one that is alive.
		prefix := asynqPrefix(queue)
		for i := range 4 {
			task, err := b.db.Client.RPopLPush(b.ctx, prefix+"pending", prefix+"active").Result()
			require.NoError(t, err)
			require.Equal(t, taskID(id, i, ""), task)
			require.NoError(t, b.db.Client.HSet(b.ctx, prefix+"t:"+task, "state", "active").Err())
		}
		b.begin(id, 0)
		b.begin(id, 2)
		found, err := b.Recover(b.ctx, "w1", []string{"dead"})
		require.NoError(t, err)
		require.Equal(t, 2, found)
		found, err = b.Recover(b.ctx, "w1", []string{"dead"})
		require.NoError(t, err)
		require.Zero(t, found)
		for state, list := range map[string]func(string, ...asynq.ListOption) ([]*asynq.TaskInfo, error){
			"pending": b.inspector().ListPendingTasks, "active": b.inspector().ListActiveTasks,
		} {
			tasks, err := list(queue)
			require.NoError(t, err)
			var got []int
			for _, task := range tasks {
				_, index, err := DecodeTask(task.Payload)
				require.NoError(t, err)
				require.Equal(t, state, task.State.String())
				got = append(got, index)
			}
			require.ElementsMatch(t, map[string][]int{"pending": {1, 3}, "active": {0, 2}}[state], got, state)
		}
	})
}

// A worker dies, and so does the one that its action was brought to, before it
// decided about it.
func TestAnActionWhoseRescuerDiedIsBroughtToAnother(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		b.pauses()
		id := b.submit(1, spec()).ID
		b.create()
		queue := b.queueOf(crm(batch.Interactive), id, 0)
		prefix := asynqPrefix(queue)
		take := func() string {
			task, err := b.db.Client.RPopLPush(b.ctx, prefix+"pending", prefix+"active").Result()
			require.NoError(t, err)
			require.NoError(t, b.db.Client.HSet(b.ctx, prefix+"t:"+task, "state", "active").Err())
			return task
		}
		require.Equal(t, taskID(id, 0, ""), take())
		begun, err := b.Begin(b.ctx, id, 0, "dead")
		require.NoError(t, err)
		found, err := b.Recover(b.ctx, "w1", []string{"dead"})
		require.NoError(t, err)
		require.Equal(t, 1, found)
		rescue := taskID(id, 0, string(begun.Token))
		require.Equal(t, rescue, take())
		found, err = b.Recover(b.ctx, "w1", []string{"rescuer"})
		require.NoError(t, err)
		require.Equal(t, 1, found)
		require.Equal(t, rescue, take())
		// Once it is decided, a task that is still held brings nothing.
		_, err = b.Release(b.ctx, id, 0, begun.Token, new(batch.Result))
		require.NoError(t, err)
		again, err := b.Begin(b.ctx, id, 0, "third")
		require.NoError(t, err)
		require.Equal(t, batch.Run, again.Verdict)
		found, err = b.Recover(b.ctx, "w1", []string{"rescuer"})
		require.NoError(t, err)
		require.Zero(t, found)
	})
}

func TestWhatATurnTookThatWasNotAnsweredIsPutBackSoon(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		taker := newTaker(b.Store, ServerConfig{Lines: []Line{{Target: "crm", Places: 4}}})
		require.NoError(t, pollStep.Load(b.ctx, b.db.Client).Err()) // on all servers: what is sent by its text is not lost
		b.submit(3, spec())
		require.Equal(t, batch.Swept{Open: 1}, b.sweep())
		lost := &lostReplies{left: 1000, only: pollStep.Hash()}
		b.db.Client.AddHook(lost)
		for len(b.pending(batch.Interactive)) > 0 { // of several queues it may ask the wrong ones first
			taker.lines[0].markAll()
			taker.lines[0].turn(true)
		}
		lost.mu.Lock()
		lost.left = 0
		lost.mu.Unlock()
		notes := func() []string {
			notes, err := b.db.Members(b.ctx, lostKey)
			require.NoError(t, err)
			return notes
		}
		b.eventually("the end of telling", func() bool {
			taker.lines[0].mu.Lock()
			defer taker.lines[0].mu.Unlock()
			return !slices.ContainsFunc(taker.lines[0].lanes, func(q *lane) bool { return q.telling })
		})
		require.NotEmpty(t, notes())

		paused := b.pauses()
		require.Equal(t, batch.Swept{Open: 1, Lost: 3}, b.sweep(), "at once, not when nothing has happened for a while")
		require.EqualValues(t, 1, paused.Load())
		require.Len(t, b.pending(batch.Interactive), 3)
		require.Empty(t, notes())
		require.Equal(t, batch.Swept{Open: 1}, b.sweep())
	})
}

// go-redis would send a pipeline once more whose connection was closed before it was answered.
func TestATurnWhoseConnectionBreaksIsNotSentTwice(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	links := newBreaking(t, server.Addr)
	b := open(t, "redis://"+links.addr+"/0")
	l := newTaker(b.Store, ServerConfig{Lines: []Line{{Target: "crm", Places: 2}}}).lines[0]
	l.turn(true) // the script is loaded
	b.submit(4, spec())
	require.Equal(t, batch.Swept{Open: 1}, b.sweep())
	b.background.Wait() // what follows a submission
	for _, q := range l.lanes {
		q.filled = !q.bulk
	}
	links.next.Store(true)
	l.turn(true)
	require.False(t, links.next.Load(), "nothing was broken")
	require.Empty(t, l.out)
	require.Len(t, b.pending(batch.Interactive), 2)
	require.Zero(t, l.inHand)
	b.eventually("the note", func() bool { return len(must(b.db.Members(b.ctx, lostKey))) > 0 })
	require.Equal(t, batch.Swept{Open: 1, Lost: 2}, b.sweep())
	require.Len(t, b.pending(batch.Interactive), 4)
}

// breaking passes connections on, and closes one instead of bringing its next answer.
type breaking struct {
	addr string
	next atomic.Bool
}

func newBreaking(t *testing.T, to string) *breaking {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	b := &breaking{addr: l.Addr().String()}
	go func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				_ = from.Close()
				continue
			}
			go func() {
				_, _ = io.Copy(server, from)
				_ = server.Close()
			}()
			go func() {
				defer from.Close()
				defer server.Close()
				answer := make([]byte, 64<<10)
				for {
					n, err := server.Read(answer)
					if err != nil || b.next.CompareAndSwap(true, false) {
						return
					}
					if _, err := from.Write(answer[:n]); err != nil {
						return
					}
				}
			}()
		}
	}()
	return b
}

func TestWhatCannotBeGivenBackIsPutBackSoon(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		b.pauses()
		l := newTaker(b.Store, ServerConfig{Lines: []Line{{Target: "crm", Places: 3}}}).lines[0]
		b.submit(3, spec())
		for len(b.pending(batch.Interactive)) > 0 {
			l.markAll()
			l.turn(true)
		}
		require.Equal(t, batch.Swept{Open: 1}, b.sweep())
		var tasks []*task
		for range 3 {
			tasks = append(tasks, <-l.out)
		}
		// It is a step of its own, and repeated by its text where the digest is not known.
		refused := &refusing{step: b.steps.requeue.Hash()}
		b.db.Client.AddHook(refused)
		giveBackAll(tasks)
		refused.over.Store(true)
		require.Empty(t, b.pending(batch.Interactive))
		b.eventually("the note", func() bool { return len(must(b.db.Members(b.ctx, lostKey))) == 1 })
		require.Equal(t, batch.Swept{Open: 1, Lost: 3}, b.sweep())
		require.Len(t, b.pending(batch.Interactive), 3)
	})
}

// refusing is a hook that refuses a step before it is sent.
type refusing struct {
	step string
	over atomic.Bool
}

func (r *refusing) DialHook(next redis.DialHook) redis.DialHook { return next }

func (r *refusing) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (r *refusing) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if !r.over.Load() && strings.Contains(cmd.String(), r.step) {
			cmd.SetErr(net.ErrClosed)
			return net.ErrClosed
		}
		return next(ctx, cmd)
	}
}

func TestANoteThatComesWhileTasksArePutBackStays(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		queue := b.queuesOf(crm(batch.Interactive))[0]
		require.NoError(t, b.noteLost(b.ctx, queue))
		seen, err := b.db.Members(b.ctx, lostKey)
		require.NoError(t, err)
		require.NoError(t, b.noteLost(b.ctx, queue))
		require.NoError(t, b.forgetLost(b.ctx, seen))
		left, err := b.db.Members(b.ctx, lostKey)
		require.NoError(t, err)
		require.Len(t, left, 1)
	})
}

// As when the next turn fails before the sweeper was told of the one before.
func TestATurnThatIsMissedWhileAnotherIsToldIsToldToo(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		q := newTaker(b.Store, ServerConfig{Lines: []Line{{Target: "crm", Places: 4}}}).lines[0].lanes[0]
		q.telling = true // somebody is about to
		q.mu.Lock()
		q.missed()
		q.mu.Unlock()
		require.True(t, q.toBeTold())
		require.True(t, q.telling, "and he goes on")
		require.False(t, q.toBeTold())
		require.False(t, q.telling)
	})
}

// A worker that is alive has taken tasks, and Redis refuses its begins. It keeps them, though
// the sweeper is told that tasks of the queue are lost, or that another worker has died.
func TestTasksThatALiveWorkerHasInHandAreLeftAlone(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		refused := make(chan struct{})
		b.serve(Line{Places: 4}, func(int, *Place) error {
			<-refused
			return nil
		})
		t.Cleanup(func() { close(refused) })
		b.submit(3, spec())
		taken := func() (n int) {
			return len(b.listed(batch.Interactive, b.inspector().ListActiveTasks))
		}
		b.eventually("the worker takes them", func() bool { return taken() == 3 })
		b.eventually("it hears questions", func() bool {
			n, err := b.db.Client.PubSubNumSub(b.ctx, tasksChannel).Result()
			require.NoError(t, err)
			return n[tasksChannel] > 0 || b.shards > 1
		})
		asked := 0
		b.pause = func(ctx context.Context, d time.Duration) error { // until the worker has answered
			asked++
			b.eventually("the answer", func() bool {
				for key := range b.allKeys() {
					if strings.HasPrefix(key, inHandKey("")) {
						all, err := b.db.Members(ctx, key)
						return err == nil && len(all) == 3 && d == orphanPause
					}
				}
				return false
			})
			return nil
		}
		for n := range 2 {
			for key := range b.allKeys() { // the answer to the question before
				if strings.HasPrefix(key, inHandKey("")) {
					require.NoError(t, b.db.Client.Del(b.ctx, key).Err())
				}
			}
			found, err := b.adopt(b.ctx, b.queuesOf(crm(batch.Interactive)))
			require.NoError(t, err)
			require.Zero(t, found)
			require.Equal(t, n+1, asked)
		}
		require.Equal(t, 3, taken())
		require.Empty(t, b.pending(batch.Interactive))
	})
}
