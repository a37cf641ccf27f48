package queuetest

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
	"github.com/batchd/batchd/queue"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
	"github.com/batchd/batchd/queue/tasks"
)

// Bundle is what a test of the store works with.
type Bundle struct {
	*queue.Store
	T   *testing.T
	Ctx context.Context //nolint:containedctx // a test's
}

// OnEveryStore runs a test against each kind of Redis that the store supports.
func OnEveryStore(t *testing.T, test func(t *testing.T, b *Bundle)) {
	t.Helper()
	OnStores(t, test, "embedded", "server", "sentinel", "cluster")
}

// OnStores runs a test against some kinds of Redis: one that waits for a timer, of which the kinds do
// not differ, needs no others.
func OnStores(t *testing.T, test func(t *testing.T, b *Bundle), kinds ...string) {
	t.Helper()
	t.Parallel()
	urls := map[string]func(t *testing.T) string{
		"embedded": func(*testing.T) string { return rdb.Embedded },
		"server":   servers.Take,
		"sentinel": sentinels.Take,
		"cluster":  Clusters.Take,
	}
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			test(t, Open(t, urls[kind](t)))
		})
	}
}

// Endless is longer than any test runs: a test waits for Redis's reply, however busy the machine is.
const Endless = time.Hour

// Open opens a store that waits for Redis until it replies, so that an exchange fails only
// in the tests that are about that: see [openWithDefaultTimeout].
func Open(t *testing.T, url string) *Bundle {
	t.Helper()
	b := openFor(t, url, Endless)
	b.Sweeper.SlowFor, b.Sweeper.LookFor = Endless, Endless // likewise what a sweep may take
	return b
}

// OpenWithDefaultTimeout opens a store that waits for Redis as usual.
func OpenWithDefaultTimeout(t *testing.T, url string) *Bundle {
	t.Helper()
	return openFor(t, url, rdb.DefaultTimeout)
}

