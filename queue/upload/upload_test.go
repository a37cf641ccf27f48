package upload_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue/fanout"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/upload"
)

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

func TestAnAbortedUploadLeavesNothing(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		u, err := b.Open(b.Ctx, "me", "key")
		require.NoError(t, err)
		for i := range 1200 {
			require.NoError(t, u.Add(b.Ctx, queuetest.Action(i)))
		}
		require.NoError(t, u.(*upload.Upload).Settle(t.Context()))
		staged := b.AllKeys()
		delete(staged, keys.SaltKey) // of the installation
		for key, ttl := range staged {
			require.Positive(t, ttl, "staged keys expire by themselves: %s", key)
		}
		cancelled, cancel := context.WithCancel(b.Ctx)
		cancel() // the client is gone, as with a connection that was cut
		u.Abort(cancelled)
		for key := range b.AllKeys() {
			require.True(t, strings.HasPrefix(key, "batchd:key:") || key == keys.SaltKey, "left behind: %s", key)
		}
		again, err := b.Open(b.Ctx, "me", "key")
		require.NoError(t, err, "the key is free again")
		again.Abort(b.Ctx)
	})
}

func TestASmallBatchIsCommittedInOneExchange(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		commit := func(key string) string {
			t.Helper()
			u, err := b.Open(b.Ctx, "me", key)
			require.NoError(t, err)
			for i := range 3 {
				require.NoError(t, u.Add(b.Ctx, queuetest.Action(i)))
			}
			made, _, err := u.Commit(b.Ctx, queuetest.Spec())
			require.NoError(t, err)
			return made.ID
		}
		commit("before")                                            // the steps are known there
		for key, exchanges := range map[string]int{"": 1, "k": 2} { // the key is claimed before anything is read
			seen := &queuetest.Exchanges{}
			b.DB.Client.AddHook(seen)
			id := commit(key)
			ours := slices.DeleteFunc(seen.With(id), func(x string) bool { // that it is enqueued is noted at some time
				return strings.Contains(x, fanout.Steps.Progress.Hash())
			})
			require.Len(t, b.AllResults(id, 10), 3)
			if key != "" {
				claim := keys.IdempotencyKey(queuetest.Must(b.Batches.Owners.Hash(b.Ctx, "idempotency key", []byte("me"), []byte(key))))
				points, err := b.DB.Client.Get(b.Ctx, claim).Result()
				require.NoError(t, err)
				require.Equal(t, id, points)
				require.Greater(t, queuetest.Must(b.DB.Client.PTTL(b.Ctx, claim).Result()), upload.ClaimTTL, "as long as the batch is kept")
			}
			commits := seen.With(upload.Steps.Commit.Hash())
			require.Len(t, commits, 1)
			if b.DB.Cluster != nil {
				continue // servers of a cluster keep no order among them
			}
			stage, commit := strings.Index(commits[0], upload.Steps.Stage.Hash()), strings.Index(commits[0], upload.Steps.Commit.Hash())
			require.GreaterOrEqual(t, stage, 0)
			require.Greater(t, commit, stage)
			require.Len(t, ours, exchanges)
		}
	})
}

// What of a commit that was given up arrives late.
func TestACommitThatWasGivenUpIsRefused(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		limit := batch.Limit{Rate: batch.Rate{N: 10, Per: time.Hour}, Concurrent: 5}
		for _, key := range []string{"", "k"} {
			u, err := b.Open(b.Ctx, "me", key)
			require.NoError(t, err)
			require.NoError(t, u.Add(b.Ctx, queuetest.Action(0)))
			_, _, err = u.Admit(b.Ctx, 1, limit, false)
			require.NoError(t, err)
			late := *u.(*upload.Upload)
			u.(*upload.Upload).BeDoubtful()
			u.Abort(b.Ctx)
			b.Background.Wait()
			_, _, err = late.Commit(b.Ctx, queuetest.Spec())
			require.ErrorIs(t, err, batch.ErrUploadLost, "%q", key)
		}
	})
}

