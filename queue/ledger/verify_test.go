package ledger_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue/ledger"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/rdb"
)

func TestEveryEndIsComparedTwice(t *testing.T) {
	t.Parallel()
	b := open(t, rdb.Embedded)
	one, two := b.Submit(3, queuetest.Spec()).ID, b.Submit(3, queuetest.Spec()).ID
	b.End(one, 0, batch.Succeeded)
	b.End(one, 2, batch.Succeeded)
	b.End(two, 1, batch.Failed)
	released := b.Begin(two, 0)
	_, err := b.Ledger.Release(b.Ctx, two, 0, released.Token, queuetest.Result(0, batch.Failed))
	require.NoError(t, err)
	compared := func(pass int, age time.Duration) int { return b.Ledger.Compare(pass, time.Now().Add(age)) }
	require.Zero(t, compared(0, 0))
	require.Equal(t, 3, compared(0, ledger.VerifyAfter[0]+time.Second))
	require.Zero(t, compared(0, ledger.VerifyAfter[0]+time.Second), "once at each age")
	require.Equal(t, 3, compared(1, ledger.VerifyAfter[1]+time.Second))
	require.Zero(t, compared(1, ledger.VerifyAfter[1]+time.Second))
	b.End(one, 1, batch.Succeeded)
	require.Equal(t, 1, compared(0, ledger.VerifyAfter[0]+time.Second))
}

// Nothing is lost for good if Redis does not answer the comparison.
func TestAComparisonThatFailsIsMadeAgain(t *testing.T) {
	t.Parallel()
	b, p := behindProxy(t)
	id := b.Submit(2, queuetest.Spec()).ID
	b.End(id, 0, batch.Succeeded)
	b.Rewind(id, 0, b.LedgerEntry(id, 0))
	later := time.Now().Add(ledger.VerifyAfter[0] + time.Second)
	stop := p.Answer(redistest.Rule{Reply: "LOADING", Match: func(words []string) bool { return words[0] == "GETRANGE" }, Way: redistest.Refused})
	require.Error(t, b.Ledger.Restorer.VerifyEnded(b.Ctx, later))
	require.Positive(t, stop())
	require.NoError(t, b.Ledger.Restorer.VerifyEnded(b.Ctx, later))
	require.Equal(t, 1, b.Read(id).Counts.Succeeded)
}