func openFor(t *testing.T, url string, timeout time.Duration) *Bundle {
	t.Helper()
	secret := make([]byte, 32)
	_, _ = rand.Read(secret)
	s, err := queue.Open(queue.Config{Redis: rdb.Config{URL: rdb.URL(url)}, Timeout: timeout, Seal: seal.Config{Keys: []seal.Key{seal.NewKey("test", secret)}}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	s.Fanout.Offered.Pause = 0
	return &Bundle{Store: s, T: t, Ctx: t.Context()}
}

// WaitFor changes how long a store that was opened waits for an exchange.
func WaitFor(s *queue.Store, most time.Duration) {
	s.DB.Timeout = most
	switch c := s.DB.Client.(type) {
	case *redis.ClusterClient:
		c.Options().ReadTimeout, c.Options().WriteTimeout = most, most
	case *redis.Client:
		c.Options().ReadTimeout, c.Options().WriteTimeout = most, most
	}
}

// Pauses has the store look twice without a pause between. No worker may be at work: what
// it has taken and not begun yet is put back. It returns the number of pauses.
func (b *Bundle) Pauses() *atomic.Int32 {
	n := new(atomic.Int32)
	b.Sweeper.Rescue.Pause = func(context.Context, time.Duration) error {
		n.Add(1)
		return nil
	}
	return n
}

// Spec is a submission that says nothing special.
func Spec() *batch.Spec {
	return &batch.Spec{Target: "crm", ExpiresIn: time.Hour, Retention: time.Hour}
}

func Action(i int) *batch.Action {
	return &batch.Action{
		ID: fmt.Sprintf("a-%d", i), Method: "POST", Path: fmt.Sprintf("/items/%d", i), Query: "x=1",
		Headers: []batch.Field{{Name: "content-type", Value: "text/plain"}}, Body: fmt.Appendf(nil, "body %d", i), Timeout: time.Second,
	}
}

// Submit commits a batch of n actions for the owner "me".
func (b *Bundle) Submit(n int, s *batch.Spec) *batch.Batch {
	b.T.Helper()
	u, err := b.Open(b.Ctx, "me", "")
	require.NoError(b.T, err)
	for i := range n {
		require.NoError(b.T, u.Add(b.Ctx, Action(i)))
	}
	got, replayed, err := u.Commit(b.Ctx, s)
	require.NoError(b.T, err)
	require.False(b.T, replayed)
	if n <= tasks.FanOutChunk {
		b.Background.Wait() // that it was enqueued is noted
	}
	return got
}

func (b *Bundle) Read(id string) *batch.Batch {
	b.T.Helper()
	got, err := b.Get(b.Ctx, "me", id, 0)
	require.NoError(b.T, err)
	require.Equal(b.T, got.Counts.Total, got.Counts.Sum(), "the counts add up")
	return got
}

// Begin begins an action that must be there to be run.
func (b *Bundle) Begin(id string, index int) *batch.Begun {
	b.T.Helper()
	begun, err := b.Ledger.Begin(b.Ctx, id, index, "w1")
	require.NoError(b.T, err)
	require.Equal(b.T, batch.Run, begun.Verdict)
	return begun
}

// End begins and finishes an action.
func (b *Bundle) End(id string, index int, o batch.Outcome) {
	b.T.Helper()
	begun := b.Begin(id, index)
	require.NoError(b.T, b.Ledger.Finish(b.Ctx, id, index, begun.Token, Result(index, o)))
}

// EndAll has the first n actions of a batch succeed, some at a time.
func (b *Bundle) EndAll(id string, n int) {
	b.T.Helper()
	const atOnce = 64
	var all sync.WaitGroup
	var fault atomic.Pointer[error]
	for part := range atOnce {
		all.Go(func() {
			for i := part; i < n; i += atOnce {
				begun, err := b.Ledger.Begin(b.Ctx, id, i, "w1")
				if err == nil {
					err = b.Ledger.Finish(b.Ctx, id, i, begun.Token, Result(i, batch.Succeeded))
				}
				if err != nil {
					fault.Store(&err)
				}
			}
		})
	}
	all.Wait()
	if err := fault.Load(); err != nil {
		require.NoError(b.T, *err)
	}
}

func Result(index int, o batch.Outcome) *batch.Result {
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

// AllResults reads all results, in pages of the given size.
func (b *Bundle) AllResults(id string, limit int, outcomes ...batch.Outcome) []batch.Result {
	b.T.Helper()
	var all []batch.Result
	for from := 0; from >= 0; {
		page, err := b.Results(b.Ctx, "me", id, batch.ResultQuery{From: from, Limit: limit, Outcomes: outcomes})
		require.NoError(b.T, err)
		require.LessOrEqual(b.T, len(page.Results), limit)
		for _, encoded := range page.Results {
			var r batch.Result
			require.NoError(b.T, r.UnmarshalJSON(encoded))
			all = append(all, r)
		}
		require.NotEqual(b.T, from, page.Next, "a page makes progress")
		from = page.Next
	}
	return all
}

// keys lists all keys with their time to live in every shard.
func (b *Bundle) AllKeys() map[string]time.Duration {
	b.T.Helper()
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
	switch c := b.DB.Client.(type) {
	case *redis.ClusterClient:
		var shards []*redis.Client
		var mu sync.Mutex
		require.NoError(b.T, c.ForEachMaster(b.Ctx, func(_ context.Context, s *redis.Client) error {
			mu.Lock() // shards are visited side by side
			defer mu.Unlock()
			shards = append(shards, s)
			return nil
		}))
		for _, s := range shards {
			require.NoError(b.T, scan(b.Ctx, s))
		}
	case *redis.Client:
		require.NoError(b.T, scan(b.Ctx, c))
	}
	return found
}

// AsynqWord returns what stands behind the queue in a key of asynq's: asynq:{queue}:word, or
// asynq:{queue}:word:more. Of other keys it returns nothing.
func AsynqWord(key string) string {
	if !strings.HasPrefix(key, "asynq:{") {
		return ""
	}
	_, rest, _ := strings.Cut(key, "}:")
	word, _, _ := strings.Cut(rest, ":")
	return word
}

func (b *Bundle) Inspector() *asynq.Inspector { return asynq.NewInspectorFromRedisClient(b.DB.Client) }

// Crm is where the tasks of the tests' batches go.
func Crm(lane batch.Lane) tasks.Route { return tasks.Route{Target: "crm", Lane: lane} }

// Pending returns the tasks that wait in a lane's queues, and those that are created when a worker
// takes them.
func (b *Bundle) Pending(lane batch.Lane) []*asynq.TaskInfo {
	b.T.Helper()
	return append(b.Listed(lane, b.Inspector().ListPendingTasks), b.Offers(lane)...)
}

// Offers returns the tasks that are created when a worker takes them.
func (b *Bundle) Offers(lane batch.Lane) (brought []*asynq.TaskInfo) {
	b.T.Helper()
	for _, queue := range b.Tasks.QueuesOf(Crm(lane)) {
		prefix := tasks.FairPrefix(queue)
		for _, owner := range Must(b.DB.Client.ZRange(b.Ctx, prefix+"o", 0, -1).Result()) {
			for _, id := range Must(b.DB.Client.LRange(b.Ctx, prefix+"o:"+owner, 0, -1).Result()) {
				round, _, _ := strings.Cut(Must(b.DB.Client.HGet(b.Ctx, prefix+"m", id).Result()), "|")
				for _, r := range Must(b.DB.Client.LRange(b.Ctx, prefix+"b:"+id, 0, -1).Result()) {
					for _, i := range b.indexesIn(r) {
						brought = append(brought, &asynq.TaskInfo{ID: tasks.TaskID(id, i, round), Queue: queue, Type: tasks.TaskAction, Payload: tasks.EncodeTask(id, i)})
					}
				}
			}
		}
	}
	return brought
}

// indexesIn returns the indexes of a range that waits in a fair queue.
func (b *Bundle) indexesIn(text string) (indexes []int) {
	b.T.Helper()
	parts := strings.Split(text, "-")
	for i := int(rdb.Atoi(parts[0])); i < int(rdb.Atoi(parts[1])); i++ {
		if len(parts) == 2 || strconv.Itoa(i/tasks.ShardRun%tasks.ClusterShards) == parts[2] {
			indexes = append(indexes, i)
		}
	}
	return indexes
}

// Enqueue makes the tasks of actions, as for those that come again.
func (b *Bundle) Enqueue(ctx context.Context, id string, r tasks.Route, indexes []int) error {
	return b.Tasks.EnqueueTasks(ctx, b.Tasks.TasksOf(id, r, "", indexes))
}

func (b *Bundle) Listed(lane batch.Lane, list func(string, ...asynq.ListOption) ([]*asynq.TaskInfo, error)) []*asynq.TaskInfo {
	b.T.Helper()
	var all []*asynq.TaskInfo
	for _, queue := range b.Tasks.QueuesOf(Crm(lane)) {
		for page := 1; ; page++ {
			tasks, err := list(queue, asynq.PageSize(1000), asynq.Page(page))
			if errors.Is(err, asynq.ErrQueueNotFound) {
				break
			}
			require.NoError(b.T, err)
			all = append(all, tasks...)
			if len(tasks) < 1000 {
				break
			}
		}
	}
	return all
}

// Create has the tasks of all waiting actions of small batches created, as if they had been taken and given back.
func (b *Bundle) Create() {
	b.T.Helper()
	for _, queue := range b.Tasks.QueuesOf(Crm(batch.Interactive)) {
		for Must(b.DB.Client.Exists(b.Ctx, tasks.FairPrefix(queue)+"o").Result()) > 0 {
			answer, _ := b.Poll(&tasks.Poll{Queue: queue, Want: 1000})
			slices.Reverse(answer) // the last one is taken first
			require.Equal(b.T, len(answer), Must(b.Tasks.Requeue(b.Ctx, queue, answer)))
		}
	}
}

// Poll polls a queue, and returns the ids of the tasks that it took, and whether more wait.
func (b *Bundle) Poll(p *tasks.Poll) (ids []string, more bool) {
	b.T.Helper()
	ids, more, err := b.PollFor(b.Ctx, p)
	require.NoError(b.T, err)
	return ids, more
}

func (b *Bundle) PollFor(ctx context.Context, p *tasks.Poll) (ids []string, more bool, err error) {
	p.Message = tasks.NewMessageTemplate(p.Queue, tasks.TaskAction).Around()
	pipe := b.DB.Client.Pipeline()
	p.Add(ctx, pipe)
	b.DB.Send(ctx, pipe)
	return p.Read(ctx, b.DB)
}

// DropTask loses the task of an action.
func (b *Bundle) DropTask(id string, index int) {
	b.T.Helper()
	b.Create()
	require.NoError(b.T, b.Inspector().DeleteTask(b.Tasks.QueueOf(Crm(batch.Interactive), id, index), tasks.TaskID(id, index, "")))
}

// Eventually waits for something that happens in the background.
func (b *Bundle) Eventually(what string, check func() bool) {
	b.T.Helper()
	require.Eventually(b.T, check, time.Minute, 5*time.Millisecond, what)
}
