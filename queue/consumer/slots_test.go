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

func TestAPlaceThatIsGivenUpIsTaken(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		const places = 3
		var began atomic.Int32
		end := make(chan struct{})
		b.serve(Target{Slots: places}, func(_ int, place *Slot) error {
			began.Add(1)
			place.Leave()
			place.Leave() // changes nothing
			<-end
			return nil
		})
		b.Submit(20, queuetest.Spec())
		b.Eventually("those that took the places of the first", func() bool { return began.Load() == 2*places })
		time.Sleep(50 * time.Millisecond)
		require.EqualValues(t, 2*places, began.Load(), "those that have left are bounded, too")
		close(end)
		b.Eventually("all", func() bool { return began.Load() == 20 })
	})
}

func TestATargetWithARateHasNoMoreRequestsThanPlaces(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		var began atomic.Int32
		end := make(chan struct{})
		b.serve(Target{Slots: 2, Rate: batch.Rate{N: 1000, Per: time.Second}}, func(_ int, place *Slot) error {
			if err := errors.Join(place.Approach(b.Ctx), place.Ready(b.Ctx)); err != nil {
				return err
			}
			began.Add(1)
			<-end
			place.Leave()
			place.Leave() // changes nothing
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

// ahead returns a line of two places whose tasks end so fast that two more are taken
// ahead of their places, after it has taken them.
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
	l := t.targets[0]
	l.slots.share.left.since, l.slots.share.left.last = time.Now().Add(time.Hour), 1000
	b.Eventually("the tasks", func() bool {
		l.markAllNonEmpty()
		l.poll(true)
		return l.slots.inHand == 4
	})
	require.Len(b.T, l.handed(), 2, "no more than there are places")
	require.Len(b.T, l.slots.ready, 2)
	require.Len(b.T, b.Pending(batch.Interactive), 6)
	return t, l
}

func TestWhatIsTakenAheadGetsThePlacesThatComeFree(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		taker, l := b.ahead(new(atomic.Bool))
		first := &Slot{queue: (<-taker.targets[0].handed()).queue}
		second := &Slot{queue: (<-taker.targets[0].handed()).queue}
		first.Leave()
		require.Len(t, taker.targets[0].handed(), 1, "at once")
		second.end()
		require.Len(t, taker.targets[0].handed(), 2)
		require.Equal(t, 1, l.slots.finishing)
		first.end()
		require.Zero(t, l.slots.finishing)
		require.Equal(t, 2, l.slots.inHand)
		require.Equal(t, 2, l.slots.running)
	})
}

func TestWhatIsTakenAheadIsGivenBackAtTheEnd(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		taker, _ := b.ahead(new(atomic.Bool))
		taker.stop()
		taker.giveBackRest()
		require.Len(t, b.Pending(batch.Interactive), 10)
		require.Empty(t, b.Listed(batch.Interactive, b.Inspector().ListActiveTasks))
	})
}

func TestWhatIsTakenAheadIsGivenBackWhenTheTargetIsHeld(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		var held atomic.Bool
		taker, l := b.ahead(&held)
		held.Store(true)
		k := <-taker.targets[0].handed()
		(&Slot{queue: k.queue}).end()
		require.Len(t, taker.targets[0].handed(), 1, "the one that has its place already")
		l.startOrGiveBack(time.Hour)
		require.Len(t, b.Pending(batch.Interactive), 8)
		require.Equal(t, 1, l.slots.inHand)
	})
}

func TestWhatIsTakenAheadIsGivenBackWhenTheTargetHasBecomeSlow(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		taker, l := b.ahead(new(atomic.Bool))
		taken := l.slots.ready[0].taken
		l.slots.share.left = recent{}
		taker.wg.Go(l.run) // nobody leaves his place
		b.Eventually("the tasks", func() bool { return len(b.Pending(batch.Interactive)) == 8 })
		require.GreaterOrEqual(t, time.Since(taken), readyFor)
		close(taker.closed)
		taker.wg.Wait()
		require.Equal(t, 2, l.slots.inHand)
		require.Equal(t, 2, l.slots.running)
	})
}

// As when a target is held, and let go again, during an exchange with Redis.
func TestWhatCouldNotBeSeatedIsSeatedLater(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		var held atomic.Bool
		taker, l := b.ahead(&held)
		held.Store(true)
		for range 2 {
			(&Slot{queue: (<-taker.targets[0].handed()).queue}).end()
		}
		held.Store(false)
		require.Empty(t, taker.targets[0].handed())
		l.startOrGiveBack(0)
		require.Len(t, taker.targets[0].handed(), 2)
		require.Len(t, b.Pending(batch.Interactive), 6)
	})
}

func TestPlacesThatWereReckonedWithAreNotTaken(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		_, l := b.ahead(new(atomic.Bool))
		l.slots.share.left = recent{} // since next said that there are more places
		l.slots.inHand++
		l.markAllNonEmpty()
		l.poll(true)
		require.Equal(t, 5, l.slots.inHand)
		require.False(t, slices.ContainsFunc(l.queues, func(q *taskQueue) bool { return !q.failed.IsZero() }))
		require.Len(t, b.Pending(batch.Interactive), 6)
	})
}

// A large batch's last tasks would else wait for as long as small ones come.
func TestPlacesGoToThoseThatWereTakenFirst(t *testing.T) {
	t.Parallel()
	l := withoutRedis(Target{Slots: 1})
	l.slots.running = 1
	small, large := &taskQueue{target: l}, &taskQueue{target: l, bulk: true}
	first := &task{queue: large}
	l.slots.ready = []*task{first, {queue: small}}
	(&Slot{queue: small}).end()
	require.Len(t, l.handed(), 1)
	require.Same(t, first, <-l.handed())
}
