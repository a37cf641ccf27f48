package queue

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue/rdb"
)

// openCluster returns a store on a cluster of three masters that serves what it can while
// one of them does not, and that master: it has none of the keys that are everybody's.
func openCluster(t *testing.T) (*bundle, *redistest.Server) {
	t.Helper()
	cluster := redistest.NewCluster(t, false, "--cluster-node-timeout", "60000", "--cluster-require-full-coverage", "no")
	b := openWithDefaultTimeout(t, cluster.URL()) // with the node that does not answer
	taken := make(map[string]bool)
	for _, key := range []string{openKey, lostKey, workersKey, sweeperKey, asynqQueues} {
		taken[b.db.NodeOf(b.ctx, key).Options().Addr] = true
	}
	for _, s := range cluster.Nodes {
		if !taken[s.Addr] {
			return b, s
		}
	}
	require.FailNow(t, "every node has some of them")
	return nil, nil
}

func (b *bundle) keyOn(addr, kind string) string {
	b.t.Helper()
	for i := range 10_000 {
		if key := fmt.Sprintf("%s%d", kind, i); b.db.NodeOf(b.ctx, key).Options().Addr == addr {
			return key
		}
	}
	require.FailNow(b.t, "no key is on "+addr)
	return ""
}

// troubledNode are ways in which a node of a cluster does not answer.
var troubledNode = map[string]func(s *redistest.Server){
	"frozen": (*redistest.Server).Freeze,
	"killed": (*redistest.Server).Kill,
}

func TestANodeThatDoesNotAnswerCostsNoReplyOfAnother(t *testing.T) {
	t.Parallel()
	for name, trouble := range troubledNode {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, node := openCluster(t)
			var alive, dead []string
			for _, m := range b.masters() {
				if key := b.keyOn(m, "key"); m == node.Addr {
					dead = append(dead, key)
				} else {
					alive = append(alive, key)
				}
			}
			trouble(node)
			ctx, cancel := b.db.WithTimeout(b.ctx)
			defer cancel()
			pipe := b.db.Client.Pipeline()
			var counts []*redis.IntCmd
			for _, key := range alive {
				counts = append(counts, pipe.Incr(ctx, key))
			}
			failed := pipe.Incr(ctx, dead[0])
			b.db.Send(ctx, pipe)
			var away *batch.UnavailableError
			require.ErrorAs(t, rdb.MapError(ctx, failed.Err()), &away)
			for _, count := range counts {
				require.NoError(t, count.Err())
				require.EqualValues(t, 1, count.Val(), "it is sent once")
			}
		})
	}
}

// masters returns the addresses of the masters.
func (b *bundle) masters() []string {
	b.t.Helper()
	var addrs []string
	found := make(chan string, 100)
	require.NoError(b.t, b.db.Client.(*redis.ClusterClient).ForEachMaster(b.ctx, func(_ context.Context, c *redis.Client) error {
		found <- c.Options().Addr
		return nil
	}))
	close(found)
	for addr := range found {
		addrs = append(addrs, addr)
	}
	return addrs
}

func TestANodeThatDoesNotAnswerCostsNoSlots(t *testing.T) {
	t.Parallel()
	for name, trouble := range troubledNode {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, node := openCluster(t)
			require.NoError(t, b.db.Client.ZAdd(b.ctx, openKey, redis.Z{Member: "open"}).Err()) // so that the queues are polled
			var got seen
			release := make(chan struct{})
			server, _ := b.serve(Line{Places: 8}, func(index int, _ *Place) error {
				got.add(index)
				if index >= 1000 {
					<-release
				}
				return nil
			})
			l := server.taker.lines[0]
			var tasks []newTask
			for _, queue := range b.queuesOf(crm(batch.Interactive)) {
				if b.db.NodeOf(b.ctx, asynqPrefix(queue)+"pending").Options().Addr == node.Addr {
					continue
				}
				for range 20 {
					i := len(tasks)
					tasks = append(tasks, newTask{queue: queue, kind: TaskAction, id: taskID("test", i, ""), payload: EncodeTask("test", i)})
				}
			}
			b.eventually("a task of each", func() bool {
				err := b.enqueueTasks(b.ctx, tasks[:1])
				return err == nil
			})
			trouble(node)
			l.markAll() // a poll of all queues is under way
			err := b.enqueueTasks(b.ctx, tasks)
			require.NoError(t, err)
			began := time.Now()
			b.eventually("every task of the other nodes", func() bool { return len(got.sorted()) >= len(tasks) })
			t.Logf("%d tasks after %s", len(tasks), time.Since(began))
			b.eventually("their ends", func() bool {
				l.mu.Lock()
				defer l.mu.Unlock()
				return l.seated == 0
			})

			var blocking []newTask
			for i := range 8 {
				blocking = append(blocking, newTask{queue: tasks[0].queue, kind: TaskAction, id: taskID("test", 1000+i, ""), payload: EncodeTask("test", 1000+i)})
			}
			err = b.enqueueTasks(b.ctx, blocking)
			require.NoError(t, err)
			b.eventually("all slots", func() bool {
				l.mu.Lock()
				defer l.mu.Unlock()
				return l.seated == 8
			})
			close(release)
			if name == "frozen" {
				node.Thaw()
			}
			b.eventually("nothing in hand", func() bool {
				l.mu.Lock()
				defer l.mu.Unlock()
				return l.seated == 0 && l.inHand <= 8
			})
		})
	}
}

