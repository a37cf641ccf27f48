package queue

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue/rdb"
)

// sent tells which commands were sent together, and fails those that hold a text
// although they were done.
type sent struct {
	mu   sync.Mutex
	all  []string
	fail string
}

func (e *sent) note(err error, cmds ...redis.Cmder) error {
	var text strings.Builder
	for _, cmd := range cmds {
		line := fmt.Sprintln(cmd.Args()...)
		text.WriteString(line)
		if e.fail != "" && strings.Contains(line, e.fail) {
			err = errors.New("ERR refused")
			cmd.SetErr(err)
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, text.String())
	return err
}

// with returns the exchanges that hold a text.
func (e *sent) with(text string) (found []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, x := range e.all {
		if strings.Contains(x, text) {
			found = append(found, x)
		}
	}
	return found
}

func (e *sent) DialHook(next redis.DialHook) redis.DialHook { return next }

func (e *sent) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		return e.note(next(ctx, cmd), cmd)
	}
}

func (e *sent) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		return e.note(next(ctx, cmds), cmds...)
	}
}

// holding holds commands back that hold a text, until it is released.
type holding struct {
	only    string
	release chan struct{}
}

func (h *holding) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h *holding) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (h *holding) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if strings.Contains(cmd.String(), h.only) {
			<-h.release
		}
		return next(ctx, cmd)
	}
}

// upload returns an upload with n actions that are not staged yet.
func (b *bundle) upload(n int) *upload {
	b.t.Helper()
	u, err := b.Open(b.ctx, "me", "")
	require.NoError(b.t, err)
	for i := range n {
		require.NoError(b.t, u.Add(b.ctx, action(i)))
	}
	return u.(*upload)
}

func TestASmallBatchIsCommittedInOneExchange(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		commit := func(key string) string {
			t.Helper()
			u, err := b.Open(b.ctx, "me", key)
			require.NoError(t, err)
			for i := range 3 {
				require.NoError(t, u.Add(b.ctx, action(i)))
			}
			made, _, err := u.Commit(b.ctx, spec())
			require.NoError(t, err)
			return made.ID
		}
		commit("before")                                            // the steps are known there
		for key, exchanges := range map[string]int{"": 1, "k": 2} { // the key is claimed before anything is read
			seen := &sent{}
			b.db.Client.AddHook(seen)
			id := commit(key)
			ours := slices.DeleteFunc(seen.with(id), func(x string) bool { // that it is enqueued is noted at some time
				return strings.Contains(x, b.steps.progress.Hash())
			})
			require.Len(t, b.results(id, 10), 3)
			if key != "" {
				points, err := b.db.Client.Get(b.ctx, idempotencyKey("me", key)).Result()
				require.NoError(t, err)
				require.Equal(t, id, points)
				require.Greater(t, must(b.db.Client.PTTL(b.ctx, idempotencyKey("me", key)).Result()), claimTTL, "as long as the batch is kept")
			}
			commits := seen.with(b.steps.commit.Hash())
			require.Len(t, commits, 1)
			if b.shards > 1 {
				continue // servers of a cluster keep no order among them
			}
			stage, commit := strings.Index(commits[0], b.steps.stage.Hash()), strings.Index(commits[0], b.steps.commit.Hash())
			require.GreaterOrEqual(t, stage, 0)
			require.Greater(t, commit, stage)
			require.Len(t, ours, exchanges)
		}
	})
}

// If it is not known whether a batch was committed, its idempotency key tells.
func TestTheKeyOfACommitInDoubtIsFreeOrTheBatchs(t *testing.T) {
	t.Parallel()
	b := open(t, redistest.Start(t).URL())
	b.submit(1, spec()) // the steps are known there
	open := func() *upload {
		t.Helper()
		var u batch.Upload
		b.eventually("the key", func() (ok bool) {
			var err error
			u, err = b.Open(b.ctx, "me", "k")
			if err != nil {
				require.ErrorIs(t, err, batch.ErrKeyBusy)
			}
			return err == nil
		})
		require.NoError(t, u.Add(b.ctx, action(0)))
		return u.(*upload)
	}
	replicas := func(n string) {
		t.Helper()
		require.NoError(t, b.db.Client.ConfigSet(b.ctx, "min-replicas-to-write", n).Err())
	}
	u := open()
	replicas("1") // nothing is written
	_, _, err := u.Commit(b.ctx, spec())
	require.Error(t, err)
	replicas("0")
	u.Abort(b.ctx)
	b.background.Wait()

	v := open()
	require.False(t, v.replay)
	b.db.Client.AddHook(&lostReplies{left: 1, only: b.steps.commit.Hash()})
	_, _, err = v.Commit(b.ctx, spec())
	require.Error(t, err)
	v.Abort(b.ctx)
	w := open()
	require.True(t, w.replay)
	require.Equal(t, v.id, w.id)
	b.end(v.id, 0, batch.Succeeded)
}

