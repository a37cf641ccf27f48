package faults

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/client"
	"github.com/batchd/batchd/internal/crash"
	"github.com/batchd/batchd/internal/redistest"
)

// drive causes the deaths at one point.
type drive func(a *arena, at crash.Point)

// family is a set of crash points that one world can reach.
type family struct {
	name           string
	settings       string // of the world's configuration
	targetSettings string
	delay          time.Duration // of the target
	workers        int           // workers that stay up
	concurrency    int           // of each of these workers
	prepare        func(a *arena)
	// beside is the load that runs while processes die.
	beside []func(ctx context.Context, a *arena)
	points []pointCase
	// within bounds the time from the last death to the end of the last batch. It
	// defaults to a minute, which is more than a takeover needs and less than asynq's leases do.
	within time.Duration
}

type pointCase struct {
	at    crash.Point
	drive drive
}

// Processes die at every point between the acceptance of a batch and its webhook, a
// hundred times at each in the long form. Acknowledged batches are complete and end, no
// POST is accepted twice, unknown actions were in flight in a dead process, webhooks
// arrive, and no key is left once the batches are deleted.
func TestADeathAtEachCrashPointLosesAndRepeatsNothing(t *testing.T) {
	scenario(t)
	reached := map[crash.Point]bool{}
	var wg sync.WaitGroup
	// The number of worlds with dying processes at a time; afterwards a world mostly
	// waits.
	places := make(chan struct{}, scale(len(families), 4))
	for _, f := range families {
		for _, c := range f.points {
			require.False(t, reached[c.at], "%s is reached twice", c.at)
			reached[c.at] = true
		}
		// In the short form one world passes all points of a family.
		worlds := [][]pointCase{f.points}
		if long {
			worlds = nil
			for _, c := range f.points {
				worlds = append(worlds, []pointCase{c})
			}
		}
		for _, points := range worlds {
			name := f.name
			if long {
				name = string(points[0].at)
			}
			wg.Go(func() {
				t.Run(name, func(t *testing.T) { f.run(t, name, points, places) })
			})
		}
	}
	wg.Wait()
	for _, p := range crash.Points() {
		require.True(t, reached[p], "no family has the point %s", p)
	}
}

