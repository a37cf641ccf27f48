package queue

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
)

// refusedTimes refuses the first runs of a step on keys that hold a text.
func refusedTimes(n int, digest, key string) redistest.Rule {
	return redistest.Rule{Reply: noRoom, Way: redistest.Refused, Times: n, Match: func(words []string) bool {
		return words[0] == "EVALSHA" && words[1] == digest && slices.ContainsFunc(words, func(w string) bool { return strings.Contains(w, key) })
	}}
}

// Without a sweeper: it would take over later.
func TestAFanOutThatIsRefusedGoesOn(t *testing.T) {
	t.Parallel()
	b, p := behindProxy(t)
	b.submit(1, spec()) // the scripts are loaded
	for _, step := range []string{b.steps.offer.Hash(), b.steps.progress.Hash()} {
		stop := p.Answer(refusedTimes(3, step, ""))
		id := b.submit(150, spec()).ID
		require.Eventually(t, func() bool {
			return b.db.Client.HGet(b.ctx, keysOf(id).meta, "enqueued").Val() == "150"
		}, 20*time.Second, 10*time.Millisecond)
		require.Equal(t, 3, stop())
	}
	require.Len(t, append(b.pending(batch.Interactive), b.pending(batch.Bulk)...), 301)
}

func TestARetryThatIsRefusedGoesOn(t *testing.T) {
	t.Parallel()
	b, p := behindProxy(t)
	id := b.submit(1, spec()).ID
	b.end(id, 0, batch.Failed)
	stop := p.Answer(refusedTimes(3, b.steps.offer.Hash(), ""))
	got, _, err := b.Retry(b.ctx, "me", id, &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Failed}})
	require.NoError(t, err)
	require.Equal(t, 1, got.Counts.Pending)
	require.Equal(t, 3, stop())
	require.Equal(t, []string{taskID(id, 0, "2")}, []string{b.pending(batch.Interactive)[0].ID})
}