// What of a commit that was given up arrives late.
func TestACommitThatWasGivenUpIsRefused(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		limit := batch.Limit{Rate: batch.Rate{N: 10, Per: time.Hour}, Concurrent: 5}
		for _, key := range []string{"", "k"} {
			u, err := b.Open(b.ctx, "me", key)
			require.NoError(t, err)
			require.NoError(t, u.Add(b.ctx, action(0)))
			_, _, err = u.Admit(b.ctx, 1, limit, false)
			require.NoError(t, err)
			late := *u.(*upload)
			u.(*upload).doubtful = true
			u.Abort(b.ctx)
			b.background.Wait()
			_, _, err = late.Commit(b.ctx, spec())
			require.ErrorIs(t, err, batch.ErrUploadLost, "%q", key)
		}
	})
}

func TestAnUploadThatLostItsPlaceLeavesNothing(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		limit := batch.Limit{Rate: batch.Rate{N: 1000, Per: time.Hour}}
		for what, lose := range map[string]func(u *upload) error{
			"marker": func(u *upload) error { return b.db.Client.Del(b.ctx, u.keys.upload).Err() },
			"key":    func(u *upload) error { return b.db.Client.Set(b.ctx, u.claim, "another", time.Hour).Err() },
		} {
			for _, n := range []int{1, 2 * chunkActions} {
				o, err := b.Open(b.ctx, "me", fmt.Sprint(what, n))
				require.NoError(t, err)
				u := o.(*upload)
				for i := range n {
					a := action(i)
					if n > 1 && i < 2 {
						a.Group = "g"
					}
					require.NoError(t, u.Add(b.ctx, a))
				}
				_, before, err := u.Admit(b.ctx, n, limit, false)
				require.NoError(t, err)
				require.NoError(t, lose(u))
				_, _, err = u.Commit(b.ctx, spec())
				require.ErrorIs(t, err, batch.ErrUploadLost)
				u.Abort(b.ctx)
				b.background.Wait()
				for key := range b.allKeys() {
					require.NotContains(t, key, u.id, what)
				}
				v := b.upload(1)
				_, after, err := v.Admit(b.ctx, 1, limit, false)
				require.NoError(t, err)
				require.Equal(t, before.Remaining+n-1, after.Remaining, "%s: what was admitted is given back", what)
				v.Abort(b.ctx)
				b.background.Wait()
			}
		}
	})
}

// Its client was told that it failed.
func TestABatchThatLacksAnEntryHasItOnceItIsRepeated(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		submit := func() (*batch.Batch, bool) {
			u, err := b.Open(b.ctx, "me", "k")
			require.NoError(t, err)
			require.NoError(t, u.Add(b.ctx, action(0)))
			made, replayed, err := u.Commit(b.ctx, spec())
			require.NoError(t, err)
			return made, replayed
		}
		first, _ := submit()
		b.background.Wait()
		for _, index := range []string{openKey, ownerKey("me")} {
			require.NoError(t, b.db.Client.ZRem(b.ctx, index, first.ID).Err())
		}
		again, replayed := submit()
		require.True(t, replayed)
		require.Equal(t, first.ID, again.ID)
		for _, index := range []string{openKey, ownerKey("me")} {
			require.NoError(t, b.db.Client.ZScore(b.ctx, index, first.ID).Err(), index)
		}
	})
}

// words returns what says how often workers elsewhere were told of tasks since it was
// called last.
func (b *bundle) words() (told func() int) {
	b.t.Helper()
	words := b.db.Client.Subscribe(b.ctx, workChannel)
	b.t.Cleanup(func() { _ = words.Close() })
	_, err := words.Receive(b.ctx) // that it is subscribed
	require.NoError(b.t, err)
	return func() (n int) {
		b.t.Helper()
		mark := rand.Text()
		require.NoError(b.t, b.db.Client.Publish(b.ctx, workChannel, mark).Err())
		for {
			m, err := words.ReceiveMessage(b.ctx)
			require.NoError(b.t, err)
			switch {
			case m.Payload == mark:
				return n
			case strings.HasPrefix(m.Payload, b.db.Name):
				n++
			}
		}
	}
}

