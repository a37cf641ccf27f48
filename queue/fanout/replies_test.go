package fanout_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue/fanout"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/tasks"
)

// refusedTimes refuses the first runs of a step on keys that hold a text.
func refusedTimes(n int, digest, key string) redistest.Rule {
	return redistest.Rule{Reply: queuetest.NoRoom, Way: redistest.Refused, Times: n, Match: func(words []string) bool {
		return words[0] == "EVALSHA" && words[1] == digest && slices.ContainsFunc(words, func(w string) bool { return strings.Contains(w, key) })
	}}
}

// Without a sweeper: it would take over later.
func TestAFanOutThatIsRefusedGoesOn(t *testing.T) {
	t.Parallel()
	b, p := behindProxy(t)
	b.Submit(1, queuetest.Spec()) // the scripts are loaded
	for _, step := range []string{tasks.Steps.Offer.Hash(), fanout.Steps.Progress.Hash()} {
		stop := p.Answer(refusedTimes(3, step, ""))
		id := b.Submit(150, queuetest.Spec()).ID
		require.Eventually(t, func() bool {
			return b.DB.Client.HGet(b.Ctx, keys.KeysOf(id).Meta, "enqueued").Val() == "150"
		}, 20*time.Second, 10*time.Millisecond)
		require.Equal(t, 3, stop())
	}
	require.Len(t, append(b.Pending(batch.Interactive), b.Pending(batch.Bulk)...), 301)
}

func TestARetryThatIsRefusedGoesOn(t *testing.T) {
	t.Parallel()
	b, p := behindProxy(t)
	id := b.Submit(1, queuetest.Spec()).ID
	b.End(id, 0, batch.Failed)
	stop := p.Answer(refusedTimes(3, tasks.Steps.Offer.Hash(), ""))
	got, _, err := b.Retry(b.Ctx, "me", id, &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Failed}})
	require.NoError(t, err)
	require.Equal(t, 1, got.Counts.Pending)
	require.Equal(t, 3, stop())
	require.Equal(t, []string{tasks.TaskID(id, 0, "2")}, []string{b.Pending(batch.Interactive)[0].ID})
}
