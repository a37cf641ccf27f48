package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/client"
	"github.com/batchd/batchd/internal/crash"
)

// crashing builds a batchd with crash points.
var crashing = sync.OnceValues(func() (string, error) {
	file := filepath.Join(filepath.Dir(binary), "batchd-crashing")
	out, err := exec.Command("go", "build", "-tags", "crashpoints", "-o", file, "../../cmd/batchd").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build the binary with crash points: %w\n%s", err, out)
	}
	return file, nil
})

// arena is a world in which processes die at crash points.
type arena struct {
	*world
	deaths int // per point
	binary string
	rdb    *redis.Client

	mu      sync.Mutex
	starts  int
	died    map[crash.Point]int
	last    time.Time // of the last death
	inHand  int       // actions that dead processes may have begun and not ended
	batches []*planned
	hooked  []*planned // batches with a webhook
	later   []func()   // calls that clients make once all deaths are over
	erased  []string   // ids of deleted batches

	electing sync.Mutex
	rescuing sync.Mutex // held by the present rescuer
}

func newArena(t *testing.T, deaths int) *arena {
	t.Helper()
	file, err := crashing()
	require.NoError(t, err)
	a := &arena{world: newWorld(t), deaths: deaths, binary: file, died: make(map[crash.Point]int)}
	a.timeout = 10 * time.Minute // some scenarios hold requests for long
	a.rdb = redis.NewClient(&redis.Options{Addr: a.redis.Addr})
	t.Cleanup(func() { _ = a.rdb.Close() }) // it only read
	a.target.status = func(v *visit, nth int) int {
		switch {
		case strings.Contains(v.id, ".busy-") && nth == 1:
			return http.StatusServiceUnavailable
		case strings.Contains(v.id, ".refused-") && nth == 1:
			return http.StatusUnprocessableEntity
		}
		return http.StatusOK
	}
	return a
}

// role describes a process of an arena.
type role struct {
	name        string
	args        []string
	concurrency int
	target      string      // the name of its target; defaults to the target of the batches
	at          crash.Point // where it dies; empty for never
	passing     int         // at which passing of that point it dies, from 1
}

// launch starts a process, and does not wait for it.
func (a *arena) launch(r role) *process {
	a.t.Helper()
	a.mu.Lock()
	a.concurrency, a.targetName = r.concurrency, "default"
	if r.target != "" {
		a.targetName = r.target
	}
	file := a.config(r.name)
	a.mu.Unlock()
	p := a.newProcess(r.name, exec.Command(a.binary, append(r.args, "--config", file)...))
	p.cmd.Env = os.Environ()
	if r.at != "" {
		p.cmd.Env = append(p.cmd.Env, fmt.Sprintf("CRASH_AT=%s@%d", r.at, r.passing))
		p.told.Store(true) // its end is expected
	}
	p.run()
	return p
}

// launchAPI starts an API that dies at the first passing of the point, and waits until it is up.
func (a *arena) launchAPI(name, addr string, at crash.Point) *process {
	a.t.Helper()
	p := a.launch(role{name: name, args: []string{"api", "--listen", addr}, concurrency: concurrency, at: at, passing: 1})
	p.awaitLog("batchd is up")
	return p
}

// launchWorker starts a worker that stays up, and waits until it is up.
func (a *arena) launchWorker(name string, concurrency int) *process {
	a.t.Helper()
	p := a.launch(role{name: name, args: []string{"worker", "--worker-listen", "127.0.0.1:0"}, concurrency: concurrency})
	p.awaitLog("worker started")
	return p
}

// awaitDeath waits until the process has died at its point, and nowhere else.
func (a *arena) awaitDeath(p *process, at crash.Point, inHand int, within time.Duration) {
	a.t.Helper()
	select {
	case <-p.done:
	case <-time.After(within):
		require.FailNow(a.t, "the crash point is not reached", "%s after %s:\n%s", at, within, p.tail(20))
	}
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	require.True(a.t, ok)
	require.Equal(a.t, syscall.SIGKILL, status.Signal(), "%s:\n%s", at, p.tail(20))
	require.Equal(a.t, 1, p.lines("crash point"), "%s:\n%s", at, p.tail(20))
	a.mu.Lock()
	defer a.mu.Unlock()
	a.died[at]++
	a.inHand += inHand
	a.last = time.Now()
}