func TestAnUploadThatLostItsPlaceLeavesNothing(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		limit := batch.Limit{Rate: batch.Rate{N: 1000, Per: time.Hour}}
		for what, lose := range map[string]func(u *upload.Upload) error{
			"marker": func(u *upload.Upload) error { return b.DB.Client.Del(b.Ctx, u.Keys().Upload).Err() },
			"key":    func(u *upload.Upload) error { return b.DB.Client.Set(b.Ctx, u.Claim(), "another", time.Hour).Err() },
		} {
			for _, n := range []int{1, 2 * upload.ChunkActions} {
				o, err := b.Open(b.Ctx, "me", fmt.Sprint(what, n))
				require.NoError(t, err)
				u := o.(*upload.Upload)
				for i := range n {
					a := queuetest.Action(i)
					if n > 1 && i < 2 {
						a.Group = "g"
					}
					require.NoError(t, u.Add(b.Ctx, a))
				}
				_, before, err := u.Admit(b.Ctx, n, limit, false)
				require.NoError(t, err)
				require.NoError(t, lose(u))
				_, _, err = u.Commit(b.Ctx, queuetest.Spec())
				require.ErrorIs(t, err, batch.ErrUploadLost)
				u.Abort(b.Ctx)
				b.Background.Wait()
				for key := range b.AllKeys() {
					require.NotContains(t, key, u.ID(), what)
				}
				v := b.Upload(1)
				_, after, err := v.Admit(b.Ctx, 1, limit, false)
				require.NoError(t, err)
				require.Equal(t, before.Remaining+n-1, after.Remaining, "%s: what was admitted is given back", what)
				v.Abort(b.Ctx)
				b.Background.Wait()
			}
		}
	})
}

func TestARepeatedSubmissionToOneServerWritesNoEntry(t *testing.T) {
	t.Parallel()
	b := open(t, rdb.Embedded)
	submit := func() bool {
		u, err := b.Open(b.Ctx, "me", "k")
		require.NoError(t, err)
		require.NoError(t, u.Add(b.Ctx, queuetest.Action(0)))
		_, replayed, err := u.Commit(b.Ctx, queuetest.Spec())
		require.NoError(t, err)
		return replayed
	}
	require.False(t, submit())
	b.Background.Wait()
	b.DB.Client.AddHook(&queuetest.Exchanges{Fail: "zadd " + keys.OpenKey})
	b.DB.Client.AddHook(&queuetest.Exchanges{Fail: upload.Steps.List.Hash()})
	require.True(t, submit())
}

// Its client was told that it failed.
func TestABatchThatLacksAnEntryHasItOnceItIsRepeated(t *testing.T) {
	t.Parallel()
	b := open(t, queuetest.Clusters.Take(t)) // one server writes them in the step that commits
	submit := func() (*batch.Batch, bool) {
		u, err := b.Open(b.Ctx, "me", "k")
		require.NoError(t, err)
		require.NoError(t, u.Add(b.Ctx, queuetest.Action(0)))
		made, replayed, err := u.Commit(b.Ctx, queuetest.Spec())
		require.NoError(t, err)
		return made, replayed
	}
	first, _ := submit()
	b.Background.Wait()
	for _, index := range []string{keys.OpenKey, keys.OwnerKey("me")} {
		require.NoError(t, b.DB.Client.ZRem(b.Ctx, index, first.ID).Err())
	}
	again, replayed := submit()
	require.True(t, replayed)
	require.Equal(t, first.ID, again.ID)
	for _, index := range []string{keys.OpenKey, keys.OwnerKey("me")} {
		require.NoError(t, b.DB.Client.ZScore(b.Ctx, index, first.ID).Err(), index)
	}
}

func TestABatchWithoutItsEntriesIsNotAcknowledged(t *testing.T) {
	t.Parallel()
	b := open(t, queuetest.Clusters.Take(t)) // one server makes them in the step that commits
	b.Submit(3, queuetest.Spec())
	b.DB.Client.AddHook(&queuetest.Exchanges{Fail: "zadd " + keys.OpenKey})
	_, _, err := b.Upload(3).Commit(b.Ctx, queuetest.Spec())
	require.ErrorContains(t, err, "refused")
}

