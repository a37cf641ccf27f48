package faults

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/client"
	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue"
	"github.com/batchd/batchd/queue/rdb"
)

const (
	unreachable = 8 // targets
	large       = 10
	// deadlineKept is the time from docs/RELIABILITY.md within which a batch ends after its deadline.
	deadlineKept = time.Minute
)

// backlog is an installation with a target that is held, for which many batches wait, and with targets
// that accept no connection.
type backlog struct {
	*world

	redis *redis.Client
}

// startBacklog starts an API and two workers.
func startBacklog(t *testing.T) (b *backlog, workers []*process) {
	t.Helper()
	w := newWorld(t)
	w.targets = fmt.Sprintf("  - {name: held, base_url: %q}\n", w.target.url)
	for i := range unreachable {
		w.targets += fmt.Sprintf("  - {name: away-%d, base_url: %q, concurrency: 4, timeout: 2s}\n", i, listenDeaf(t))
	}
	b = &backlog{world: w, redis: redis.NewClient(&redis.Options{Addr: w.redis.Addr})}
	t.Cleanup(func() { _ = b.redis.Close() })
	w.startAPI()
	workers = []*process{w.startWorker("w0"), w.startWorker("w1")}
	s, err := queue.Open(queue.Config{Redis: rdb.Config{URL: rdb.URL(w.redisURL)}})
	require.NoError(t, err)
	require.NoError(t, s.Gate.Hold(t.Context(), "held", time.Hour))
	require.NoError(t, s.Close())
	return b, workers
}

