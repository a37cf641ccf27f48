package queue

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
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
	"github.com/batchd/batchd/queue/seal"
)

// bundle is what a test of the store works with.
type bundle struct {
	*Store
	t   *testing.T
	ctx context.Context //nolint:containedctx // a test's
}

// onEveryStore runs a test against each kind of Redis that the store supports.
func onEveryStore(t *testing.T, test func(t *testing.T, b *bundle)) {
	t.Helper()
	onStores(t, test, "embedded", "server", "sentinel", "cluster")
}

// onStores runs a test against some kinds of Redis: one that waits for a timer, of which the kinds do
// not differ, needs no others.
func onStores(t *testing.T, test func(t *testing.T, b *bundle), kinds ...string) {
	t.Helper()
	t.Parallel()
	urls := map[string]func(t *testing.T) string{
		"embedded": func(*testing.T) string { return rdb.Embedded },
		"server":   servers.take,
		"sentinel": sentinels.take,
		"cluster":  clusters.take,
	}
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			test(t, open(t, urls[kind](t)))
		})
	}
}

// endless is longer than any test runs: a test waits for Redis's reply, however busy the machine is.
const endless = time.Hour

// open opens a store that waits for Redis until it replies, so that an exchange fails only
// in the tests that are about that: see [openWithDefaultTimeout].
func open(t *testing.T, url string) *bundle {
	t.Helper()
	b := openFor(t, url, endless)
	b.slowFor, b.lookFor = endless, endless // likewise what a sweep may take
	return b
}

// openWithDefaultTimeout opens a store that waits for Redis as usual.
func openWithDefaultTimeout(t *testing.T, url string) *bundle {
	t.Helper()
	return openFor(t, url, rdb.DefaultTimeout)
}