// As when the staging was sent again because its answer was lost, and the first of
// them is read by Redis only after the batch was committed.
func TestWhatIsStagedLateChangesNothing(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		u := b.Upload(3)
		args := u.StageArgs()
		_, _, err := u.Commit(b.Ctx, queuetest.Spec())
		require.NoError(t, err)
		before := queuetest.Must(b.DB.Client.PTTL(b.Ctx, u.Keys().Actions).Result())
		require.Greater(t, before, upload.StagedTTL)
		args = append(args, 7, "more")
		answer, err := b.DB.Run(b.Ctx, upload.Steps.Stage, u.StageKeys(), args...)
		require.NoError(t, err)
		require.Equal(t, "3", answer[0])
		require.Greater(t, queuetest.Must(b.DB.Client.PTTL(b.Ctx, u.Keys().Actions).Result()), upload.StagedTTL)
		require.Equal(t, batch.Counts{Total: 3, Pending: 3}, b.Read(u.ID()).Counts)
	})
}

func TestWhatWasAdmittedIsGivenBackWhenTheCommitIsRefused(t *testing.T) {
	t.Parallel()
	b := open(t, redistest.Start(t).URL())
	b.Submit(1, queuetest.Spec())
	u := b.Upload(5)
	limit := batch.Limit{Concurrent: 5}
	_, _, err := u.Admit(b.Ctx, 5, limit, false)
	require.NoError(t, err)
	require.NoError(t, b.DB.Client.ConfigSet(b.Ctx, "min-replicas-to-write", "1").Err()) // NOREPLICAS
	_, _, err = u.Commit(b.Ctx, queuetest.Spec())
	require.Error(t, err)
	require.NoError(t, b.DB.Client.ConfigSet(b.Ctx, "min-replicas-to-write", "0").Err())
	u.Abort(b.Ctx)
	b.Eventually("the places", func() bool {
		_, _, err := b.Upload(5).Admit(b.Ctx, 5, limit, false)
		return err == nil
	})
}

func TestABatchWhoseCommitWasNotAnsweredIsNotDropped(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		if b.DB.Cluster != nil {
			return // it is committed in steps, after which only time removes anything
		}
		b.Submit(1, queuetest.Spec())
		b.DB.Client.AddHook(&queuetest.LostReplies{Left: 1, Only: upload.Steps.Commit.Hash()})
		u := b.Upload(3)
		_, _, err := u.Commit(b.Ctx, queuetest.Spec())
		require.Error(t, err)
		u.Abort(b.Ctx)
		b.Background.Wait()
		require.Len(t, b.AllResults(u.ID(), 10), 3)
	})
}

func TestAnUploadReadsOnWhileItStages(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		b.Submit(upload.ChunkActions+1, queuetest.Spec()) // the steps are known there
		u := b.Upload(upload.ChunkActions - 1)
		held := &holding{only: upload.Steps.Stage.Hash(), release: make(chan struct{})}
		b.DB.Client.AddHook(held)
		for i := range upload.ChunkActions { // the first fills the chunk
			require.NoError(t, u.Add(b.Ctx, queuetest.Action(upload.ChunkActions-1+i)))
		}
		close(held.release)
		_, _, err := u.Commit(b.Ctx, queuetest.Spec())
		require.NoError(t, err)
		require.Len(t, b.AllResults(u.ID(), 1000), 2*upload.ChunkActions-1)
	})
}

// The client of a commit may hang up.
func TestWhatIsStagedWithACommitDoesNotDependOnTheClient(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		b.Submit(upload.ChunkActions+1, queuetest.Spec()) // the steps are known there
		u := b.Upload(upload.ChunkActions - 1)
		held := &holding{only: upload.Steps.Stage.Hash(), release: make(chan struct{})}
		b.DB.Client.AddHook(held)
		client, hangUp := context.WithCancel(b.Ctx)
		require.NoError(t, u.Add(client, queuetest.Action(upload.ChunkActions-1)))
		hangUp()
		close(held.release)
		_, _, err := u.Commit(b.Ctx, queuetest.Spec())
		require.NoError(t, err)
	})
}

