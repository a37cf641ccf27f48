package fanout_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/fanout"
	"github.com/batchd/batchd/queue/limits"
	"github.com/batchd/batchd/queue/queuetest"
)

// The list of throttled batches is the only one from which a process finds the grant of a limit that bounds only
// a rate.
func TestABatchStaysListedUntilItsGrantIsRemoved(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.throttledBatch(1, batch.Limit{Rate: batch.Rate{N: 10, Per: time.Hour}})
		grants := limits.LimitKeys("me", batch.Limit{})[1]
		require.Equal(t, []string{id}, queuetest.Must(b.DB.Client.HKeys(b.Ctx, grants).Result()))
		b.End(id, 0, batch.Succeeded)
		dead := &queuetest.Mute{Text: "hdel " + grants}
		b.DB.Client.AddHook(dead)
		dead.On.Store(true)
		_, err := b.Fanout.ReleaseThrottled(b.Ctx)
		require.Error(t, err)
		dead.On.Store(false)
		require.Equal(t, []string{id}, queuetest.Must(b.throttled(b.Ctx)))
		other := fanout.New(b.DB, b.Log, b.Background, b.Tasks, b.Limits, b.Batches) // of another process
		require.NoError(t, queuetest.ErrorOf(other.ReleaseThrottled(b.Ctx)))
		require.Empty(t, queuetest.Must(b.DB.Client.HKeys(b.Ctx, grants).Result()))
		require.Empty(t, queuetest.Must(b.throttled(b.Ctx)))
	})
}

// The step of a retry replaces the token by which a process finds the grant of the earlier round.
func TestARetryRemovesTheGrantOfTheEarlierRoundBeforeItsStep(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		limit := batch.Limit{Rate: batch.Rate{N: 10, Per: time.Hour}}
		id := b.throttledBatch(1, limit)
		b.End(id, 0, batch.Failed)
		met := false
		b.Interrupt(fanout.Steps.Retry.Hash(), false, func() {
			met = true
			require.Empty(t, queuetest.Must(b.DB.Client.HKeys(b.Ctx, limits.LimitKeys("me", batch.Limit{})[1]).Result()))
		})
		_, _, err := b.Retry(b.Ctx, "me", id, &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Failed}, Throttle: &limit})
		require.NoError(t, err)
		require.True(t, met)
		grant := queuetest.Must(b.Batches.Meta(b.Ctx, id))["grant"]
		require.NotEmpty(t, grant)
		require.Equal(t, []string{limits.GrantName(id, grant)}, queuetest.Must(b.DB.Client.HKeys(b.Ctx, limits.LimitKeys("me", batch.Limit{})[1]).Result()))
	})
}
