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

// The piggyback poll may be of other queues only.
func TestTasksThatNoPollTakesWakeOtherWorkers(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		if b.DB.Cluster != nil {
			return // no batch is taken in the exchange of its commit there
		}
		c := newConsumer(b.consumers, ServerConfig{Targets: []Target{{Name: "crm", Slots: 1}}})
		defer b.consumers.add(c)()
		target := c.targets[0]
		wakeups := queuetest.CountWakeups(b.Bundle)
		for range 60 {
			for _, q := range target.queues {
				q.maybeNonEmpty = true
			}
			b.Submit(1, queuetest.Spec())
			if n := wakeups(); len(b.Pending(batch.Interactive)) > 0 {
				require.Positive(t, n)
			}
			for range len(target.handed()) {
				target.slots.count((<-target.handed()).queue, -1)
				target.slots.running--
			}
		}
	})
}

// As with a Redis server that was started again and knows only some of the steps.
func TestTasksThatAreEnqueuedAfterTheirPollWakeOtherWorkers(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	b := open(t, server.URL())
	defer b.consumers.add(newConsumer(b.consumers, ServerConfig{Targets: []Target{{Name: "crm", Slots: 4}}}))()
	b.Submit(1, queuetest.Spec())
	wakeups := queuetest.CountWakeups(b.Bundle)
	require.NoError(t, b.DB.Client.ScriptFlush(b.Ctx).Err())
	for _, step := range []*rdb.Step{upload.Steps.Stage, upload.Steps.Commit, tasks.Steps.Poll} {
		require.NoError(t, step.Load(b.Ctx, b.DB.Client).Err())
	}
	b.Submit(1, queuetest.Spec())
	require.Len(t, b.Pending(batch.Interactive), 1)
	require.Equal(t, 1, wakeups())

	b.DB.Client.AddHook(&queuetest.LostReplies{Left: 1, Only: tasks.Steps.Poll.Hash()})
	b.Submit(1, queuetest.Spec())
	require.Equal(t, 1, wakeups(), "whether the poll woke them is not known")
}

func TestASmallBatchIsTakenInTheExchangeOfItsCommit(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		const slots = 8
		var got queuetest.Indexes
		release := make(chan struct{})
		defer close(release)
		hold := make(chan struct{})
		b.serve(Target{Slots: slots}, func(index int, _ *Slot) error {
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
		// took reports whether a batch that is submitted is taken in the exchange of its commit.
		took := func(n int) bool {
			t.Helper()
			b.Eventually("the end of polls", func() bool {
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
		wakeups := queuetest.CountWakeups(b.Bundle)
		one := b.DB.Cluster == nil // servers of a cluster keep no order among them
		require.Equal(t, one, took(3))
		if one {
			require.Zero(t, wakeups(), "no tasks are left for others")
		}
		await(6)
		require.Equal(t, one, took(slots-3+2))
		if one {
			require.Equal(t, 1, wakeups())
		}
		await(3 + slots)
		require.False(t, took(1), "no slot is free")
		if one {
			require.Equal(t, 1, wakeups())
		}
		end(slots)
		await(3 + slots + 3)
		require.Len(t, got.Sorted(), 3+slots+3, "the rest is taken as slots become free")
		end(3)

		u := b.Upload(1)
		large := bytes.Repeat([]byte("x"), 64<<10) // with it, the batch is larger than one that shares its exchange with a poll
		require.NoError(t, u.Add(b.Ctx, &batch.Action{Method: "POST", Path: "/", Body: large}))
		_, _, err := u.Commit(b.Ctx, queuetest.Spec())
		require.NoError(t, err)
		commits := exchanges.With(upload.Steps.Commit.Hash())
		require.NotContains(t, commits[len(commits)-1], tasks.Steps.Poll.Hash(), "it would delay the poll")
		await(3 + slots + 3 + 2)
	})
}

func TestAPollPiggybacksOnlyIfItMayTakeTasksAtOnce(t *testing.T) {
	t.Parallel()
	b := open(t, rdb.Embedded)
	targets := map[string]Target{
		"free":  {Slots: 2},
		"rated": {Slots: 2, Rate: batch.Rate{N: 1, Per: time.Second}},
		"held":  {Slots: 2, Held: func() (time.Duration, <-chan struct{}) { return time.Hour, nil }},
	}
	var cfg ServerConfig
	for name, target := range targets {
		target.Name = name
		cfg.Targets = append(cfg.Targets, target)
	}
	defer b.consumers.add(newConsumer(b.consumers, cfg))()
	unhurried, cancel := b.DB.WithTimeout(b.Ctx)
	defer cancel()
	poll := func(ctx context.Context, target string) *piggybackPoll {
		return b.consumers.newPiggybackPoll(ctx, b.Tasks.QueuesOf(tasks.Route{Target: target, Lane: batch.Interactive})[0])
	}
	require.Nil(t, poll(unhurried, "rated"))
	require.Nil(t, poll(unhurried, "held"))
	require.Nil(t, poll(unhurried, "unknown"))
	hasty, cancelHasty := context.WithTimeout(unhurried, rdb.DefaultTimeout/4)
	defer cancelHasty()
	require.Nil(t, poll(hasty, "free"), "the caller may not wait for the reply")
	first := poll(unhurried, "free")
	require.NotNil(t, first)
	require.Nil(t, poll(unhurried, "free"), "one is under way")
	pipe := b.DB.Client.Pipeline()
	first.Add(unhurried, pipe)
	b.DB.Send(unhurried, pipe)
	require.Zero(t, first.Read(unhurried))
	require.NotNil(t, poll(unhurried, "free"))
}
