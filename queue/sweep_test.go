package queue_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/batches"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/tasks"
)

func TestTheSweeperMendsWhatACrashLeft(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		b.Background.Stop() // fan-outs in the background break off at once
		large := b.Submit(1250, queuetest.Spec())
		b.Eventually("the broken fan-out", func() bool { return b.Read(large.ID) != nil })
		require.Equal(t, batch.Swept{Open: 1}, b.Sweep(), "a fan-out is given its time")
		long := time.Now().Add(-time.Minute).UnixMilli()
		require.NoError(t, b.DB.Client.HSet(b.Ctx, keys.KeysOf(large.ID).Meta, "created", long, "fanned", long).Err())
		require.Equal(t, batch.Swept{Open: 1, Resumed: 1}, b.Sweep())
		require.Len(t, b.Pending(batch.Bulk), 1250)
		require.Equal(t, batch.Swept{Open: 1}, b.Sweep())

		// A webhook whose outbox mark still stands.
		s := queuetest.Spec()
		s.WebhookURL = "https://example.com/hook"
		told := b.Submit(1, s).ID
		b.End(told, 0, batch.Succeeded)
		require.NoError(t, b.Inspector().DeleteTask(tasks.WebhookQueue, batches.WebhookTaskID(told, 1)))
		require.NoError(t, b.DB.Client.HSet(b.Ctx, keys.KeysOf(told).Meta, "outbox", "1").Err())
		require.Equal(t, batch.Swept{Open: 2, Notified: 1}, b.Sweep())
		tasks, err := b.Inspector().ListPendingTasks(tasks.WebhookQueue)
		require.NoError(t, err)
		require.Len(t, tasks, 1)
		require.Equal(t, batch.Swept{Open: 2, Closed: 1}, b.Sweep())

		// A batch whose deadline passed without anybody touching it.
		s = queuetest.Spec()
		s.ExpiresIn = time.Millisecond
		late := b.Submit(2, s).ID
		b.Eventually("the deadline", func() bool { return b.Sweep().Expired == 1 })
		require.Equal(t, batch.StatusExpired, b.Read(late).Status)
		require.Equal(t, batch.Swept{Open: 2, Closed: 1}, b.Sweep())

		_, ok, err := b.Sweeper.Sweep(b.Ctx, "w2")
		require.NoError(t, err)
		require.False(t, ok, "one sweeps at a time")
		require.NoError(t, b.Sweeper.Resign(b.Ctx, "w2"))
		require.NoError(t, b.Sweeper.Resign(b.Ctx, "w1"))
		_, ok, err = b.Sweeper.Sweep(b.Ctx, "w2")
		require.NoError(t, err)
		require.True(t, ok)
	})
}

func TestNothingOfASecretStandsInRedis(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		const secret = "hush-hush-4711"
		u, err := b.Open(b.Ctx, "me", secret+"-key")
		require.NoError(t, err)
		a := queuetest.Action(0)
		a.Headers = append(a.Headers, batch.Field{Name: "Authorization", Value: "Bearer " + secret})
		a.Body, a.Query, a.Path = []byte(secret), "token="+secret, "/"+secret
		require.NoError(t, u.Add(b.Ctx, a))
		s := queuetest.Spec()
		s.WebhookURL, s.Metadata = "https://example.com/"+secret, map[string]string{secret: secret}
		got, _, err := u.Commit(b.Ctx, s)
		require.NoError(t, err)
		begun := b.Begin(got.ID, 0)
		r := queuetest.Result(0, batch.Succeeded)
		r.Body = []byte(secret)
		require.NoError(t, b.Ledger.Finish(b.Ctx, got.ID, 0, begun.Token, r))
		require.NoError(t, b.Batches.Deliveries.Record(b.Ctx, got.ID, 1, batch.Delivery{Error: secret}, batch.DeliveryFailed, time.Time{}))
		owner, err := b.Owner(b.Ctx, secret)
		require.NoError(t, err)
		require.Len(t, owner, 32)

		require.Contains(t, string(b.AllResults(got.ID, 1)[0].Body), secret, "and yet it can be read")
		seen := 0
		for key := range b.AllKeys() {
			text := key
			switch kind := b.DB.Client.Type(b.Ctx, key).Val(); kind {
			case "string":
				text += b.DB.Client.Get(b.Ctx, key).Val()
			case "hash":
				for f, v := range b.DB.Client.HGetAll(b.Ctx, key).Val() {
					text += f + v
				}
			case "list":
				text += strings.Join(b.DB.Client.LRange(b.Ctx, key, 0, -1).Val(), "")
			case "zset":
				text += strings.Join(b.DB.Client.ZRange(b.Ctx, key, 0, -1).Val(), "")
			case "set":
				text += strings.Join(b.DB.Client.SMembers(b.Ctx, key).Val(), "")
			default:
				t.Fatalf("unknown kind %s of %s", kind, key)
			}
			require.NotContains(t, text, secret, key)
			seen++
		}
		require.Greater(t, seen, 8)
	})
}

func TestWhatABatchLostIsBroughtBack(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.Submit(7, queuetest.Spec()).ID
		_, err := b.Ledger.Begin(b.Ctx, id, 2, "nobody") // a holder that no list knows
		require.NoError(t, err)
		_, err = b.Ledger.Workers.Beat(b.Ctx, "w1")
		require.NoError(t, err)
		b.Begin(id, 3) // by w1, which is alive
		b.End(id, 6, batch.Succeeded)
		for i := range 7 {
			b.DropTask(id, i)
		}
		require.Equal(t, batch.Swept{Open: 1}, b.Sweep())
		require.Equal(t, batch.Swept{Open: 1}, b.Sweep(), "it is given its time")
		long := time.Now().Add(-time.Minute)
		age := func() {
			s := b.Sweeper.Stuck.Now[id]
			s.Since = long
			b.Sweeper.Stuck.Now[id] = s
		}
		age()
		entry := readLedger(b, id, 2)
		require.NoError(t, b.DB.Client.HSet(b.Ctx, keys.KeysOf(id).Ledger, "2", entry).Err())
		b.Sweeper.Holders.Asked = time.Time{}
		require.Equal(t, batch.Swept{Open: 1, Lost: 4}, b.Sweep())
		require.Contains(t, b.Sweeper.Holders.Missing, "nobody")
		b.Sweeper.Holders.Missing["nobody"], b.Sweeper.Holders.Asked = long, time.Time{}
		age()
		require.Equal(t, batch.Swept{Open: 1, Lost: 1}, b.Sweep(), "tasks that are there are left alone")
		require.Len(t, b.Pending(batch.Interactive), 5)
	})
}

// readLedger returns an entry of the ledger as if it were a minute old.
func readLedger(b *bundle, id string, index int) string {
	b.T.Helper()
	packed, err := b.DB.Client.HGet(b.Ctx, keys.KeysOf(id).Ledger, strconv.Itoa(index)).Result()
	require.NoError(b.T, err)
	parts := strings.Split(packed, "|")
	parts[3] = strconv.FormatInt(time.Now().Add(-time.Minute).UnixMilli(), 10)
	return strings.Join(parts, "|")
}