func (a *arena) diedAt(at crash.Point) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.died[at]
}

// tag returns a unique name for a batch.
func (a *arena) tag(kind string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.starts++
	return fmt.Sprintf("%s%d", kind, a.starts)
}

// follow adds a batch to the final check.
func (a *arena) follow(p *planned, hooked bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.batches = append(a.batches, p)
	if hooked {
		a.hooked = append(a.hooked, p)
	}
}

// afterwards calls a function once all deaths are over.
func (a *arena) afterwards(do func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.later = append(a.later, do)
}

// again repeats a submission once all deaths are over, with the same idempotency key,
// so that there is one batch.
func (a *arena) again(p *planned, opts client.Options) {
	a.afterwards(func() {
		a.submit(p, opts)
		a.follow(p, true)
	})
}

// keyed returns the options of a submission that may be repeated.
func (a *arena) keyed() client.Options {
	return client.Options{IdempotencyKey: client.NewIdempotencyKey(), WebhookURL: a.hook()}
}

func (a *arena) hook() string { return a.receiver.url + "/hook" }

// mixed returns a batch of POST and GET. The target refuses some of the actions at
// first.
func (a *arena) mixed(n int) *planned {
	p := plan(a.tag("m"), n, http.MethodPost, http.MethodGet, http.MethodGet, http.MethodPost)
	for i := range p.actions {
		if i%5 == 4 {
			p.rename(i, ".busy")
		}
	}
	return p
}

// rename marks an action for the target.
func (p *planned) rename(i int, mark string) {
	x := &p.actions[i]
	x.ID = fmt.Sprintf("%s-%s-%d", p.tag, mark, i)
	x.Path = "/do/" + x.ID
}

// grouped returns a batch of groups of three, each with an undo, and some actions
// without a group.
func (a *arena) grouped(groups int) *planned {
	p := plan(a.tag("g"), 3*groups+groups, http.MethodPost)
	for i := range 3 * groups {
		x := &p.actions[i]
		x.Group = fmt.Sprint("group", i/3)
		x.Undo = &client.Action{Method: http.MethodDelete, Path: "/do/undo-" + x.ID}
	}
	return p
}

// feedPending is the number of pending actions of one feed up to which it submits the next
// batch.
const feedPending = 60