func (f *family) run(t *testing.T, name string, points []pointCase, places chan struct{}) {
	t.Helper()
	places <- struct{}{}
	free := sync.OnceFunc(func() { <-places })
	defer free()
	a := newArena(t, scale(1, 100))
	a.settings, a.targetSettings, a.target.delay = f.settings, f.targetSettings, f.delay
	a.launchAPI("api", a.apiAddr, "")
	for i := range f.workers {
		a.launchWorker(fmt.Sprint("w", i), f.concurrency)
	}
	if f.prepare != nil {
		f.prepare(a)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var load, deaths sync.WaitGroup
	for _, run := range f.beside {
		load.Go(func() { run(ctx, a) })
	}
	for _, c := range points {
		deaths.Go(func() { c.drive(a, c.at) })
	}
	deaths.Wait()
	cancel()
	load.Wait()
	a.target.set(func(x *target) { x.delay = time.Millisecond })
	require.False(t, t.Failed())
	for _, c := range points {
		require.GreaterOrEqual(t, a.diedAt(c.at), a.deaths, "%s", c.at)
	}
	free()
	a.end(name, cmp.Or(f.within, time.Minute))
}

// busyKey is longer than it takes to repeat uploads whose keys stayed busy for a
// minute, and to release throttled actions.
const busyKey = 4 * time.Minute

// staged is the size of a batch that is stored in several steps, and not at once.
const staged = 260

var families = []family{
	{
		name: "upload", within: busyKey, delay: 5 * time.Millisecond, workers: 2, concurrency: concurrency,
		points: []pointCase{
			{crash.KeyClaimed, inAPI(uploadOf(5, 20))},
			{crash.ChunkStaged, inAPI(uploadOf(staged, 1_100))},
			{crash.Indexed, inAPI(uploadOf(staged, 1_100))},
			{crash.BeforeCommit, inAPI(uploadOf(staged, 1_100))},
			{crash.Committed, inAPI(uploadOf(staged, 1_100))},
			{crash.Offered, inAPI(uploadOf(staged, 1_100))},
			{crash.FannedOut, inAPI(uploadOf(staged, 1_100))},
			{crash.BeforeAnswer, inAPI(uploadOf(20, 40))},
			{crash.Readmitted, inAPI(brokenUpload)},
		},
	},
	{
		name: "limited upload", within: busyKey, settings: "limits: {concurrent: 100, when_exceeded: reject}\n",
		delay: 5 * time.Millisecond, workers: 2, concurrency: concurrency,
		points: []pointCase{{crash.Admitted, inAPI(uploadOf(20, 40))}, {crash.Charged, inAPI(uploadOf(20, 40))}},
	},
	{
		name: "throttled upload", within: busyKey, settings: "limits: {concurrent: 50, when_exceeded: queue}\n",
		delay: 5 * time.Millisecond, workers: 2, concurrency: concurrency,
		points: []pointCase{
			{crash.Fed, inAPI(throttledUpload)},
			{crash.HandedOut, inAPI(throttledUpload)},
			{crash.HandedOffered, inAPI(throttledUpload)},
		},
	},
	{
		name: "action", delay: 20 * time.Millisecond, workers: 2, concurrency: 2,
		beside: []func(context.Context, *arena){mixedLoad, mixedLoad, mixedLoad},
		points: []pointCase{
			{crash.Taken, inWorker(1)},
			{crash.Begun, inWorker(2)},
			{crash.Answered, inWorker(2)},
			{crash.Finished, inWorker(1)},
			{crash.Released, inWorker(1)},
		},
	},
	{
		name: "large results", settings: "quotas: {stored_bytes: 1GiB}\n", delay: 100 * time.Millisecond, workers: 2, concurrency: 1,
		beside: []func(context.Context, *arena){largeLoad},
		points: []pointCase{{crash.RoomReserved, inWorker(2)}},
	},
	{
		name: "interrupted action", delay: 100 * time.Millisecond, workers: 2, concurrency: 2,
		beside: []func(context.Context, *arena){safeLoad, safeLoad, mixedLoad, manyVictims},
		points: []pointCase{
			{crash.Interrupted, inWorker(0)},
			{crash.Resumed, inWorker(0)},
		},
	},
	{
		name: "group", delay: 20 * time.Millisecond, workers: 2, concurrency: 2,
		beside: []func(context.Context, *arena){groupLoad, groupLoad, groupLoad},
		points: []pointCase{
			{crash.GroupNoted, inWorker(1)},
			{crash.GroupAnswered, inWorker(1)},
			{crash.GroupDecided, inWorker(1)},
			{crash.GroupConcluding, inWorker(1)},
			{crash.GroupConcluded, inWorker(0)},
		},
	},
	{
		name: "webhook", delay: 5 * time.Millisecond, workers: 2, concurrency: 2,
		beside: []func(context.Context, *arena){hookLoad, hookLoad, hookLoad, hookLoad},
		points: []pointCase{
			{crash.OutboxMarked, inWorker(1)},
			{crash.WebhookNoted, inWorker(1)},
			{crash.WebhookEnqueued, inWorker(1)},
			{crash.WebhookTaken, inWorker(2)},
			{crash.WebhookSent, inWorker(2)},
			{crash.WebhookRecorded, inWorker(2)},
		},
	},
	{
		name: "sweeper", delay: 20 * time.Millisecond, workers: 2, concurrency: 1, prepare: holdAndExpire,
		points: []pointCase{
			{crash.Sweeping, inSweeper},
			{crash.Expired, inSweeper},
		},
	},
	{
		name: "recovery", targetSettings: ", rate: 20/s", delay: 500 * time.Millisecond, workers: 1, concurrency: 4,
		beside: []func(context.Context, *arena){mixedLoad, mixedLoad, fewVictims},
		points: []pointCase{
			{crash.Recovering, inRescuers},
			{crash.Adopting, inRescuers},
			{crash.BeforeBurial, inRescuers},
		},
	},
	{
		name: "limited owner", settings: "limits: {concurrent: 1000, when_exceeded: reject}\n",
		delay: 5 * time.Millisecond, workers: 2, concurrency: 4,
		points: []pointCase{{crash.RetryAdmitted, retrying}},
	},
	{
		name: "owner", delay: 5 * time.Millisecond, workers: 2, concurrency: 4,
		points: []pointCase{
			{crash.Cancelled, cancelling},
			{crash.Reopened, retrying},
			{crash.Retried, retrying},
			{crash.Erased, deleting},
		},
	},
	{
		name: "forgotten", delay: 5 * time.Millisecond, workers: 2, concurrency: 4,
		points: []pointCase{
			{crash.Disowned, forgetting},
			{crash.Alerted, forgettingBeats},
			{crash.Elected, resigning},
		},
	},
}

// inWorker makes a worker with one slot die repeatedly, each time with that many
// actions begun and not ended: one that has the slot, and one that has left it and
// whose answer is on its way to the store.
func inWorker(inHand int) drive {
	return func(a *arena, at crash.Point) {
		for range a.deaths {
			p := a.launch(role{name: "x-" + string(at), args: []string{"worker", "--worker-listen", "127.0.0.1:0"}, concurrency: 1, at: at, passing: a.passing(4)})
			a.awaitDeath(p, at, inHand, time.Minute)
		}
	}
}

// inAPI makes an API die during a request. The client sees only a broken connection.
func inAPI(ask func(a *arena, at crash.Point, i int) (call func(ctx context.Context, c *client.Client) error)) drive {
	return func(a *arena, at crash.Point) {
		addr := redistest.FreeAddr(a.t)
		c, err := client.New("http://"+addr, client.WithRetryFor(0))
		require.NoError(a.t, err)
		for i := range a.deaths {
			call := ask(a, at, i)
			p := a.launchAPI("x-"+string(at), addr, at)
			ctx, cancel := context.WithCancel(a.t.Context())
			called := make(chan error, 1)
			go func() { called <- whileUnavailable(ctx, func() error { return call(ctx, c) }) }()
			a.awaitDeath(p, at, 0, time.Minute)
			cancel()
			err := <-called
			if err == nil {
				require.Contains(a.t, []crash.Point{crash.Offered, crash.FannedOut}, at,
					"there is an answer although the process died before it")
			} else if problem := (*client.Problem)(nil); errors.As(err, &problem) {
				if at == crash.Readmitted && problem.Status == http.StatusBadRequest {
					continue // the client gets a refusal soon, even if the staged actions are not yet dropped
				}
				require.Fail(a.t, "there is an answer", "%s: %v", at, err)
			}
		}
	}
}

// uploadOf submits a batch with few actions or, each 25th time, with many. At the end
// its client repeats it with the same idempotency key, and there must be one batch.
func uploadOf(few, many int) func(*arena, crash.Point, int) func(context.Context, *client.Client) error {
	return func(a *arena, at crash.Point, i int) func(context.Context, *client.Client) error {
		p, opts := a.mixed(few), a.keyed()
		if i%25 == 0 {
			p = a.mixed(many)
		}
		// An upload that was cut off before its commit keeps the key busy for a minute.
		// The short form does not wait for that.
		if long || !slices.Contains(beforeCommit, at) {
			a.again(p, opts)
		}
		return func(ctx context.Context, c *client.Client) error {
			_, err := c.Submit(ctx, p.actions, opts)
			return err
		}
	}
}

// beforeCommit are the points before the batch exists.
var beforeCommit = []crash.Point{crash.KeyClaimed, crash.ChunkStaged, crash.Admitted, crash.Charged, crash.Indexed, crash.BeforeCommit}

// throttledUpload submits one batch after another, until the owner's limit has room to
// release one.
func throttledUpload(a *arena, _ crash.Point, _ int) func(context.Context, *client.Client) error {
	next := func() (*planned, client.Options) {
		p, opts := a.mixed(20), a.keyed()
		a.again(p, opts)
		return p, opts
	}
	return func(ctx context.Context, c *client.Client) error {
		for {
			p, opts := next()
			if _, err := c.Submit(ctx, p.actions, opts); err != nil {
				return err
			}
			time.Sleep(200 * time.Millisecond)
		}
	}
}

// brokenUpload submits a batch whose fault appears after some actions were staged.
func brokenUpload(a *arena, _ crash.Point, _ int) func(context.Context, *client.Client) error {
	p := a.mixed(600)
	p.actions[599].Method = "no method"
	return func(ctx context.Context, c *client.Client) error {
		_, err := c.Submit(ctx, p.actions, client.Options{})
		return err
	}
}

func mixedLoad(ctx context.Context, a *arena) {
	a.feed(ctx, func(i int) (*planned, bool) { return a.mixed(40), i%3 == 0 })
}

// largeLoad submits batches whose first answer is larger than their room.
func largeLoad(ctx context.Context, a *arena) {
	a.feed(ctx, func(int) (*planned, bool) {
		p := plan(a.tag("l"), 4, http.MethodPost)
		p.rename(0, largeMark[:len(largeMark)-1])
		return p, false
	})
}

func safeLoad(ctx context.Context, a *arena) {
	a.feed(ctx, func(int) (*planned, bool) { return plan(a.tag("s"), 40, http.MethodGet), false })
}

func groupLoad(ctx context.Context, a *arena) {
	a.feed(ctx, func(i int) (*planned, bool) { return a.grouped(10), i%3 == 0 })
}

func hookLoad(ctx context.Context, a *arena) {
	a.feed(ctx, func(int) (*planned, bool) { return a.mixed(2), true })
}

func manyVictims(ctx context.Context, a *arena) { a.victims(ctx, 16, time.Second) }

func fewVictims(ctx context.Context, a *arena) { a.victims(ctx, 8, 3*time.Second) }

// holdAndExpire keeps both workers busy and submits actions that they do not reach
// before the deadline.
func holdAndExpire(a *arena) {
	a.setSweeper("nobody", time.Hour) // until one is elected
	held := make(chan struct{})
	a.target.gate = func(*visit) <-chan struct{} { return held }
	a.afterwards(func() { close(held) })
	first := a.mixed(2)
	a.submit(first, client.Options{})
	a.follow(first, false)
	eventually(a.t, time.Minute, func() bool { return a.target.seen(first.tag) == 2 }, "the workers are not busy")
	for range sweeperPassings * a.deaths { // each passing ends one
		p := a.mixed(4)
		a.submit(p, client.Options{ExpiresIn: time.Second, WebhookURL: a.hook()})
		a.follow(p, true)
	}
	time.Sleep(time.Second)
}

// sweeperPassings is the number of the passing at which a sweeper dies at the latest.
const sweeperPassings = 3

// inSweeper makes a worker die as the sweeper. It works for another target, so that it
// does not take the task and end the action.
func inSweeper(a *arena, at crash.Point) {
	for range a.deaths {
		a.electing.Lock()
		p := a.launch(role{name: "x-" + string(at), args: []string{"worker", "--worker-listen", "127.0.0.1:0"}, concurrency: 1, target: "other", at: at, passing: a.passing(sweeperPassings)})
		a.elect(p)
		a.awaitDeath(p, at, 0, time.Minute)
		a.electing.Unlock()
	}
	if !long {
		a.afterwards(func() { a.elect(a.launchWorker("w-last", 1)) })
	}
}

// inRescuers makes workers wait for others to die, and die while they take over. One worker
// takes over for all, so there is one rescuer at a time.
func inRescuers(a *arena, at crash.Point) {
	const hands = 4
	var wg sync.WaitGroup
	for range scale(1, 10) {
		wg.Go(func() {
			for a.diedAt(at) < a.deaths {
				p := a.launch(role{name: "x-" + string(at), args: []string{"worker", "--worker-listen", "127.0.0.1:0"}, concurrency: hands, at: at, passing: a.passing(4)})
				if a.awaitDeathOr(p, func() bool { return a.diedAt(at) >= a.deaths }) {
					a.awaitDeath(p, at, hands, time.Second)
				} else {
					a.lose(hands)
				}
			}
		})
	}
	wg.Wait()
}

// awaitDeathOr waits until a process is dead or no longer needed, and reports whether
// it died at its point. It kills a process that is no longer needed.
func (a *arena) awaitDeathOr(p *process, enough func() bool) bool {
	name := p.worker()
	a.rescuing.Lock()
	defer a.rescuing.Unlock()
	for start := time.Now(); ; {
		select {
		case <-p.done:
			return true
		case <-time.After(100 * time.Millisecond):
		}
		require.NoError(a.t, a.rdb.Set(a.t.Context(), "batchd:recovery", name, 5*time.Second).Err())
		if enough() {
			p.kill()
			return p.lines("crash point") > 0
		}
		require.Less(a.t, time.Since(start), 2*time.Minute, "the crash point is not reached:\n%s", p.tail(20))
	}
}

// cancelling makes an API die while it cancels a batch.
func cancelling(a *arena, at crash.Point) {
	inAPI(func(a *arena, _ crash.Point, _ int) func(context.Context, *client.Client) error {
		p := a.mixed(200)
		a.submit(p, client.Options{WebhookURL: a.hook()})
		a.follow(p, true)
		return func(ctx context.Context, c *client.Client) error {
			_, err := c.Cancel(ctx, p.id)
			return err
		}
	})(a, at)
}

// retrying makes an API die while it retries actions that the target refused.
func retrying(a *arena, at crash.Point) {
	inAPI(func(a *arena, at crash.Point, _ int) func(context.Context, *client.Client) error {
		p := plan(a.tag("r"), 4, http.MethodPost, http.MethodGet)
		p.rename(0, ".refused")
		p.rename(1, ".refused")
		a.submit(p, client.Options{})
		a.settle(time.Minute, p)
		if at == crash.RetryAdmitted || at == crash.Reopened {
			a.afterwards(func() {
				_, err := a.client.Retry(a.t.Context(), p.id)
				require.NoError(a.t, err)
			})
		}
		a.follow(p, false)
		return func(ctx context.Context, c *client.Client) error {
			_, err := c.Retry(ctx, p.id)
			return err
		}
	})(a, at)
}

// deleting makes an API die while it deletes a batch.
func deleting(a *arena, at crash.Point) {
	inAPI(func(a *arena, _ crash.Point, _ int) func(context.Context, *client.Client) error {
		p := a.mixed(4)
		a.submit(p, client.Options{})
		a.settle(time.Minute, p)
		a.mu.Lock()
		a.erased = append(a.erased, p.id)
		a.mu.Unlock()
		a.afterwards(func() {
			_, err := a.client.Get(a.t.Context(), p.id, 0)
			problem := (*client.Problem)(nil)
			require.ErrorAs(a.t, err, &problem)
			require.Equal(a.t, http.StatusNotFound, problem.Status)
		})
		return func(ctx context.Context, c *client.Client) error { return c.Delete(ctx, p.id) }
	})(a, at)
}

// forgetting makes a worker die while it gives up an action that it holds by the ledger
// but does not have. It works for another target, so that it takes no task.
func forgetting(a *arena, at crash.Point) {
	for range a.deaths {
		p := a.launch(role{name: "x-" + string(at), args: []string{"worker", "--worker-listen", "127.0.0.1:0"}, concurrency: 1, target: "other", at: at, passing: 1})
		worker := p.worker()
		b := plan(a.tag("f"), 2, http.MethodPost, http.MethodGet)
		a.submit(b, client.Options{})
		a.settle(time.Minute, b)
		a.follow(b, false)
		began := time.Now().Add(-time.Minute).UnixMilli()
		_, err := a.rdb.Pipelined(a.t.Context(), func(pipe redis.Pipeliner) error {
			key := func(kind string) string { return "batchd:{" + b.id + "}:" + kind }
			pipe.SetRange(a.t.Context(), key("s"), 0, "rr")
			for i := range b.actions {
				index := strconv.Itoa(i)
				pipe.HSet(a.t.Context(), key("l"), index, fmt.Sprintf("forgotten%d|1|%d|%d|0|%s", i, began, began, worker))
				pipe.HDel(a.t.Context(), key("r"), index)
			}
			pipe.HSet(a.t.Context(), key("m"), "status", "running", "pending", 2, "succeeded", 0)
			pipe.HDel(a.t.Context(), key("m"), "ended")
			pipe.ZAdd(a.t.Context(), "batchd:open", redis.Z{Member: b.id})
			return nil
		})
		require.NoError(a.t, err)
		a.awaitDeath(p, at, 1, 30*time.Second)
	}
}

// forgettingBeats makes a worker die while it alerts the sweeper, because Redis has lost the
// worker's heartbeat, and so may have lost other writes. It takes no task: the batch of another
// point must end as planned.
func forgettingBeats(a *arena, at crash.Point) {
	for range a.deaths {
		p := a.launch(role{name: "x-" + string(at), args: []string{"worker", "--worker-listen", "127.0.0.1:0"}, concurrency: 1, target: "other", at: at, passing: 1})
		worker := p.worker()
		require.Eventually(a.t, func() bool { // its heartbeat has been recorded
			n, err := a.rdb.ZRem(a.t.Context(), "batchd:workers", worker).Result()
			return err == nil && n == 1
		}, time.Minute, 20*time.Millisecond)
		a.awaitDeath(p, at, 0, 30*time.Second)
	}
}

// resigning makes the sweeper resign until the worker is elected that dies as the
// sweeper.
func resigning(a *arena, at crash.Point) {
	for range a.deaths {
		p := a.launch(role{name: "x-" + string(at), args: []string{"worker", "--worker-listen", "127.0.0.1:0"}, concurrency: 1, target: "other", at: at, passing: 1})
		worker := p.worker()
		require.Eventually(a.t, func() bool {
			sweeper, err := a.rdb.Get(a.t.Context(), "batchd:sweeper").Result()
			if err == nil && sweeper != worker {
				err = a.rdb.Del(a.t.Context(), "batchd:sweeper").Err()
			}
			return err == nil && sweeper == worker
		}, time.Minute, 50*time.Millisecond)
		a.awaitDeath(p, at, 0, time.Minute)
	}
}

// whileUnavailable repeats a call until its answer is not that the store is unavailable, which it is for moments on a
// busy machine.
func whileUnavailable(ctx context.Context, call func() error) error {
	for {
		err := call()
		var problem *client.Problem
		if !errors.As(err, &problem) || problem.Status != http.StatusServiceUnavailable {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}