// The turn that goes along may be that of another lane alone.
func TestWhatNoTurnTakesIsToldToWorkersElsewhere(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		if b.shards > 1 {
			return // no batch is taken along there
		}
		taker := newTaker(b.Store, ServerConfig{Lines: []Line{{Target: "crm", Places: 1}}})
		defer b.addTaker(taker)()
		l := taker.lines[0]
		told := b.words()
		for range 60 {
			for _, q := range l.lanes {
				q.filled = true
			}
			b.submit(1, spec())
			if n := told(); len(b.pending(batch.Interactive)) > 0 {
				require.Positive(t, n)
			}
			for range len(l.out) {
				l.count((<-l.out).lane, -1)
				l.seated--
			}
		}
	})
}

// As with a server that was started again and knows only some of the steps.
func TestTasksThatAreEnqueuedAfterTheirTurnAreToldToWorkersElsewhere(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	b := open(t, server.URL())
	defer b.addTaker(newTaker(b.Store, ServerConfig{Lines: []Line{{Target: "crm", Places: 4}}}))()
	b.submit(1, spec())
	told := b.words()
	require.NoError(t, b.db.Client.ScriptFlush(b.ctx).Err())
	for _, step := range []*rdb.Step{b.steps.stage, b.steps.commit, pollStep} {
		require.NoError(t, step.Load(b.ctx, b.db.Client).Err())
	}
	b.submit(1, spec())
	require.Len(t, b.pending(batch.Interactive), 1)
	require.Equal(t, 1, told())

	b.db.Client.AddHook(&lostReplies{left: 1, only: pollStep.Hash()})
	b.submit(1, spec())
	require.Equal(t, 1, told(), "whether the turn told them is not known")
}

func TestASmallBatchIsTakenAlongWithItsCommit(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		const places = 8
		var got seen
		release := make(chan struct{})
		defer close(release)
		hold := make(chan struct{})
		b.serve(Line{Places: places}, func(index int, _ *Place) error {
			got.add(index)
			select {
			case <-hold:
			case <-release:
			}
			return nil
		})
		await := func(n int) {
			t.Helper()
			b.eventually("the tasks", func() bool { return len(got.sorted()) == n })
		}
		end := func(n int) {
			for range n {
				hold <- struct{}{}
			}
		}
		b.submit(3, spec()) // the steps are known there
		await(3)
		end(3)
		exchanges := &sent{}
		b.db.Client.AddHook(exchanges)
		// took reports whether a batch that is submitted is taken along with its commit.
		took := func(n int) (along bool) {
			t.Helper()
			b.eventually("the end of turns", func() bool {
				q := b.laneOf(b.queuesOf(crm(batch.Interactive))[0])
				free := q.line.untold() == 0 && q.turning.TryLock()
				if free {
					q.turning.Unlock()
				}
				return free
			})
			_ = b.submit(n, spec())
			commits := exchanges.with(b.steps.commit.Hash())
			return strings.Contains(commits[len(commits)-1], pollStep.Hash())
		}
		told := b.words()
		one := b.shards == 1 // servers of a cluster keep no order among them
		require.Equal(t, one, took(3))
		if one {
			require.Zero(t, told(), "there are none for others")
		}
		await(6)
		require.Equal(t, one, took(places-3+2))
		if one {
			require.Equal(t, 1, told())
		}
		await(3 + places)
		require.False(t, took(1), "no place is free")
		if one {
			require.Equal(t, 1, told())
		}
		end(places)
		await(3 + places + 3)
		require.Len(t, got.sorted(), 3+places+3, "the rest is taken as places come free")
		end(3)

		u := b.upload(1)
		require.NoError(t, u.Add(b.ctx, &batch.Action{Method: "POST", Path: "/", Body: bytes.Repeat([]byte("x"), alongBytes)}))
		_, _, err := u.Commit(b.ctx, spec())
		require.NoError(t, err)
		commits := exchanges.with(b.steps.commit.Hash())
		require.NotContains(t, commits[len(commits)-1], pollStep.Hash(), "it would hold up the turn")
		await(3 + places + 3 + 2)
	})
}

