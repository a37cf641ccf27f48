package queue

import (
	"maps"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue/rdb"
)

// round makes one round of the sweeper as it comes.
func (b *bundle) round() batch.Swept {
	b.t.Helper()
	swept, ok, err := b.Sweep(b.ctx, "w1")
	require.NoError(b.t, err)
	require.True(b.t, ok)
	return swept
}

// commands is the number of commands that Redis has processed, those of scripts as well.
func (b *bundle) commands() int {
	b.t.Helper()
	info, err := b.db.Client.Info(b.ctx, "stats").Result()
	require.NoError(b.t, err)
	_, rest, _ := strings.Cut(info, "total_commands_processed:")
	number, _, _ := strings.Cut(rest, "\r\n")
	n, err := strconv.Atoi(number)
	require.NoError(b.t, err)
	return n
}

// idle returns the commands a second of a worker whose target is held, over some rounds
// of the sweeper, with so many open batches.
func idle(t *testing.T, batches int) float64 {
	t.Helper()
	b := open(t, redistest.Start(t).URL())
	b.serve(Line{Places: 8, Held: func() (time.Duration, <-chan struct{}) { return time.Hour, nil }}, func(int, *Place) error { return nil })
	for range batches {
		b.submit(3, spec())
	}
	b.background.Wait()
	const rounds = 4
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	before, began := 0, time.Time{}
	for i := range 2 + rounds {
		if i == 2 { // every batch was looked at once
			before, began = b.commands(), time.Now()
		}
		_, err := b.Beat(b.ctx, "w1")
		require.NoError(t, err)
		swept := b.round()
		require.Equal(t, batches, swept.Open)
		_, err = b.Feed(b.ctx)
		require.NoError(t, err)
		<-tick.C
	}
	return float64(b.commands()-before) / time.Since(began).Seconds()
}

func TestIdleCommandsDoNotGrowWithTheOpenBatches(t *testing.T) {
	t.Parallel()
	var few, many float64
	var wg sync.WaitGroup
	wg.Go(func() { few = idle(t, 20) })
	wg.Go(func() { many = idle(t, 2000) })
	wg.Wait()
	t.Logf("commands a second: %.0f with 20 open batches, %.0f with 2000", few, many)
	// A sweeper that looked at each batch in each round would send two commands a second for each of them. The bound
	// is a tenth of it: the number of rounds and polls in a second depends on how busy the machine is.
	require.Less(t, many, few+2*2000/10)
}

func TestABatchInWhichNothingHappensIsLookedAtTheLessOftenTheMoreThereAre(t *testing.T) {
	t.Parallel()
	var c schedule
	now := time.Now()
	m := map[string]string{
		"status": "queued", "expires": strconv.FormatInt(now.Add(72*time.Hour).UnixMilli(), 10), "created": "1", "enqueued": "3", "total": "3",
	}
	for open, least := range map[int]time.Duration{1: lookAgain, 10: lookAgain, 3000: 1000 * time.Second, 300_000: 100_000 * time.Second} {
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
	require.Equal(t, lookSoon, in(with("status", "running"), true), "soon while something happens")
	require.Equal(t, lookSoon, in(with("status", "completed", "outbox", "1"), false))
	require.Equal(t, 6*time.Second, in(with("enqueued", "1", "fanned", at(-4*time.Second)), false).Round(time.Second), "when its fan-out is late")
	require.GreaterOrEqual(t, in(with("enqueued", "1", "throttle", "{}"), false), 1000*time.Second)
	require.GreaterOrEqual(t, in(map[string]string{}, false), 1000*time.Second, "a batch that was deleted")
	c.lookAtAll()
	require.Equal(t, lookSoon, in(m, false), "soon after something by which work may have been lost")
}

func TestADeadlineIsKeptThoughABatchIsLookedAtRarely(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.submit(2, spec()).ID
		b.submit(2, spec())
		require.Equal(t, batch.Swept{Open: 2}, b.round())
		require.Equal(t, batch.Swept{Open: 2}, b.round())
		due := func() time.Time { return time.UnixMilli(int64(must(b.db.Client.ZScore(b.ctx, openKey, id).Result()))) }
		expires := must(b.db.Now(b.ctx)).Add((lookSoon + lookAgain) / 2).Truncate(time.Millisecond)
		require.NoError(t, b.db.Client.HSet(b.ctx, keysOf(id).meta, "expires", rdb.MillisOf(expires)).Err())
		require.Equal(t, batch.Swept{Open: 2}, b.sweep())
		soon := must(b.db.Now(b.ctx)).Add(lookSoon) // later than the deadline only if the machine is very busy
		require.WithinRange(t, due(), expires, maxTime(expires, soon))

		past := -time.Hour.Milliseconds() // the time comes at which it is due
		require.NoError(t, b.db.Client.HIncrBy(b.ctx, keysOf(id).meta, "expires", past).Err())
		require.NoError(t, b.db.Client.ZIncrBy(b.ctx, openKey, float64(past), id).Err())
		require.Equal(t, 1, b.round().Expired)
		require.Equal(t, batch.StatusExpired, b.get(id).Status)
		require.False(t, due().After(must(b.db.Now(b.ctx)).Add(lookSoon)), "its entry is looked at soon")
		require.NoError(t, b.db.Client.ZIncrBy(b.ctx, openKey, float64(past), id).Err())
		require.Equal(t, 1, b.round().Closed)
	})
}

// The answer to the step that ended a batch is lost, and the repetition does not know of
// the webhook.
func TestAWebhookWhoseMarkNobodyWasToldOfIsSentSoon(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		require.NoError(t, b.steps.finish.Load(b.ctx, b.db.Client).Err()) // by all servers
		b.submit(1, spec())
		s := spec()
		s.WebhookURL = "https://example.com/hook"
		id := b.submit(1, s).ID
		begun := b.begin(id, 0)
		require.Equal(t, batch.Swept{Open: 2}, b.round())
		b.db.Client.AddHook(&lostReplies{left: 1, only: b.steps.finish.Hash()})
		require.Error(t, b.Finish(b.ctx, id, 0, begun.Token, result(0, batch.Succeeded)))
		require.NoError(t, b.Finish(b.ctx, id, 0, begun.Token, result(0, batch.Succeeded)))
		b.eventually("the webhook", func() bool {
			b.round()
			tasks, err := b.inspector().ListPendingTasks(WebhookQueue)
			return err == nil && len(tasks) == 1
		})
	})
}

func TestWhatASweeperTookThatDiedTheNextOneLooksAt(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		b.submit(1, spec())
		page, err := b.duePage(b.ctx, time.Time{})
		require.NoError(t, err)
		require.Len(t, page.order, 1)
		page, err = b.duePage(b.ctx, time.Time{})
		require.NoError(t, err)
		require.Empty(t, page.order)
		require.Equal(t, batch.Swept{Open: 1}, b.round())
		require.NotEmpty(t, b.stalls.now, "it was looked at")
	})
}

func TestAnEntryThatIsAskedForWhileItIsClosedStays(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.submit(1, spec()).ID
		b.end(id, 0, batch.Succeeded)
		page, err := b.duePage(b.ctx, time.Time{})
		require.NoError(t, err)
		require.True(t, page.closed(id))
		require.NoError(t, b.reopen(b.ctx, id, false))
		var swept batch.Swept
		require.NoError(t, b.closeEntries(b.ctx, page, &swept))
		require.Zero(t, swept.Closed)
		require.Equal(t, 1, b.round().Open, "it is still there")
	})
}