// listenDeaf listens and accepts nothing: once its backlog is full, a connection attempt never
// ends.
func listenDeaf(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = syscall.Close(fd) })
	require.NoError(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	require.NoError(t, syscall.Listen(fd, 0))
	name, err := syscall.Getsockname(fd)
	require.NoError(t, err)
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(name.(*syscall.SockaddrInet4).Port))
	for range 10 {
		conn, err := net.DialTimeout("tcp", addr, 100*time.Millisecond)
		if err != nil {
			return "http://" + addr
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	require.FailNow(t, "the backlog does not fill")
	return ""
}

// wait submits batches of POSTs to the held target, several small ones at a time.
func (b *backlog) wait(tag string, batches, actions int, opts func(i int) client.Options) []string {
	b.t.Helper()
	ids := make([]string, batches)
	var next atomic.Int64
	var group sync.WaitGroup
	uploads := 8
	if actions > 1000 {
		uploads = 1
	}
	for range uploads {
		group.Go(func() {
			for i := int(next.Add(1)) - 1; i < batches; i = int(next.Add(1)) - 1 {
				o := opts(i)
				o.Target = "held"
				all := make([]client.Action, actions)
				for n := range all {
					all[n] = client.Action{Method: http.MethodPost, Path: fmt.Sprintf("/do/%s-%d-%d", tag, i, n)}
				}
				got, err := b.client.Submit(b.t.Context(), all, o) // repeated, if Redis is too busy
				if err != nil {
					b.t.Errorf("submit %s: %v", tag, err)
					return
				}
				ids[i] = got.ID
			}
		})
	}
	group.Wait()
	require.False(b.t, b.t.Failed())
	return ids
}

// keys returns the keys that match a pattern.
func (b *backlog) keys(pattern string) (keys []string) {
	b.t.Helper()
	for scan := b.redis.Scan(b.t.Context(), 0, pattern, 10_000).Iterator(); scan.Next(b.t.Context()); {
		keys = append(keys, scan.Val())
	}
	return keys
}

// waiting returns the number of actions that wait for the held target, and the number of their
// tasks.
func (b *backlog) waiting() (actions, tasks int) {
	b.t.Helper()
	for _, lane := range []batch.Lane{batch.Interactive, batch.Bulk} {
		name := "{held." + string(lane) + "}"
		keys := b.keys("batchd:fair:" + name + ":n")
		for _, key := range keys {
			n, err := b.redis.Get(b.t.Context(), key).Int()
			require.NoError(b.t, err)
			actions += n
		}
		tasks += len(b.keys("asynq:" + name + ":t:*"))
	}
	return actions, tasks
}

// taskMemory returns the memory of waiting actions and tasks in Redis, in bytes.
func (b *backlog) taskMemory() (bytes int64) {
	b.t.Helper()
	for _, key := range append(b.keys("batchd:fair:*"), b.keys("asynq:*")...) {
		n, err := b.redis.MemoryUsage(b.t.Context(), key, 0).Result()
		if err == nil { // otherwise it is gone
			bytes += n
		}
	}
	return bytes
}

// commands counts the commands that Redis runs in a while, including those in scripts.
func (b *backlog) commands(during time.Duration) int {
	b.t.Helper()
	count := func() int {
		info, err := b.redis.Info(b.t.Context(), "stats").Result()
		require.NoError(b.t, err)
		_, rest, _ := strings.Cut(info, "total_commands_processed:")
		text, _, _ := strings.Cut(rest, "\r\n")
		n, err := strconv.Atoi(text)
		require.NoError(b.t, err)
		return n
	}
	before := count()
	time.Sleep(during)
	return count() - before
}

// workerWatch watches the heartbeats.
type workerWatch struct {
	done    chan struct{}
	ended   sync.WaitGroup
	mu      sync.Mutex
	longest map[string]time.Duration // silence, by worker
}

func watchWorkers(t *testing.T, c *redis.Client) *workerWatch {
	t.Helper()
	w := &workerWatch{done: make(chan struct{}), longest: make(map[string]time.Duration)}
	w.ended.Go(func() {
		for {
			select {
			case <-w.done:
				return
			case <-time.After(100 * time.Millisecond):
			}
			w.look(c)
		}
	})
	t.Cleanup(w.stop)
	return w
}

func (w *workerWatch) look(c *redis.Client) {
	beats := c.ZRangeWithScores(context.Background(), "batchd:workers", 0, -1)
	now, err := c.Time(context.Background()).Result() // read after the heartbeats, so that no silence seems too short
	if err != nil || beats.Err() != nil {
		return // the test ends
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, z := range beats.Val() {
		name, _ := z.Member.(string)
		w.longest[name] = max(w.longest[name], now.Sub(time.UnixMilli(int64(z.Score))))
	}
}

func (w *workerWatch) stop() {
	select {
	case <-w.done:
	default:
		close(w.done)
	}
	w.ended.Wait()
}

// of returns the longest silence of the workers of a process.
func (w *workerWatch) of(p *process) (longest time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, silence := range w.longest {
		if strings.Contains(name, fmt.Sprintf("-%d-", p.cmd.Process.Pid)) {
			longest = max(longest, silence)
		}
	}
	return longest
}

// Many batches and actions wait, eight targets cannot be reached, and a worker is killed. The other
// worker stays alive, every deadline is kept, and no action gets a second task.
func TestManyBatchesWaitAndAWorkerIsKilled(t *testing.T) {
	scenario(t)
	batches, actions, expiring := scale(600, 20_000), scale(2_000, 100_000), scale(100, 2_000)
	b, workers := startBacklog(t)
	began := time.Now()
	b.wait("large", large, actions, func(int) client.Options { return client.Options{ExpiresIn: 2 * time.Hour} })
	b.wait("open", batches, 2, func(int) client.Options { return client.Options{ExpiresIn: 2 * time.Hour} })
	submitted := time.Since(began)
	memory := b.taskMemory()
	for i := range unreachable {
		away := plan(fmt.Sprint("away", i), 20, http.MethodPost)
		_, err := b.client.Submit(t.Context(), away.actions, client.Options{Target: fmt.Sprint("away-", i), ExpiresIn: 2 * time.Hour})
		require.NoError(t, err)
	}
	silence := watchWorkers(t, b.redis)
	load := plan("live", scale(1_000, 5_000), http.MethodGet, http.MethodPost)
	b.submit(load, client.Options{Target: "default"})
	// The deadlines pass from now until the dead worker's actions were taken over.
	due := b.wait("due", expiring, 2, func(i int) client.Options {
		return client.Options{ExpiresIn: 2*time.Second + scale(8*time.Second, 30*time.Second)*time.Duration(i)/time.Duration(expiring)}
	})
	eventually(t, time.Minute, func() bool { return b.target.flying("w0") > 0 }, "the worker has nothing in flight")
	workers[0].kill()
	died := time.Now()
	b.settle(2*time.Minute, load)
	eventually(t, time.Minute, func() bool { return workers[1].lines("workers died, their actions were taken over") > 0 }, "the dead worker is not found")
	recovered := time.Since(died)

	var late []time.Duration
	for _, id := range due {
		var got *client.Batch
		eventually(t, 2*deadlineKept, func() bool {
			var err error
			got, err = b.client.Get(t.Context(), id, 0)
			require.NoError(t, err)
			return got.Status.Terminal()
		}, "batch %s does not end", id)
		require.Equal(t, 2, got.Counts.Expired)
		late = append(late, got.EndedAt.Sub(*got.ExpiresAt))
	}
	require.Less(t, slices.Max(late), deadlineKept)
	// After a death, every round of the sweeper checks all batches for a while.
	time.Sleep(scale(2*time.Second, 50*time.Second))
	sum := b.verifyAll([]*planned{load})
	left, tasks := b.waiting()
	require.Equal(t, large*actions+2*batches, left, "an action waits twice, or not at all")
	require.Zero(t, tasks, "an action of the held target has a task")
	require.LessOrEqual(t, sum[client.Unknown], concurrency)
	require.Zero(t, b.target.count(func(v *visit) bool { return !strings.HasPrefix(v.id, "live-") }))
	require.Less(t, silence.of(workers[1]), batch.DeadAfter, "the live worker was silent for too long")
	require.Equal(t, 1, workers[1].lines("workers died, their actions were taken over"))
	figure(t, "many batches: open=%d waiting=%d submitted in %.0fs, %d unreachable targets; memory of tasks and waiting actions %.1f MB", large+batches, left, submitted.Seconds(), unreachable, float64(memory)/1e6)
	figure(t, "many batches: dead worker's actions taken over after %.1fs, longest silence of the live worker %.1fs of %s, outcomes=%v", recovered.Seconds(), silence.of(workers[1]).Seconds(), batch.DeadAfter, sum)
	figure(t, "many batches: from the deadline to the end of the batch: %s", quantiles(late))
}

// Actions that wait for a held target use almost no memory in Redis for tasks, and cause no
// periodic work.
func TestWaitingActionsCostNeitherMemoryNorWork(t *testing.T) {
	scenario(t)
	actions, during := scale(2_000, 100_000), scale(5*time.Second, 20*time.Second)
	b, _ := startBacklog(t)
	long := func(int) client.Options { return client.Options{ExpiresIn: 2 * time.Hour} }
	few := b.wait("few", large, 1, long)
	settle := func() { time.Sleep(scale(5*time.Second, 15*time.Second)) } // the sweeper has checked new batches
	settle()
	before, without := b.taskMemory(), b.commands(during)
	for _, id := range few {
		_, err := b.client.Cancel(t.Context(), id)
		require.NoError(t, err)
	}
	b.wait("many", large, actions, long)
	left, _ := b.waiting()
	require.Equal(t, large*actions, left)
	settle()
	memory, with := b.taskMemory()-before, b.commands(during)
	figure(t, "waiting actions: %d take %.3f MB of Redis for tasks; Redis ran %d commands in %s, %d with %d waiting actions", left, float64(memory)/1e6, with, during, without, large)
	require.Less(t, memory, int64(10_000_000))
	require.LessOrEqual(t, with, without+without/2+50)
}
