package consumer

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
	"github.com/batchd/batchd/queue/upload"
)

// The turn that goes along may be that of another lane alone.
func TestWhatNoTurnTakesIsToldToWorkersElsewhere(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		if b.Tasks.Shards > 1 {
			return // no batch is taken along there
		}
		taker := newConsumer(b.consumers, ServerConfig{Targets: []Target{{Name: "crm", Slots: 1}}})
		defer b.consumers.add(taker)()
		l := taker.targets[0]
		told := queuetest.CountWakeups(b.Bundle)
		for range 60 {
			for _, q := range l.queues {
				q.maybeNonEmpty = true
			}
			b.Submit(1, queuetest.Spec())
			if n := told(); len(b.Pending(batch.Interactive)) > 0 {
				require.Positive(t, n)
			}
			for range len(l.handed()) {
				l.slots.count((<-l.handed()).queue, -1)
				l.slots.running--
			}
		}
	})
}

// As with a server that was started again and knows only some of the steps.
func TestTasksThatAreEnqueuedAfterTheirTurnAreToldToWorkersElsewhere(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	b := open(t, server.URL())
	defer b.consumers.add(newConsumer(b.consumers, ServerConfig{Targets: []Target{{Name: "crm", Slots: 4}}}))()
	b.Submit(1, queuetest.Spec())
	told := queuetest.CountWakeups(b.Bundle)
	require.NoError(t, b.DB.Client.ScriptFlush(b.Ctx).Err())
	for _, step := range []*rdb.Step{upload.Steps.Stage, upload.Steps.Commit, tasks.Steps.Poll} {
		require.NoError(t, step.Load(b.Ctx, b.DB.Client).Err())
	}
	b.Submit(1, queuetest.Spec())
	require.Len(t, b.Pending(batch.Interactive), 1)
	require.Equal(t, 1, told())

	b.DB.Client.AddHook(&queuetest.LostReplies{Left: 1, Only: tasks.Steps.Poll.Hash()})
	b.Submit(1, queuetest.Spec())
	require.Equal(t, 1, told(), "whether the turn told them is not known")
}

func TestASmallBatchIsTakenAlongWithItsCommit(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		const places = 8
		var got queuetest.Indexes
		release := make(chan struct{})
		defer close(release)
		hold := make(chan struct{})
		b.serve(Target{Slots: places}, func(index int, _ *Slot) error {
			got.Add(index)
			select {
			case <-hold:
			case <-release:
			}
			return nil
		})
		await := func(n int) {
			t.Helper()
			b.Eventually("the tasks", func() bool { return len(got.Sorted()) == n })
		}
		end := func(n int) {
			for range n {
				hold <- struct{}{}
			}
		}
		b.Submit(3, queuetest.Spec()) // the steps are known there
		await(3)
		end(3)
		exchanges := &queuetest.Exchanges{}
		b.DB.Client.AddHook(exchanges)
		// took reports whether a batch that is submitted is taken along with its commit.
		took := func(n int) (along bool) {
			t.Helper()
			b.Eventually("the end of turns", func() bool {
				q := b.consumers.queueOf(b.Tasks.QueuesOf(queuetest.Crm(batch.Interactive))[0])
				free := q.target.unreported() == 0 && q.target.pollMu.TryLock()
				if free {
					q.target.pollMu.Unlock()
				}
				return free
			})
			_ = b.Submit(n, queuetest.Spec())
			commits := exchanges.With(upload.Steps.Commit.Hash())
			return strings.Contains(commits[len(commits)-1], tasks.Steps.Poll.Hash())
		}
		told := queuetest.CountWakeups(b.Bundle)
		one := b.Tasks.Shards == 1 // servers of a cluster keep no order among them
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
		require.Len(t, got.Sorted(), 3+places+3, "the rest is taken as places come free")
		end(3)

		u := b.Upload(1)
		require.NoError(t, u.Add(b.Ctx, &batch.Action{Method: "POST", Path: "/", Body: bytes.Repeat([]byte("x"), upload.AlongBytes)}))
		_, _, err := u.Commit(b.Ctx, queuetest.Spec())
		require.NoError(t, err)
		commits := exchanges.With(upload.Steps.Commit.Hash())
		require.NotContains(t, commits[len(commits)-1], tasks.Steps.Poll.Hash(), "it would hold up the turn")
		await(3 + places + 3 + 2)
	})
}

func TestATurnGoesAlongOnlyIfItMayTakeTasksAtOnce(t *testing.T) {
	t.Parallel()
	b := open(t, rdb.Embedded)
	lines := map[string]Target{
		"free":  {Slots: 2},
		"rated": {Slots: 2, Rate: batch.Rate{N: 1, Per: time.Second}},
		"held":  {Slots: 2, Held: func() (time.Duration, <-chan struct{}) { return time.Hour, nil }},
	}
	var cfg ServerConfig
	for target, l := range lines {
		l.Name = target
		cfg.Targets = append(cfg.Targets, l)
	}
	defer b.consumers.add(newConsumer(b.consumers, cfg))()
	unhurried, cancel := b.DB.WithTimeout(b.Ctx)
	defer cancel()
	along := func(ctx context.Context, target string) *piggybackPoll {
		return b.consumers.newPiggybackPoll(ctx, b.Tasks.QueuesOf(tasks.Route{Target: target, Lane: batch.Interactive})[0])
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
	pipe := b.DB.Client.Pipeline()
	turn.Add(unhurried, pipe)
	b.DB.Send(unhurried, pipe)
	require.Zero(t, turn.Read(unhurried))
	require.NotNil(t, along(unhurried, "free"))
}
