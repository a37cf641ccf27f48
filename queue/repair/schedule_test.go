package repair

import (
	"maps"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestABatchInWhichNothingHappensIsLookedAtTheLessOftenTheMoreThereAre(t *testing.T) {
	t.Parallel()
	var c schedule
	now := time.Now()
	m := map[string]string{
		"status": "queued", "expires": strconv.FormatInt(now.Add(72*time.Hour).UnixMilli(), 10), "created": "1", "enqueued": "3", "total": "3",
	}
	for open, least := range map[int]time.Duration{1: idleInterval, 10: idleInterval, 3000: 1000 * time.Second, 300_000: 100_000 * time.Second} {
		in := c.next(m, false, now, open).Sub(now)
		require.GreaterOrEqual(t, in, least)
		require.LessOrEqual(t, in, least+least/4)
	}
	with := func(changes ...string) map[string]string {
		other := map[string]string{}
		maps.Copy(other, m)
		for i := 0; i < len(changes); i += 2 {
			other[changes[i]] = changes[i+1]
		}
		return other
	}
	at := func(d time.Duration) string { return strconv.FormatInt(now.Add(d).UnixMilli(), 10) }
	in := func(m map[string]string, changed bool) time.Duration {
		return c.next(m, changed, now, 3000).Sub(now).Round(time.Millisecond)
	}
	require.Equal(t, 7*time.Second, in(with("expires", at(7*time.Second)), false).Round(time.Second), "at its deadline")
	require.Equal(t, activeInterval, in(with("status", "running"), true), "soon while something happens")
	require.Equal(t, activeInterval, in(with("status", "completed", "outbox", "1"), false))
	require.Equal(t, 6*time.Second, in(with("enqueued", "1", "fanned", at(-4*time.Second)), false).Round(time.Second), "when its fan-out is late")
	require.GreaterOrEqual(t, in(with("enqueued", "1", "throttle", "{}"), false), 1000*time.Second)
	require.GreaterOrEqual(t, in(map[string]string{}, false), 1000*time.Second, "a batch that was deleted")
	c.lookAtAll()
	require.Equal(t, activeInterval, in(m, false), "soon after something by which work may have been lost")
}
