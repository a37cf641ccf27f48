package throttle

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

// When exchanges become slow for a while, because the machine or the network is busy, actions are
// begun as much earlier: they are sent at the rate all the while, after a few exchanges.
func TestARateIsUsedWhileExchangesAreSlow(t *testing.T) {
	t.Parallel()
	for _, number := range []int{10, 50, 200} {
		for _, times := range [][2]float64{{4, 4}, {10, 10}, {4, 10}} {
			for _, workers := range []int{1, 2} {
				for _, trip := range []time.Duration{20 * time.Millisecond, 50 * time.Millisecond} {
					for _, onlyBegins := range []bool{false, true} {
						name := fmt.Sprintf("%d per s/%v times %s/%d workers/only begins %v", number, times, trip, workers, onlyBegins)
						t.Run(name, func(t *testing.T) {
							t.Parallel()
							synctest.Test(t, func(t *testing.T) {
								const due = 12 * time.Second
								n := int(due/time.Second) * number
								w := &pacedWorld{
									t: t, rate: batch.Rate{N: number, Per: time.Second}, burst: 1, workers: workers, way: trip / 2,
									slow: slowPhase{start: 3 * time.Second, end: 9 * time.Second, least: times[0], most: times[1], onlyBegins: onlyBegins},
								}
								took := w.run(n, 1)
								require.Len(t, w.writes, n)
								require.LessOrEqual(t, most(w.writes, w.rate.Per), number)
								slowest := time.Duration(times[1] * float64(trip))
								used := 0
								for _, at := range w.writes {
									if since := at.Sub(w.submitted); since >= 3*time.Second+6*slowest && since < 9*time.Second {
										used++
									}
								}
								rated := (6*time.Second - 6*slowest).Seconds() * float64(number)
								require.GreaterOrEqual(t, used, int(0.96*rated)-1, "of the send times of the slow phase")
								// The send times of the first slow exchanges are missed, and the tolerance grows for a while.
								require.LessOrEqual(t, took, due+due/50+4*slowest+2*w.rate.Per/time.Duration(number))
							})
						})
					}
				}
			}
		}
	}
}

// The estimate follows exchanges that become slow or fast, and not single ones.
func TestTheTimeOfAnExchangeIsWhatNearlyAllTake(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var e exchangeTime
		add := func(n int, took time.Duration) {
			for range n {
				time.Sleep(2 * exchangeMoment)
				e.add(took)
			}
		}
		const fast, slow = 20 * time.Millisecond, 200 * time.Millisecond
		add(1, slow)
		require.Equal(t, slow, e.usual, "the only one")
		add(1, fast)
		require.Equal(t, fast, e.usual, "the first one opened a connection")
		add(latestExchanges, fast)
		add(2, slow)
		require.Equal(t, fast, e.usual, "two of %d", latestExchanges)
		add(1, slow)
		require.Equal(t, slow, e.usual)
		add(latestExchanges-2, fast)
		require.Equal(t, fast, e.usual)

		time.Sleep(2 * exchangeMoment)
		for range 100 { // actions that were begun in one exchange
			e.add(slow)
		}
		require.Equal(t, fast, e.usual)
		time.Sleep(2 * exchangeAge)
		e.add(slow)
		require.Equal(t, slow, e.usual, "the others are old")
	})
}

// Each action of a target with a rate adds one, under the lock of the pacer.
func TestTheTimeOfAnExchangeAllocatesNothing(t *testing.T) { //nolint:paralleltest // other tests allocate, too
	var e exchangeTime
	for i := range latestExchanges + 1 {
		e.latest = append(e.latest, exchangeSample{time.Now(), time.Duration(i)})
	}
	require.Zero(t, testing.AllocsPerRun(100, func() { e.add(time.Second) }), "within a moment")
	require.Zero(t, testing.AllocsPerRun(100, func() {
		e.latest[len(e.latest)-1].at = time.Now().Add(-exchangeMoment)
		e.add(time.Millisecond)
	}), "another moment")
}

// On a machine on which sleepers wake up to 10 ms late, a request rarely misses its send time at a fast rate, although
// most of hundreds of sleepers are less late: each one that misses its time close to the end costs a round trip.
func TestAFastRateIsUsedOnAnUnsteadyMachine(t *testing.T) {
	t.Parallel()
	for _, workers := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d workers", workers), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				const n, busy = 10_000, 10 * time.Millisecond
				w := &pacedWorld{t: t, rate: batch.Rate{N: 1000, Per: time.Second}, burst: 1, workers: workers, way: 30 * time.Millisecond, busy: busy}
				w.run(n, 1)
				require.LessOrEqual(t, most(w.writes, w.rate.Per), w.rate.N)
				require.LessOrEqual(t, w.gate.given, n+n/50, "send times")
			})
		})
	}
}