// feed submits batches until the context ends, at the speed at which they are
// processed.
func (a *arena) feed(ctx context.Context, next func(i int) (p *planned, hooked bool)) {
	// Wait for a submission in progress, so that every batch is known.
	whole := context.WithoutCancel(ctx)
	var open []*planned
	for i := 0; ctx.Err() == nil; {
		pending := 0
		open = slices.DeleteFunc(open, func(p *planned) bool {
			b, err := a.client.Get(whole, p.id, 0)
			if err != nil {
				a.t.Errorf("read %s: %v", p.tag, err)
				return true
			}
			pending += b.Counts.Pending
			return b.Status.Terminal()
		})
		if pending < feedPending {
			p, hooked := next(i)
			opts := client.Options{}
			if hooked {
				opts.WebhookURL = a.hook()
			}
			b, err := a.client.Submit(whole, p.actions, opts)
			if err != nil {
				a.t.Errorf("submit %s: %v", p.tag, err)
				return
			}
			p.id = b.ID
			a.follow(p, hooked)
			open = append(open, p)
			i++
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// victims kills workers with actions in flight, so that there is something to take
// over.
func (a *arena) victims(ctx context.Context, concurrency int, every time.Duration) {
	for ctx.Err() == nil {
		p := a.launchWorker("victim", concurrency)
		select {
		case <-ctx.Done():
		case <-time.After(every):
		}
		p.kill()
		a.lose(concurrency)
	}
}

// lose records the death of a process that may have had that many actions in flight.
func (a *arena) lose(inHand int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.inHand += inHand
}

// elect makes a worker the sweeper, as if the lease of the previous sweeper had
// expired.
func (a *arena) elect(p *process) {
	a.t.Helper()
	a.setSweeper(p.worker(), 15*time.Second)
}

func (a *arena) setSweeper(name string, lease time.Duration) {
	a.t.Helper()
	require.NoError(a.t, a.rdb.Set(a.t.Context(), "batchd:sweeper", name, lease).Err())
}

// worker returns the name of the process's worker, once it has started.
func (p *process) worker() string {
	p.t.Helper()
	const started = "worker started"
	p.awaitLog(started)
	p.mu.Lock()
	defer p.mu.Unlock()
	for line := range strings.Lines(p.log.String()) {
		var fields map[string]any
		if json.Unmarshal([]byte(line), &fields) == nil && fields["msg"] == started {
			return fmt.Sprint(fields["worker"])
		}
	}
	return ""
}

// end waits until the damage of the deaths is repaired, and checks everything.
func (a *arena) end(name string, within time.Duration) {
	a.t.Helper()
	var wg sync.WaitGroup
	for _, do := range a.later {
		wg.Go(do)
	}
	wg.Wait()
	require.False(a.t, a.t.Failed())
	a.settle(150*time.Second, a.batches...)
	recovered := time.Since(a.last)
	require.Less(a.t, recovered, within, "it took too long")
	sum := tally{}
	for _, p := range a.batches {
		found, results := a.verify(p)
		sum.add(found)
		a.checkEnded(p, results)
	}
	repeated := 0
	if long {
		repeated = a.awaitHooks(150*time.Second, a.hooked)
	} else {
		a.awaitHooksOrTasks()
	}
	informed := time.Since(a.last)
	require.LessOrEqual(a.t, sum[client.Unknown], a.inHand, "%v", sum)
	figure(a.t, "crash point %s: deaths=%d batches=%d outcomes=%v in_hand=%d, all ended %.1fs after the last death; webhooks=%d repeated=%d, all told after %.1fs",
		name, a.sumOfDeaths(), len(a.batches), sum, a.inHand, recovered.Seconds(), len(a.hooked), repeated, informed.Seconds())
	a.requireListed()
	a.requireNoKeyLeft()
}

// awaitHooksOrTasks waits until the webhook of every batch was received, or its task is
// held by a dead worker: asynq recovers such a task after a minute or two, for which
// the short form does not wait.
func (a *arena) awaitHooksOrTasks() {
	a.t.Helper()
	for _, p := range a.hooked {
		eventually(a.t, time.Minute, func() bool {
			if len(a.receiver.about(p.id)) > 0 {
				return true
			}
			held, err := a.rdb.LPos(a.t.Context(), "asynq:{webhooks}:active", p.id+":webhook:1", redis.LPosArgs{}).Result()
			return err == nil && held >= 0
		}, "nobody was told of %s, nor is about to be", p.tag)
	}
}

func (a *arena) sumOfDeaths() int {
	n := 0
	for _, deaths := range a.died {
		n += deaths
	}
	return n
}

// checkEnded makes the checks that verify does not make: no action that is safe to
// repeat was lost, and of each group all members count or none.
func (a *arena) checkEnded(p *planned, results []*client.Result) {
	a.t.Helper()
	counts, members := map[string]int{}, map[string]int{}
	for i, r := range results {
		x := &p.actions[i]
		if x.Group != "" {
			members[x.Group]++
			if r.Outcome == client.Succeeded {
				counts[x.Group]++
			} else if r.Outcome != client.Unknown && len(a.target.of(x.ID)) > 0 {
				require.NotEmpty(a.t, a.target.of("undo-"+x.ID), "%s is %s and was not taken back", x.ID, r.Outcome)
			}
			continue
		}
		switch r.Outcome {
		case client.Succeeded, client.Cancelled, client.Expired:
		case client.Unknown:
			require.Equal(a.t, http.MethodPost, x.Method, "%s is unknown, and is safe to repeat", x.ID)
		case client.Errored:
			require.Equal(a.t, http.MethodGet, x.Method, "%s: %+v", x.ID, r.Error)
			require.Equal(a.t, 5, r.Attempts, "%s was given up: %+v", x.ID, r.Error)
		default:
			require.Fail(a.t, "unexpected outcome", "%s is %s: %+v", x.ID, r.Outcome, r.Error)
		}
	}
	for group, n := range counts {
		require.Equal(a.t, members[group], n, "of group %s of %s only a part counts", group, p.tag)
	}
}

// requireListed checks that the owner's list contains every batch once and nothing
// else.
func (a *arena) requireListed() {
	a.t.Helper()
	known := make(map[string]bool, len(a.batches))
	for _, p := range a.batches {
		require.False(a.t, known[p.id], "two submissions are batch %s", p.id)
		known[p.id] = true
	}
	listed := 0
	for b, err := range a.client.List(a.t.Context()) {
		require.NoError(a.t, err)
		require.True(a.t, known[b.ID], "batch %s was never acknowledged", b.ID)
		listed++
	}
	require.Equal(a.t, len(known), listed)
}

// requireNoKeyLeft deletes every batch. Afterwards no key of it exists, and no entry of
// it in the owner's list; the keys of broken uploads expire. The long form also waits
// for the tasks in the queue.
func (a *arena) requireNoKeyLeft() {
	a.t.Helper()
	ids := slices.Clone(a.erased)
	for _, p := range a.batches {
		eventually(a.t, time.Minute, func() bool {
			err := a.client.Delete(a.t.Context(), p.id)
			if problem := (*client.Problem)(nil); errors.As(err, &problem) && problem.Status == http.StatusNotFound {
				return true // it was deleted, and the answer came late
			}
			return err == nil
		}, "%s is not deleted", p.tag)
		ids = append(ids, p.id)
	}
	for range a.client.List(a.t.Context()) {
		require.Fail(a.t, "a batch is listed after its deletion")
	}
	owned := func(keys []string) []string {
		var left []string
		for _, key := range keys {
			if slices.ContainsFunc(ids, func(id string) bool { return strings.Contains(key, id) }) {
				left = append(left, key)
			}
		}
		return left
	}
	left := slices.DeleteFunc(owned(a.keys("batchd:*")), func(key string) bool {
		// The marker of a retry whose process died expires after 20 s.
		return strings.Contains(key, "}:u:") && a.rdb.PTTL(a.t.Context(), key).Val() <= 20*time.Second
	})
	require.Empty(a.t, left)
	for _, key := range a.keys("batchd:*") {
		switch key {
		case "batchd:salt", "batchd:workers", "batchd:open", "batchd:throttled":
			continue
		}
		ttl, err := a.rdb.PTTL(a.t.Context(), key).Result()
		require.NoError(a.t, err)
		require.NotEqual(a.t, time.Duration(-1), ttl, "%s stays for ever", key)
	}
	if long {
		eventually(a.t, 150*time.Second, func() bool { return len(owned(a.keys("asynq:*"))) == 0 },
			"tasks of deleted batches are left: %v", owned(a.keys("asynq:*")))
	}
}

func (a *arena) keys(pattern string) []string {
	a.t.Helper()
	var found []string
	iter := a.rdb.Scan(a.t.Context(), 0, pattern, 1000).Iterator()
	for iter.Next(a.t.Context()) {
		found = append(found, iter.Val())
	}
	require.NoError(a.t, iter.Err())
	return found
}

// passing returns the passing at which to die: random, unless there is only one death.
func (a *arena) passing(most int) int {
	if a.deaths == 1 {
		return 1
	}
	return 1 + rand.N(most)
}
