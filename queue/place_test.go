package queue

import (
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

func TestAPlaceThatIsGivenUpIsTaken(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		const places = 3
		var began atomic.Int32
		end := make(chan struct{})
		b.serve(Line{Places: places}, func(_ int, place *Place) error {
			began.Add(1)
			place.Leave()
			place.Leave() // changes nothing
			<-end
			return nil
		})
		b.submit(20, spec())
		b.eventually("those that took the places of the first", func() bool { return began.Load() == 2*places })
		time.Sleep(50 * time.Millisecond)
		require.EqualValues(t, 2*places, began.Load(), "those that have left are bounded, too")
		close(end)
		b.eventually("all", func() bool { return began.Load() == 20 })
	})
}

func TestATargetWithARateHasNoMoreRequestsThanPlaces(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		var began atomic.Int32
		end := make(chan struct{})
		b.serve(Line{Places: 2, Rate: batch.Rate{N: 1000, Per: time.Second}}, func(_ int, place *Place) error {
			if err := errors.Join(place.Approach(b.ctx), place.Ready(b.ctx)); err != nil {
				return err
			}
			began.Add(1)
			<-end
			place.Leave()
			place.Leave() // changes nothing
			return nil
		})
		b.submit(5, spec())
		b.eventually("the first", func() bool { return began.Load() == 2 })
		time.Sleep(50 * time.Millisecond)
		require.EqualValues(t, 2, began.Load())
		close(end)
		b.eventually("all", func() bool { return began.Load() == 5 })
	})
}

// ahead returns a line of two places whose tasks end so fast that two more are taken
// ahead of their places, after it has taken them.
func (b *bundle) ahead(held *atomic.Bool) (*taker, *line) {
	b.t.Helper()
	b.submit(10, spec())
	hold := func() (time.Duration, <-chan struct{}) {
		if held.Load() {
			return time.Hour, nil
		}
		return 0, nil
	}
	t := newTaker(b.Store, ServerConfig{Lines: []Line{{Target: "crm", Places: 2, Held: hold}}})
	t.silent, t.remove = func() {}, func() {}
	l := t.lines[0]
	l.left.since, l.left.last = time.Now().Add(time.Hour), 1000
	b.eventually("the tasks", func() bool {
		l.markAll()
		l.turn(true)
		return l.inHand == 4
	})
	require.Len(b.t, l.out, 2, "no more than there are places")
	require.Len(b.t, l.ready, 2)
	require.Len(b.t, b.pending(batch.Interactive), 6)
	return t, l
}

func TestWhatIsTakenAheadGetsThePlacesThatComeFree(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		taker, l := b.ahead(new(atomic.Bool))
		first := &Place{lane: (<-taker.lines[0].out).lane}
		second := &Place{lane: (<-taker.lines[0].out).lane}
		first.Leave()
		require.Len(t, taker.lines[0].out, 1, "at once")
		second.end()
		require.Len(t, taker.lines[0].out, 2)
		require.Equal(t, 1, l.leaving)
		first.end()
		require.Zero(t, l.leaving)
		require.Equal(t, 2, l.inHand)
		require.Equal(t, 2, l.seated)
	})
}

func TestWhatIsTakenAheadIsGivenBackAtTheEnd(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		taker, _ := b.ahead(new(atomic.Bool))
		taker.stop()
		taker.giveBackRest()
		require.Len(t, b.pending(batch.Interactive), 10)
		require.Empty(t, b.listed(batch.Interactive, b.inspector().ListActiveTasks))
	})
}

func TestWhatIsTakenAheadIsGivenBackWhenTheTargetIsHeld(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		var held atomic.Bool
		taker, l := b.ahead(&held)
		held.Store(true)
		k := <-taker.lines[0].out
		(&Place{lane: k.lane}).end()
		require.Len(t, taker.lines[0].out, 1, "the one that has its place already")
		l.seatOrGiveBack(time.Hour)
		require.Len(t, b.pending(batch.Interactive), 8)
		require.Equal(t, 1, l.inHand)
	})
}

func TestWhatIsTakenAheadIsGivenBackWhenTheTargetHasBecomeSlow(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		taker, l := b.ahead(new(atomic.Bool))
		taken := l.ready[0].taken
		l.left = recent{}
		taker.wg.Go(l.run) // nobody leaves his place
		b.eventually("the tasks", func() bool { return len(b.pending(batch.Interactive)) == 8 })
		require.GreaterOrEqual(t, time.Since(taken), readyFor)
		close(taker.closed)
		taker.wg.Wait()
		require.Equal(t, 2, l.inHand)
		require.Equal(t, 2, l.seated)
	})
}

// As when a target is held, and let go again, during an exchange with Redis.
func TestWhatCouldNotBeSeatedIsSeatedLater(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		var held atomic.Bool
		taker, l := b.ahead(&held)
		held.Store(true)
		for range 2 {
			(&Place{lane: (<-taker.lines[0].out).lane}).end()
		}
		held.Store(false)
		require.Empty(t, taker.lines[0].out)
		l.seatOrGiveBack(0)
		require.Len(t, taker.lines[0].out, 2)
		require.Len(t, b.pending(batch.Interactive), 6)
	})
}

func TestPlacesThatWereReckonedWithAreNotTaken(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		_, l := b.ahead(new(atomic.Bool))
		l.left = recent{} // since next said that there are more places
		l.inHand++
		l.markAll()
		l.turn(true)
		require.Equal(t, 5, l.inHand)
		require.False(t, slices.ContainsFunc(l.lanes, func(q *lane) bool { return !q.failed.IsZero() }))
		require.Len(t, b.pending(batch.Interactive), 6)
	})
}

// A large batch's last tasks would else wait for as long as small ones come.
func TestPlacesGoToThoseThatWereTakenFirst(t *testing.T) {
	t.Parallel()
	l := &line{Line: Line{Places: 1, Held: func() (time.Duration, <-chan struct{}) { return 0, nil }}, seated: 1}
	l.t, l.out = &taker{s: &Store{}, quit: make(chan struct{})}, make(chan *task, 1)
	small, large := &lane{line: l}, &lane{line: l, bulk: true}
	first := &task{lane: large}
	l.ready = []*task{first, {lane: small}}
	(&Place{lane: small}).end()
	require.Len(t, l.out, 1)
	require.Same(t, first, <-l.out)
}