func TestATurnGoesAlongOnlyIfItMayTakeTasksAtOnce(t *testing.T) {
	t.Parallel()
	b := open(t, rdb.Embedded)
	lines := map[string]Line{
		"free":  {Places: 2},
		"rated": {Places: 2, Rate: batch.Rate{N: 1, Per: time.Second}},
		"held":  {Places: 2, Held: func() (time.Duration, <-chan struct{}) { return time.Hour, nil }},
	}
	var cfg ServerConfig
	for target, l := range lines {
		l.Target = target
		cfg.Lines = append(cfg.Lines, l)
	}
	defer b.addTaker(newTaker(b.Store, cfg))()
	unhurried, cancel := b.db.WithTimeout(b.ctx)
	defer cancel()
	along := func(ctx context.Context, target string) *along {
		return b.turnAlong(ctx, b.queuesOf(route{target, batch.Interactive})[0])
	}
	require.Nil(t, along(unhurried, "rated"))
	require.Nil(t, along(unhurried, "held"))
	require.Nil(t, along(unhurried, "unknown"))
	hasty, cancelHasty := context.WithTimeout(unhurried, rdb.DefaultTimeout/4)
	defer cancelHasty()
	require.Nil(t, along(hasty, "free"), "its answer may not be waited for")
	turn := along(unhurried, "free")
	require.NotNil(t, turn)
	require.Nil(t, along(unhurried, "free"), "one is under way")
	pipe := b.db.Client.Pipeline()
	turn.add(unhurried, pipe)
	b.db.Send(unhurried, pipe)
	require.Zero(t, turn.took(unhurried))
	require.NotNil(t, along(unhurried, "free"))
}

func TestABatchWithoutItsEntriesIsNotAcknowledged(t *testing.T) {
	t.Parallel()
	b := open(t, clusters.take(t)) // one server makes them in the step that commits
	b.submit(3, spec())
	b.db.Client.AddHook(&sent{fail: "zadd " + openKey})
	_, _, err := b.upload(3).Commit(b.ctx, spec())
	require.ErrorContains(t, err, "refused")
}

// As when the staging was sent again because its answer was lost, and the first of
// them is read by Redis only after the batch was committed.
func TestWhatIsStagedLateChangesNothing(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		u := b.upload(3)
		args := u.stageArgs()
		_, _, err := u.Commit(b.ctx, spec())
		require.NoError(t, err)
		before := must(b.db.Client.PTTL(b.ctx, u.keys.actions).Result())
		require.Greater(t, before, stagedTTL)
		args = append(args, 7, "more")
		answer, err := b.db.Run(b.ctx, b.steps.stage, u.stageKeys(), args...)
		require.NoError(t, err)
		require.Equal(t, "3", answer[0])
		require.Greater(t, must(b.db.Client.PTTL(b.ctx, u.keys.actions).Result()), stagedTTL)
		require.Equal(t, batch.Counts{Total: 3, Pending: 3}, b.get(u.id).Counts)
	})
}

func TestWhatWasAdmittedIsGivenBackWhenTheCommitIsRefused(t *testing.T) {
	t.Parallel()
	b := open(t, redistest.Start(t).URL())
	b.submit(1, spec())
	u := b.upload(5)
	limit := batch.Limit{Concurrent: 5}
	_, _, err := u.Admit(b.ctx, 5, limit, false)
	require.NoError(t, err)
	require.NoError(t, b.db.Client.ConfigSet(b.ctx, "min-replicas-to-write", "1").Err()) // NOREPLICAS
	_, _, err = u.Commit(b.ctx, spec())
	require.Error(t, err)
	require.NoError(t, b.db.Client.ConfigSet(b.ctx, "min-replicas-to-write", "0").Err())
	u.Abort(b.ctx)
	b.eventually("the places", func() bool {
		_, _, err := b.upload(5).Admit(b.ctx, 5, limit, false)
		return err == nil
	})
}

func TestABatchWhoseCommitWasNotAnsweredIsNotDropped(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		if b.shards > 1 {
			return // it is committed in steps, after which only time removes anything
		}
		b.submit(1, spec())
		b.db.Client.AddHook(&lostReplies{left: 1, only: b.steps.commit.Hash()})
		u := b.upload(3)
		_, _, err := u.Commit(b.ctx, spec())
		require.Error(t, err)
		u.Abort(b.ctx)
		b.background.Wait()
		require.Len(t, b.results(u.id, 10), 3)
	})
}

