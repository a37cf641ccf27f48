package consumer

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestOnlyFastTargetsArePrefetchedFor(t *testing.T) {
	t.Parallel()
	now := time.Now()
	of := func(perSecond int) int {
		s := &share{slots: 64}
		for range perSecond / int(time.Second/window) {
			s.left.add(now)
		}
		require.Zero(t, s.prefetch(now), "it is not known yet")
		return s.prefetch(now.Add(window))
	}
	require.Equal(t, 50, of(10_000))
	require.Equal(t, 64, of(100_000), "no more than there are slots")
	require.Equal(t, 0, of(100))
	s := &share{slots: 64}
	s.left.add(now)
	require.Zero(t, s.prefetch(now.Add(time.Hour)))
}

func TestLargeBatchesLeaveAFastTargetToSmallOnes(t *testing.T) {
	t.Parallel()
	now := time.Now()
	of := func(fastest, since time.Duration) int {
		s := &share{slots: 64, small: now.Add(-since)}
		s.fastest.add(now, fastest)
		return s.bulkMost(now)
	}
	require.Equal(t, 24, of(time.Millisecond, 0))
	require.Equal(t, 8, of(time.Microsecond, 0), "never nothing")
	require.Equal(t, 64, of(100*time.Millisecond, 0), "a slow target has all its slots")
	require.Equal(t, 64, of(time.Millisecond, smallLast), "so has any, once no small ones come")
}

func TestSlotsAreDividedBetweenQueues(t *testing.T) {
	t.Parallel()
	lots := rand.New(rand.NewPCG(1, 2))
	small, large, silent := queueState{waits: true, most: 128}, queueState{bulk: true, waits: true, most: 128}, queueState{most: 128}
	require.Equal(t, []int{10}, divide(10, 10, []queueState{small}, lots))
	require.Equal(t, []int{10}, divide(10, 10, []queueState{large}, lots))
	require.Equal(t, []int{4, 0}, divide(10, 4, []queueState{large, silent}, lots), "large batches may have no more")
	require.Equal(t, []int{128}, divide(1000, 1000, []queueState{small}, lots), "no more than in one exchange")
	require.Equal(t, []int{90, 10}, divide(100, 100, []queueState{small, large}, lots))
	require.Equal(t, []int{96, 4}, divide(100, 4, []queueState{small, large}, lots))
	require.Equal(t, []int{0, 0}, divide(0, 10, []queueState{small, large}, lots))

	of := [2]int{} // with one slot at a time, in the mean
	for range 10_000 {
		for i, n := range divide(1, 1, []queueState{small, large}, lots) {
			of[i] += n
		}
	}
	require.InDelta(t, 9000, of[0], 200)
	require.InDelta(t, 1000, of[1], 200)

	polled := [8]int{} // eight queues of one kind on a cluster, of which each poll asks a few
	eight := make([]queueState, 8)
	for i := range eight {
		eight[i] = small
	}
	for range 1000 {
		asked := 0
		for i, n := range divide(32, 32, eight, lots) {
			polled[i] += n
			asked += min(n, 1)
		}
		require.Equal(t, 2, asked)
	}
	for _, n := range polled {
		require.InDelta(t, 4000, n, 600)
	}
}

func TestLargeBatchesThatHaveTheirShareWait(t *testing.T) {
	t.Parallel()
	now := time.Now()
	target := withoutRedis(Target{Slots: 64})
	target.slots.inBulk, target.slots.inHand = 24, 24
	target.slots.share.small = now
	target.slots.share.fastest.add(now, time.Millisecond)
	target.queues = []*taskQueue{{target: target, bulk: true, maybeNonEmpty: true}}
	wait, take, end := target.next(0)
	require.False(t, take || end)
	require.Positive(t, wait, "it waits, and does not go round and round")
	require.LessOrEqual(t, wait, smallLast)
	target.queues = append(target.queues, &taskQueue{target: target, maybeNonEmpty: true})
	_, take, _ = target.next(0)
	require.True(t, take, "small ones have the slots")
}