func openFor(t *testing.T, url string, timeout time.Duration) *bundle {
	t.Helper()
	secret := make([]byte, 32)
	_, _ = rand.Read(secret)
	s, err := Open(Config{Redis: rdb.Config{URL: rdb.URL(url)}, Timeout: timeout, Seal: seal.Config{Keys: []seal.Key{seal.NewKey("test", secret)}}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	s.offered.pause = 0
	return &bundle{Store: s, t: t, ctx: t.Context()}
}

// waitFor changes how long a store that was opened waits for an exchange.
func waitFor(s *Store, most time.Duration) {
	s.db.Timeout = most
	switch c := s.db.Client.(type) {
	case *redis.ClusterClient:
		c.Options().ReadTimeout, c.Options().WriteTimeout = most, most
	case *redis.Client:
		c.Options().ReadTimeout, c.Options().WriteTimeout = most, most
	}
}

// pauses has the store look twice without a pause between. No worker may be at work: what
// it has taken and not begun yet is put back. It returns the number of pauses.
func (b *bundle) pauses() *atomic.Int32 {
	n := new(atomic.Int32)
	b.pause = func(context.Context, time.Duration) error {
		n.Add(1)
		return nil
	}
	return n
}

// spec is a submission that says nothing special.
func spec() *batch.Spec {
	return &batch.Spec{Target: "crm", ExpiresIn: time.Hour, Retention: time.Hour}
}

func action(i int) *batch.Action {
	return &batch.Action{
		ID: fmt.Sprintf("a-%d", i), Method: "POST", Path: fmt.Sprintf("/items/%d", i), Query: "x=1",
		Headers: []batch.Field{{Name: "content-type", Value: "text/plain"}}, Body: fmt.Appendf(nil, "body %d", i), Timeout: time.Second,
	}
}

// submit commits a batch of n actions for the owner "me".
func (b *bundle) submit(n int, s *batch.Spec) *batch.Batch {
	b.t.Helper()
	u, err := b.Open(b.ctx, "me", "")
	require.NoError(b.t, err)
	for i := range n {
		require.NoError(b.t, u.Add(b.ctx, action(i)))
	}
	got, replayed, err := u.Commit(b.ctx, s)
	require.NoError(b.t, err)
	require.False(b.t, replayed)
	if n <= fanOutChunk {
		b.background.Wait() // that it was enqueued is noted
	}
	return got
}

func (b *bundle) get(id string) *batch.Batch {
	b.t.Helper()
	got, err := b.Get(b.ctx, "me", id, 0)
	require.NoError(b.t, err)
	require.Equal(b.t, got.Counts.Total, got.Counts.Sum(), "the counts add up")
	return got
}

// begin begins an action that must be there to be run.
func (b *bundle) begin(id string, index int) *batch.Begun {
	b.t.Helper()
	begun, err := b.Begin(b.ctx, id, index, "w1")
	require.NoError(b.t, err)
	require.Equal(b.t, batch.Run, begun.Verdict)
	return begun
}

// end begins and finishes an action.
func (b *bundle) end(id string, index int, o batch.Outcome) {
	b.t.Helper()
	begun := b.begin(id, index)
	require.NoError(b.t, b.Finish(b.ctx, id, index, begun.Token, result(index, o)))
}

// endAll has the first n actions of a batch succeed, some at a time.
func (b *bundle) endAll(id string, n int) {
	b.t.Helper()
	const atOnce = 64
	var all sync.WaitGroup
	var fault atomic.Pointer[error]
	for part := range atOnce {
		all.Go(func() {
			for i := part; i < n; i += atOnce {
				begun, err := b.Begin(b.ctx, id, i, "w1")
				if err == nil {
					err = b.Finish(b.ctx, id, i, begun.Token, result(i, batch.Succeeded))
				}
				if err != nil {
					fault.Store(&err)
				}
			}
		})
	}
	all.Wait()
	if err := fault.Load(); err != nil {
		require.NoError(b.t, *err)
	}
}

func result(index int, o batch.Outcome) *batch.Result {
	r := &batch.Result{
		ID: fmt.Sprintf("a-%d", index), Index: index, Outcome: o, Attempts: 1, StartedAt: time.Now(), Duration: time.Millisecond,
	}
	if o == batch.Succeeded || o == batch.Failed {
		r.Status, r.Body = 200, fmt.Appendf(nil, "answer %d", index)
	} else {
		r.Error = &batch.Failure{Code: batch.CodeTimeout, Message: "no answer"}
	}
	return r
}

// results reads all results, in pages of the given size.
func (b *bundle) results(id string, limit int, outcomes ...batch.Outcome) []batch.Result {
	b.t.Helper()
	var all []batch.Result
	for from := 0; from >= 0; {
		page, err := b.Results(b.ctx, "me", id, batch.ResultQuery{From: from, Limit: limit, Outcomes: outcomes})
		require.NoError(b.t, err)
		require.LessOrEqual(b.t, len(page.Results), limit)
		for _, encoded := range page.Results {
			var r batch.Result
			require.NoError(b.t, r.UnmarshalJSON(encoded))
			all = append(all, r)
		}
		require.NotEqual(b.t, from, page.Next, "a page makes progress")
		from = page.Next
	}
	return all
}

// keys lists all keys with their time to live in every shard.
func (b *bundle) allKeys() map[string]time.Duration {
	b.t.Helper()
	found := make(map[string]time.Duration)
	scan := func(ctx context.Context, c *redis.Client) error {
		keys, err := c.Keys(ctx, "*").Result()
		for _, k := range keys {
			ttl, ttlErr := c.PTTL(ctx, k).Result()
			if ttlErr != nil {
				return ttlErr
			}
			found[k] = ttl
		}
		return err
	}
	switch c := b.db.Client.(type) {
	case *redis.ClusterClient:
		var shards []*redis.Client
		var mu sync.Mutex
		require.NoError(b.t, c.ForEachMaster(b.ctx, func(_ context.Context, s *redis.Client) error {
			mu.Lock() // shards are visited side by side
			defer mu.Unlock()
			shards = append(shards, s)
			return nil
		}))
		for _, s := range shards {
			require.NoError(b.t, scan(b.ctx, s))
		}
	case *redis.Client:
		require.NoError(b.t, scan(b.ctx, c))
	}
	return found
}

// asynqWord returns what stands behind the queue in a key of asynq's: asynq:{queue}:word, or
// asynq:{queue}:word:more. Of other keys it returns nothing.
func asynqWord(key string) string {
	if !strings.HasPrefix(key, "asynq:{") {
		return ""
	}
	_, rest, _ := strings.Cut(key, "}:")
	word, _, _ := strings.Cut(rest, ":")
	return word
}

func (b *bundle) inspector() *asynq.Inspector { return asynq.NewInspectorFromRedisClient(b.db.Client) }

// crm is where the tasks of the tests' batches go.
func crm(lane batch.Lane) route { return route{"crm", lane} }

// pending returns the tasks that wait in a lane's queues, and those that are created when a worker
// takes them.
func (b *bundle) pending(lane batch.Lane) []*asynq.TaskInfo {
	b.t.Helper()
	return append(b.listed(lane, b.inspector().ListPendingTasks), b.offers(lane)...)
}

// offers returns the tasks that are created when a worker takes them.
func (b *bundle) offers(lane batch.Lane) (tasks []*asynq.TaskInfo) {
	b.t.Helper()
	for _, queue := range b.queuesOf(crm(lane)) {
		prefix := fairPrefix(queue)
		for _, owner := range must(b.db.Client.ZRange(b.ctx, prefix+"o", 0, -1).Result()) {
			for _, id := range must(b.db.Client.LRange(b.ctx, prefix+"o:"+owner, 0, -1).Result()) {
				round, _, _ := strings.Cut(must(b.db.Client.HGet(b.ctx, prefix+"m", id).Result()), "|")
				for _, r := range must(b.db.Client.LRange(b.ctx, prefix+"b:"+id, 0, -1).Result()) {
					for _, i := range b.indexesIn(r) {
						tasks = append(tasks, &asynq.TaskInfo{ID: taskID(id, i, round), Queue: queue, Type: TaskAction, Payload: EncodeTask(id, i)})
					}
				}
			}
		}
	}
	return tasks
}

// indexesIn returns the indexes of a range that waits in a fair queue.
func (b *bundle) indexesIn(text string) (indexes []int) {
	b.t.Helper()
	parts := strings.Split(text, "-")
	for i := int(rdb.Atoi(parts[0])); i < int(rdb.Atoi(parts[1])); i++ {
		if len(parts) == 2 || strconv.Itoa(i/shardRun%clusterShards) == parts[2] {
			indexes = append(indexes, i)
		}
	}
	return indexes
}

// enqueue makes the tasks of actions, as for those that come again.
func (b *bundle) enqueue(ctx context.Context, id string, r route, indexes []int) error {
	return b.enqueueTasks(ctx, b.tasksOf(id, r, "", indexes))
}

func (b *bundle) listed(lane batch.Lane, list func(string, ...asynq.ListOption) ([]*asynq.TaskInfo, error)) []*asynq.TaskInfo {
	b.t.Helper()
	var all []*asynq.TaskInfo
	for _, queue := range b.queuesOf(crm(lane)) {
		for page := 1; ; page++ {
			tasks, err := list(queue, asynq.PageSize(1000), asynq.Page(page))
			if errors.Is(err, asynq.ErrQueueNotFound) {
				break
			}
			require.NoError(b.t, err)
			all = append(all, tasks...)
			if len(tasks) < 1000 {
				break
			}
		}
	}
	return all
}

// create has the tasks of all waiting actions of small batches created, as if they had been taken and given back.
func (b *bundle) create() {
	b.t.Helper()
	for _, queue := range b.queuesOf(crm(batch.Interactive)) {
		for must(b.db.Client.Exists(b.ctx, fairPrefix(queue)+"o").Result()) > 0 {
			answer, _ := b.poll(&Poll{Queue: queue, Want: 1000})
			slices.Reverse(answer) // the last one is taken first
			require.Equal(b.t, len(answer), must(b.requeue(b.ctx, queue, answer)))
		}
	}
}

// poll polls a queue, and returns the ids of the tasks that it took, and whether more wait.
func (b *bundle) poll(p *Poll) (ids []string, more bool) {
	b.t.Helper()
	ids, more, err := b.pollFor(b.ctx, p)
	require.NoError(b.t, err)
	return ids, more
}

func (b *bundle) pollFor(ctx context.Context, p *Poll) (ids []string, more bool, err error) {
	p.Message = newMessageTemplate(p.Queue, TaskAction).around()
	pipe := b.db.Client.Pipeline()
	p.Add(ctx, pipe)
	b.db.Send(ctx, pipe)
	return p.Read(ctx, b.db)
}

// newLane returns a lane without a consumer.
func (b *bundle) newLane(queue string) *lane {
	b.t.Helper()
	l := &line{Line: Line{Target: "crm"}, t: &taker{s: b.Store, lanes: make(map[string]*lane)}}
	l.addLane(queue, false)
	return l.lanes[0]
}

// dropTask loses the task of an action.
func (b *bundle) dropTask(id string, index int) {
	b.t.Helper()
	b.create()
	require.NoError(b.t, b.inspector().DeleteTask(b.queueOf(crm(batch.Interactive), id, index), taskID(id, index, "")))
}

// eventually waits for something that happens in the background.
func (b *bundle) eventually(what string, check func() bool) {
	b.t.Helper()
	require.Eventually(b.t, check, time.Minute, 5*time.Millisecond, what)
}
