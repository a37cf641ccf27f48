package consumer

import (
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/queuetest"
)

func TestASlotThatATaskLeavesIsUsedAgain(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		const slots = 3
		var began atomic.Int32
		end := make(chan struct{})
		b.serve(Target{Slots: slots}, func(_ int, slot *Slot) error {
			began.Add(1)
			slot.Leave()
			slot.Leave() // changes nothing
			<-end
			return nil
		})
		b.Submit(20, queuetest.Spec())
		b.Eventually("those that got the slots of the first", func() bool { return began.Load() == 2*slots })
		time.Sleep(50 * time.Millisecond)
		require.EqualValues(t, 2*slots, began.Load(), "tasks that left their slots are bounded, too")
		close(end)
		b.Eventually("all", func() bool { return began.Load() == 20 })
	})
}

func TestATargetWithARateHasNoMoreRequestsThanSlots(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		var began atomic.Int32
		end := make(chan struct{})
		b.serve(Target{Slots: 2, Rate: batch.Rate{N: 1000, Per: time.Second}}, func(_ int, slot *Slot) error {
			if err := errors.Join(slot.Approach(b.Ctx), slot.Ready(b.Ctx)); err != nil {
				return err
			}
			began.Add(1)
			<-end
			slot.Leave()
			slot.Leave() // changes nothing
			return nil
		})
		b.Submit(5, queuetest.Spec())
		b.Eventually("the first", func() bool { return began.Load() == 2 })
		time.Sleep(50 * time.Millisecond)
		require.EqualValues(t, 2, began.Load())
		close(end)
		b.Eventually("all", func() bool { return began.Load() == 5 })
	})
}

// ahead returns the consumer of a target of two slots whose tasks end so fast that it has prefetched two
// more.
func (b *bundle) ahead(held *atomic.Bool) (*consumer, *targetConsumer) {
	b.T.Helper()
	b.Submit(10, queuetest.Spec())
	hold := func() (time.Duration, <-chan struct{}) {
		if held.Load() {
			return time.Hour, nil
		}
		return 0, nil
	}
	t := newConsumer(b.consumers, ServerConfig{Targets: []Target{{Name: "crm", Slots: 2, Held: hold}}})
	t.unlisten, t.remove = func() {}, func() {}
	target := t.targets[0]
	target.slots.share.left.since, target.slots.share.left.last = time.Now().Add(time.Hour), 1000
	b.Eventually("the tasks", func() bool {
		target.markAllNonEmpty()
		target.poll(true)
		return target.slots.inHand == 4
	})
	require.Len(b.T, target.handed(), 2, "no more than there are slots")
	require.Len(b.T, target.slots.ready, 2)
	require.Len(b.T, b.Pending(batch.Interactive), 6)
	return t, target
}

func TestPrefetchedTasksGetTheSlotsThatBecomeFree(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		c, target := b.ahead(new(atomic.Bool))
		first := &Slot{queue: (<-c.targets[0].handed()).queue}
		second := &Slot{queue: (<-c.targets[0].handed()).queue}
		first.Leave()
		require.Len(t, c.targets[0].handed(), 1, "at once")
		second.end()
		require.Len(t, c.targets[0].handed(), 2)
		require.Equal(t, 1, target.slots.finishing)
		first.end()
		require.Zero(t, target.slots.finishing)
		require.Equal(t, 2, target.slots.inHand)
		require.Equal(t, 2, target.slots.running)
	})
}

func TestPrefetchedTasksAreGivenBackWhenTheServerStops(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		c, _ := b.ahead(new(atomic.Bool))
		c.stop()
		c.giveBackRest()
		require.Len(t, b.Pending(batch.Interactive), 10)
		require.Empty(t, b.Listed(batch.Interactive, b.Inspector().ListActiveTasks))
	})
}

func TestPrefetchedTasksAreGivenBackWhenTheTargetIsOnHold(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		var held atomic.Bool
		c, target := b.ahead(&held)
		held.Store(true)
		k := <-c.targets[0].handed()
		(&Slot{queue: k.queue}).end()
		require.Len(t, c.targets[0].handed(), 1, "the one that has its slot already")
		target.startOrGiveBack(time.Hour)
		require.Len(t, b.Pending(batch.Interactive), 8)
		require.Equal(t, 1, target.slots.inHand)
	})
}

func TestPrefetchedTasksAreGivenBackWhenTheTargetHasBecomeSlow(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		c, target := b.ahead(new(atomic.Bool))
		taken := target.slots.ready[0].taken
		target.slots.share.left = recent{}
		c.wg.Go(target.run) // no task leaves its slot
		b.Eventually("the tasks", func() bool { return len(b.Pending(batch.Interactive)) == 8 })
		require.GreaterOrEqual(t, time.Since(taken), readyFor)
		close(c.closed)
		c.wg.Wait()
		require.Equal(t, 2, target.slots.inHand)
		require.Equal(t, 2, target.slots.running)
	})
}

// As when a target is put on hold, and released again, during an exchange with Redis.
func TestTasksThatCouldNotStartStartLater(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		var held atomic.Bool
		c, target := b.ahead(&held)
		held.Store(true)
		for range 2 {
			(&Slot{queue: (<-c.targets[0].handed()).queue}).end()
		}
		held.Store(false)
		require.Empty(t, c.targets[0].handed())
		target.startOrGiveBack(0)
		require.Len(t, c.targets[0].handed(), 2)
		require.Len(t, b.Pending(batch.Interactive), 6)
	})
}

func TestAPollTakesNoMoreThanTheSlotsThatAreFreeNow(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		_, target := b.ahead(new(atomic.Bool))
		target.slots.share.left = recent{} // since next saw more slots
		target.slots.inHand++
		target.markAllNonEmpty()
		target.poll(true)
		require.Equal(t, 5, target.slots.inHand)
		require.False(t, slices.ContainsFunc(target.queues, func(q *taskQueue) bool { return !q.failed.IsZero() }))
		require.Len(t, b.Pending(batch.Interactive), 6)
	})
}

// Otherwise a large batch's last tasks would wait as long as small batches come.
func TestSlotsGoToTheTasksThatWereTakenFirst(t *testing.T) {
	t.Parallel()
	target := withoutRedis(Target{Slots: 1})
	target.slots.running = 1
	small, large := &taskQueue{target: target}, &taskQueue{target: target, bulk: true}
	first := &task{queue: large}
	target.slots.ready = []*task{first, {queue: small}}
	(&Slot{queue: small}).end()
	require.Len(t, target.handed(), 1)
	require.Same(t, first, <-target.handed())
}