func TestAChunkThatCannotBeStagedIsToldWithTheNext(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		b.Submit(upload.ChunkActions+1, queuetest.Spec()) // the steps are known there
		refused := &queuetest.Exchanges{Fail: upload.Steps.Stage.Hash()}
		b.DB.Client.AddHook(refused)
		for _, more := range []int{0, 1, upload.ChunkActions} { // found by the commit, alone and with what is left, and by the next chunk
			u := b.Upload(upload.ChunkActions)
			var err error
			for i := range more {
				if err = u.Add(b.Ctx, queuetest.Action(upload.ChunkActions+i)); err != nil {
					break
				}
			}
			if more < upload.ChunkActions {
				require.NoError(t, err)
				_, _, err = u.Commit(b.Ctx, queuetest.Spec())
			}
			require.ErrorContains(t, err, "refused")
			u.Abort(b.Ctx)
			b.Background.Wait()
			for key := range b.AllKeys() {
				require.NotContains(t, key, u.ID())
			}
		}
	})
}

func TestABrokenUploadWaitsForWhatItStagesBeforeItIsDropped(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		b.Submit(upload.ChunkActions+1, queuetest.Spec()) // the steps are known there
		held := &holding{only: upload.Steps.Stage.Hash(), release: make(chan struct{})}
		b.DB.Client.AddHook(held)
		seen := &queuetest.Exchanges{}
		b.DB.Client.AddHook(seen)
		u := b.Upload(upload.ChunkActions)
		dropped := make(chan struct{})
		go func() {
			u.Abort(b.Ctx)
			close(dropped)
		}()
		time.Sleep(20 * time.Millisecond) // time enough to drop too early
		require.Empty(t, seen.With("unlink"))
		close(held.release)
		<-dropped
		b.Background.Wait()
		for key := range b.AllKeys() {
			require.NotContains(t, key, u.ID())
		}
	})
}

// scriptsForgotten looks at each pipeline of which the server refused a step, because it does
// not have the scripts any more.
type scriptsForgotten struct{ look func() }

func (scriptsForgotten) DialHook(next redis.DialHook) redis.DialHook { return next }

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
func TestAClusterListsABatchOnlyOnceItsActionsAreStaged(t *testing.T) {
	t.Parallel()
	b := open(t, queuetest.Clusters.Take(t))
	b.Submit(3, queuetest.Spec()) // the nodes know the steps from here on
	u := b.Upload(3)
	met := false
	b.Interrupt("zadd "+keys.OpenKey, false, func() {
		met = true
		staged, err := b.Batches.Index.Staged(b.Ctx, []string{u.ID()})
		require.NoError(t, err)
		require.True(t, staged[u.ID()])
	})
	_, _, err := u.Commit(b.Ctx, queuetest.Spec())
	require.NoError(t, err)
	require.True(t, met)
}

// On one server, the step that commits writes the entries.
func TestOneServerListsABatchOnlyOnceItsActionsAreStaged(t *testing.T) {
	t.Parallel()
	b := open(t, rdb.Embedded)
	u := b.Upload(3)
	looked := 0
	b.DB.Client.AddHook(scriptsForgotten{func() {
		looked++
		staged, err := b.Batches.Index.Staged(b.Ctx, []string{u.ID()})
		require.NoError(t, err)
		for _, list := range []string{keys.OpenKey, keys.ThrottledKey} {
			if err := b.DB.Client.ZScore(b.Ctx, list, u.ID()).Err(); !staged[u.ID()] {
				require.ErrorIs(t, err, redis.Nil, list)
			}
		}
	}})
	require.NoError(t, b.DB.Client.ScriptFlush(b.Ctx).Err())
	spec := &batch.Spec{Target: "crm", ExpiresIn: time.Hour, Retention: time.Hour, Throttle: &batch.Limit{Concurrent: 1}}
	committed, _, err := u.Commit(b.Ctx, spec)
	require.NoError(t, err)
	require.Positive(t, looked, "a step was refused")
	for _, list := range []string{keys.OpenKey, keys.ThrottledKey, keys.OwnerKey("me")} {
		require.NoError(t, b.DB.Client.ZScore(b.Ctx, list, committed.ID).Err(), list)
	}
}