func TestAnUploadReadsOnWhileItStages(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		b.submit(chunkActions+1, spec()) // the steps are known there
		u := b.upload(chunkActions - 1)
		held := &holding{only: b.steps.stage.Hash(), release: make(chan struct{})}
		b.db.Client.AddHook(held)
		for i := range chunkActions { // the first fills the chunk
			require.NoError(t, u.Add(b.ctx, action(chunkActions-1+i)))
		}
		close(held.release)
		_, _, err := u.Commit(b.ctx, spec())
		require.NoError(t, err)
		require.Len(t, b.results(u.id, 1000), 2*chunkActions-1)
	})
}

// The client of a commit may hang up.
func TestWhatIsStagedWithACommitDoesNotDependOnTheClient(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		b.submit(chunkActions+1, spec()) // the steps are known there
		u := b.upload(chunkActions - 1)
		held := &holding{only: b.steps.stage.Hash(), release: make(chan struct{})}
		b.db.Client.AddHook(held)
		client, hangUp := context.WithCancel(b.ctx)
		require.NoError(t, u.Add(client, action(chunkActions-1)))
		hangUp()
		close(held.release)
		_, _, err := u.Commit(b.ctx, spec())
		require.NoError(t, err)
	})
}

func TestAChunkThatCannotBeStagedIsToldWithTheNext(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		b.submit(chunkActions+1, spec()) // the steps are known there
		refused := &sent{fail: b.steps.stage.Hash()}
		b.db.Client.AddHook(refused)
		for _, more := range []int{0, 1, chunkActions} { // found by the commit, alone and with what is left, and by the next chunk
			u := b.upload(chunkActions)
			var err error
			for i := range more {
				if err = u.Add(b.ctx, action(chunkActions+i)); err != nil {
					break
				}
			}
			if more < chunkActions {
				require.NoError(t, err)
				_, _, err = u.Commit(b.ctx, spec())
			}
			require.ErrorContains(t, err, "refused")
			u.Abort(b.ctx)
			b.background.Wait()
			for key := range b.allKeys() {
				require.NotContains(t, key, u.id)
			}
		}
	})
}

func TestABrokenUploadWaitsForWhatItStagesBeforeItIsDropped(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		b.submit(chunkActions+1, spec()) // the steps are known there
		held := &holding{only: b.steps.stage.Hash(), release: make(chan struct{})}
		b.db.Client.AddHook(held)
		seen := &sent{}
		b.db.Client.AddHook(seen)
		u := b.upload(chunkActions)
		dropped := make(chan struct{})
		go func() {
			u.Abort(b.ctx)
			close(dropped)
		}()
		time.Sleep(20 * time.Millisecond) // time enough to drop too early
		require.Empty(t, seen.with("unlink"))
		close(held.release)
		<-dropped
		b.background.Wait()
		for key := range b.allKeys() {
			require.NotContains(t, key, u.id)
		}
	})
}

// scriptsForgotten looks at each pipeline of which the server refused a step, because it does
// not have the scripts any more.
type scriptsForgotten struct{ look func() }

func (scriptsForgotten) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (scriptsForgotten) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (h scriptsForgotten) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		for _, cmd := range cmds {
			if redis.HasErrorPrefix(cmd.Err(), "NOSCRIPT") {
				h.look()
				break
			}
		}
		return err
	}
}

// A process that met an entry before the actions are staged would take the upload for one
// that came to nothing, and could remove the entry after the batch began to exist.
func TestABatchIsListedOnlyOnceItsActionsAreStaged(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		u := b.upload(3)
		looked := 0
		b.db.Client.AddHook(scriptsForgotten{func() {
			looked++
			staged, err := b.staged(b.ctx, []string{u.id})
			require.NoError(t, err)
			for _, list := range []string{openKey, throttledKey} {
				if err := b.db.Client.ZScore(b.ctx, list, u.id).Err(); !staged[u.id] {
					require.ErrorIs(t, err, redis.Nil, list)
				}
			}
		}})
		require.NoError(t, b.db.Client.ScriptFlush(b.ctx).Err()) // of one node in a cluster, which stages without a pipeline
		spec := &batch.Spec{Target: "crm", ExpiresIn: time.Hour, Retention: time.Hour, Throttle: &batch.Limit{Concurrent: 1}}
		committed, _, err := u.Commit(b.ctx, spec)
		require.NoError(t, err)
		if b.shards == 1 {
			require.Positive(t, looked, "a step was refused")
		}
		for _, list := range []string{openKey, throttledKey, ownerKey("me")} {
			require.NoError(t, b.db.Client.ZScore(b.ctx, list, committed.ID).Err(), list)
		}
	})
}
