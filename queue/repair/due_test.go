package repair_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/ledger"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/repair"
	"github.com/batchd/batchd/queue/tasks"
)

func TestADeadlineIsKeptThoughABatchIsLookedAtRarely(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.Submit(2, queuetest.Spec()).ID
		b.Submit(2, queuetest.Spec())
		require.Equal(t, batch.Swept{Open: 2}, b.Round())
		require.Equal(t, batch.Swept{Open: 2}, b.Round())
		due := func() time.Time {
			return time.UnixMilli(int64(queuetest.Must(b.DB.Client.ZScore(b.Ctx, keys.OpenKey, id).Result())))
		}
		expires := queuetest.Must(b.DB.Now(b.Ctx)).Add((repair.ActiveInterval + repair.IdleInterval) / 2).Truncate(time.Millisecond)
		require.NoError(t, b.DB.Client.HSet(b.Ctx, keys.KeysOf(id).Meta, "expires", rdb.MillisOf(expires)).Err())
		require.Equal(t, batch.Swept{Open: 2}, b.Sweep())
		soon := queuetest.Must(b.DB.Now(b.Ctx)).Add(repair.ActiveInterval) // later than the deadline only if the machine is very busy
		require.WithinRange(t, due(), expires, slices.MaxFunc([]time.Time{expires, soon}, time.Time.Compare))

		past := -time.Hour.Milliseconds() // the time comes at which it is due
		require.NoError(t, b.DB.Client.HIncrBy(b.Ctx, keys.KeysOf(id).Meta, "expires", past).Err())
		require.NoError(t, b.DB.Client.ZIncrBy(b.Ctx, keys.OpenKey, float64(past), id).Err())
		require.Equal(t, 1, b.Round().Expired)
		require.Equal(t, batch.StatusExpired, b.Read(id).Status)
		require.False(t, due().After(queuetest.Must(b.DB.Now(b.Ctx)).Add(repair.ActiveInterval)), "its entry is looked at soon")
		require.NoError(t, b.DB.Client.ZIncrBy(b.Ctx, keys.OpenKey, float64(past), id).Err())
		require.Equal(t, 1, b.Round().Closed)
	})
}

// The answer to the step that ended a batch is lost, and the repetition does not know of
// the webhook.
func TestAWebhookIsSentSoonIfTheReplyWithItsMarkIsLost(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		require.NoError(t, ledger.Steps.Finish.Load(b.Ctx, b.DB.Client).Err()) // by all servers
		b.Submit(1, queuetest.Spec())
		s := queuetest.Spec()
		s.WebhookURL = "https://example.com/hook"
		id := b.Submit(1, s).ID
		begun := b.Begin(id, 0)
		require.Equal(t, batch.Swept{Open: 2}, b.Round())
		b.DB.Client.AddHook(&queuetest.LostReplies{Left: 1, Only: ledger.Steps.Finish.Hash()})
		require.Error(t, b.Ledger.Finish(b.Ctx, id, 0, begun.Token, queuetest.Result(0, batch.Succeeded)))
		require.NoError(t, b.Ledger.Finish(b.Ctx, id, 0, begun.Token, queuetest.Result(0, batch.Succeeded)))
		b.Eventually("the webhook", func() bool {
			b.Round()
			tasks, err := b.Inspector().ListPendingTasks(tasks.WebhookQueue)
			return err == nil && len(tasks) == 1
		})
	})
}

func TestWhatASweeperTookThatDiedTheNextOneLooksAt(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		b.Submit(1, queuetest.Spec())
		page, err := b.Sweeper.DuePage(b.Ctx, time.Time{})
		require.NoError(t, err)
		require.Len(t, page.IDs(), 1)
		page, err = b.Sweeper.DuePage(b.Ctx, time.Time{})
		require.NoError(t, err)
		require.Empty(t, page.IDs())
		require.Equal(t, batch.Swept{Open: 1}, b.Round())
		require.NotEmpty(t, b.Sweeper.Checked(), "it was looked at")
	})
}

func TestAnEntryThatIsAskedForWhileItIsClosedStays(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.Submit(1, queuetest.Spec()).ID
		b.End(id, 0, batch.Succeeded)
		page, err := b.Sweeper.DuePage(b.Ctx, time.Time{})
		require.NoError(t, err)
		require.True(t, page.Closed(id))
		require.NoError(t, b.Batches.Index.Reopen(b.Ctx, id, false))
		var swept batch.Swept
		require.NoError(t, b.Sweeper.CloseEntries(b.Ctx, page, &swept))
		require.Zero(t, swept.Closed)
		require.Equal(t, 1, b.Round().Open, "it is still there")
	})
}
