package queue

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue/rdb"
)

// Redis forgets the end of an action without a change of its history, while so many batches
// are open that the sweeper looks at each once in minutes. The process that ended it repeats it.
func TestASilentLossAmongManyOpenBatchesIsFoundSoon(t *testing.T) {
	t.Parallel()
	b := open(t, redistest.Start(t).URL())
	for i := range 2000 { // the sweeper meets 3 in a second
		require.NoError(t, b.db.Client.ZAdd(b.ctx, openKey, atOnce("open-"+strconv.Itoa(i))).Err())
	}
	id := b.submit(2, spec()).ID
	b.serve(Line{Places: 2}, func(index int, _ *Place) error {
		if index == 1 {
			return nil // it stays begun
		}
		begun, err := b.Begin(b.ctx, id, index, "w1")
		if err != nil || begun.Verdict != batch.Run {
			return err
		}
		return b.Finish(b.ctx, id, index, begun.Token, result(index, batch.Succeeded))
	})
	b.eventually("the end", func() bool { return b.get(id).Counts.Succeeded == 1 })
	began := time.Now()
	b.rewind(id, 0, b.entryOf(id, 0))
	require.Zero(t, b.get(id).Counts.Succeeded)
	b.eventually("its repetition", func() bool { return b.get(id).Counts.Succeeded == 1 })
	require.Less(t, time.Since(began), 15*time.Second)
}

func TestEveryEndIsComparedTwice(t *testing.T) {
	t.Parallel()
	b := open(t, rdb.Embedded)
	one, two := b.submit(3, spec()).ID, b.submit(3, spec()).ID
	b.end(one, 0, batch.Succeeded)
	b.end(one, 2, batch.Succeeded)
	b.end(two, 1, batch.Failed)
	released := b.begin(two, 0)
	_, err := b.Release(b.ctx, two, 0, released.Token, result(0, batch.Failed))
	require.NoError(t, err)
	compared := func(pass int, age time.Duration) (states int) {
		reads, upTo := b.attempts.unverified(pass, time.Now().Add(age))
		b.attempts.verifiedUpTo(pass, upTo)
		for _, r := range reads {
			states += len(r.of)
		}
		return states
	}
	require.Zero(t, compared(0, 0))
	require.Equal(t, 3, compared(0, verifyAfter[0]+time.Second))
	require.Zero(t, compared(0, verifyAfter[0]+time.Second), "once at each age")
	require.Equal(t, 3, compared(1, verifyAfter[1]+time.Second))
	require.Zero(t, compared(1, verifyAfter[1]+time.Second))
	b.end(one, 1, batch.Succeeded)
	require.Equal(t, 1, compared(0, verifyAfter[0]+time.Second))
}

// Nothing is lost for good if Redis does not answer the comparison.
func TestAComparisonThatFailsIsMadeAgain(t *testing.T) {
	t.Parallel()
	b, p := behindProxy(t)
	id := b.submit(2, spec()).ID
	b.end(id, 0, batch.Succeeded)
	b.rewind(id, 0, b.entryOf(id, 0))
	later := time.Now().Add(verifyAfter[0] + time.Second)
	stop := p.Answer(redistest.Rule{Reply: "LOADING", Match: func(words []string) bool { return words[0] == "GETRANGE" }, Way: redistest.Refused})
	require.Error(t, b.verifyEnded(b.ctx, later))
	require.Positive(t, stop())
	require.NoError(t, b.verifyEnded(b.ctx, later))
	require.Equal(t, 1, b.get(id).Counts.Succeeded)
}