// The connection breaks behind the first of two replies.
func TestAReplyThatArrivedIsUsedThoughTheNextDoesNot(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		require.ErrorIs(t, b.db.Client.Get(b.ctx, "{key}first").Err(), redis.Nil) // a connection is open
		cut := &cutReplies{}
		b.db.Client.AddHook(cut)
		pipe := b.db.Client.Pipeline()
		first, second := pipe.Incr(b.ctx, "{key}first"), pipe.Incr(b.ctx, "{key}second")
		cut.on = true
		b.db.Send(b.ctx, pipe)
		require.NoError(t, first.Err())
		require.EqualValues(t, 1, first.Val())
		require.ErrorIs(t, second.Err(), errCut)
	})
}

var errCut = errors.New("the connection was cut")

// cutReplies loses all replies of a pipeline but the first, and marks them as go-redis does.
type cutReplies struct{ on bool }

func (c *cutReplies) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c *cutReplies) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (c *cutReplies) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if !c.on || len(cmds) < 2 {
			return next(ctx, cmds)
		}
		_ = next(ctx, cmds[:1])
		for _, cmd := range cmds {
			cmd.SetErr(errCut)
		}
		return errCut
	}
}

// A batch on a node that is away keeps no other batch from what its owner's limit, or the check of
// holders, finds.
func TestANodeThatIsAwayCostsNoLookAtTheBatchesOfOthers(t *testing.T) {
	t.Parallel()
	b, node := openCluster(t)
	var alive, dead string
	for alive == "" || dead == "" {
		id := b.submit(1, spec()).ID
		b.begin(id, 0)
		e := parseEntry(b.entryOf(id, 0))
		e.started = e.started.Add(-time.Minute) // so old that its holder is asked for it
		require.NoError(t, b.db.Client.HSet(b.ctx, keysOf(id).ledger, "0", e.String()).Err())
		if b.db.NodeOf(b.ctx, keysOf(id).meta).Options().Addr == node.Addr {
			dead = id
		} else {
			alive = id
		}
	}
	grants := limitKeys("me", "")[1]
	for i := 0; b.db.NodeOf(b.ctx, grants).Options().Addr == node.Addr; i++ {
		grants = limitKeys(strconv.Itoa(i), "")[1]
	}
	require.NoError(t, b.db.Client.HSet(b.ctx, grants, alive, "1|0", dead, "1|0").Err())
	node.Kill()
	seen, err := b.lookAtFlying(b.ctx, grants, 0)
	require.NoError(t, err)
	require.Len(t, seen, 3)
	require.Equal(t, alive, seen[0])

	for _, id := range []string{alive, dead} {
		b.holders.note(id, map[string]string{"status": string(batch.StatusRunning), "target": "crm"})
	}
	b.holders.asked = time.Time{}
	_, err = b.checkHolders(b.ctx)
	require.Error(t, err)
	require.Contains(t, b.holders.running, dead, "it is asked for later")
	require.NotContains(t, b.holders.running, alive)
	require.NotEmpty(t, b.holders.missing, "of those that are read the holders were looked for")
}
