package queue

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

func (b *bundle) sweep() batch.Swept {
	b.t.Helper()
	require.NoError(b.t, b.dueNow(b.ctx))
	swept, ok, err := b.Sweep(b.ctx, "w1")
	require.NoError(b.t, err)
	require.True(b.t, ok)
	return swept
}

func TestTheSweeperMendsWhatACrashLeft(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		b.background.Stop() // fan-outs in the background break off at once
		large := b.submit(1250, spec())
		b.eventually("the broken fan-out", func() bool { return b.get(large.ID) != nil })
		require.Equal(t, batch.Swept{Open: 1}, b.sweep(), "a fan-out is given its time")
		long := time.Now().Add(-time.Minute).UnixMilli()
		require.NoError(t, b.db.Client.HSet(b.ctx, keysOf(large.ID).meta, "created", long, "fanned", long).Err())
		require.Equal(t, batch.Swept{Open: 1, Resumed: 1}, b.sweep())
		require.Len(t, b.pending(batch.Bulk), 1250)
		require.Equal(t, batch.Swept{Open: 1}, b.sweep())

		// A webhook whose outbox mark still stands.
		s := spec()
		s.WebhookURL = "https://example.com/hook"
		told := b.submit(1, s).ID
		b.end(told, 0, batch.Succeeded)
		require.NoError(t, b.inspector().DeleteTask(WebhookQueue, webhookTaskID(told, 1)))
		require.NoError(t, b.db.Client.HSet(b.ctx, keysOf(told).meta, "outbox", "1").Err())
		require.Equal(t, batch.Swept{Open: 2, Notified: 1}, b.sweep())
		tasks, err := b.inspector().ListPendingTasks(WebhookQueue)
		require.NoError(t, err)
		require.Len(t, tasks, 1)
		require.Equal(t, batch.Swept{Open: 2, Closed: 1}, b.sweep())

		// A batch whose deadline passed without anybody touching it.
		s = spec()
		s.ExpiresIn = time.Millisecond
		late := b.submit(2, s).ID
		b.eventually("the deadline", func() bool { return b.sweep().Expired == 1 })
		require.Equal(t, batch.StatusExpired, b.get(late).Status)
		require.Equal(t, batch.Swept{Open: 2, Closed: 1}, b.sweep())

		_, ok, err := b.Sweep(b.ctx, "w2")
		require.NoError(t, err)
		require.False(t, ok, "one sweeps at a time")
		require.NoError(t, b.Resign(b.ctx, "w2"))
		require.NoError(t, b.Resign(b.ctx, "w1"))
		_, ok, err = b.Sweep(b.ctx, "w2")
		require.NoError(t, err)
		require.True(t, ok)
	})
}

func TestNothingOfASecretStandsInRedis(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		const secret = "hush-hush-4711"
		u, err := b.Open(b.ctx, "me", secret+"-key")
		require.NoError(t, err)
		a := action(0)
		a.Headers = append(a.Headers, batch.Field{Name: "Authorization", Value: "Bearer " + secret})
		a.Body, a.Query, a.Path = []byte(secret), "token="+secret, "/"+secret
		require.NoError(t, u.Add(b.ctx, a))
		s := spec()
		s.WebhookURL, s.Metadata = "https://example.com/"+secret, map[string]string{secret: secret}
		got, _, err := u.Commit(b.ctx, s)
		require.NoError(t, err)
		begun := b.begin(got.ID, 0)
		r := result(0, batch.Succeeded)
		r.Body = []byte(secret)
		require.NoError(t, b.Finish(b.ctx, got.ID, 0, begun.Token, r))
		require.NoError(t, b.Delivered(b.ctx, got.ID, 1, batch.Delivery{Error: secret}, batch.DeliveryFailed, time.Time{}))
		owner, err := b.Owner(b.ctx, secret)
		require.NoError(t, err)
		require.Len(t, owner, 32)

		require.Contains(t, string(b.results(got.ID, 1)[0].Body), secret, "and yet it can be read")
		seen := 0
		for key := range b.allKeys() {
			text := key
			switch kind := b.db.Client.Type(b.ctx, key).Val(); kind {
			case "string":
				text += b.db.Client.Get(b.ctx, key).Val()
			case "hash":
				for f, v := range b.db.Client.HGetAll(b.ctx, key).Val() {
					text += f + v
				}
			case "list":
				text += strings.Join(b.db.Client.LRange(b.ctx, key, 0, -1).Val(), "")
			case "zset":
				text += strings.Join(b.db.Client.ZRange(b.ctx, key, 0, -1).Val(), "")
			case "set":
				text += strings.Join(b.db.Client.SMembers(b.ctx, key).Val(), "")
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
		id := b.submit(7, spec()).ID
		_, err := b.Begin(b.ctx, id, 2, "nobody") // a holder that no list knows
		require.NoError(t, err)
		_, err = b.Beat(b.ctx, "w1")
		require.NoError(t, err)
		b.begin(id, 3) // by w1, which is alive
		b.end(id, 6, batch.Succeeded)
		for i := range 7 {
			b.dropTask(id, i)
		}
		require.Equal(t, batch.Swept{Open: 1}, b.sweep())
		require.Equal(t, batch.Swept{Open: 1}, b.sweep(), "it is given its time")
		long := time.Now().Add(-time.Minute)
		age := func() {
			s := b.stalls.now[id]
			s.since = long
			b.stalls.now[id] = s
		}
		age()
		entry := readLedger(b, id, 2)
		require.NoError(t, b.db.Client.HSet(b.ctx, keysOf(id).ledger, "2", entry).Err())
		b.holders.asked = time.Time{}
		require.Equal(t, batch.Swept{Open: 1, Lost: 4}, b.sweep())
		require.Contains(t, b.holders.missing, "nobody")
		b.holders.missing["nobody"], b.holders.asked = long, time.Time{}
		age()
		require.Equal(t, batch.Swept{Open: 1, Lost: 1}, b.sweep(), "tasks that are there are left alone")
		require.Len(t, b.pending(batch.Interactive), 5)
	})
}

// readLedger returns an entry of the ledger as if it were a minute old.
func readLedger(b *bundle, id string, index int) string {
	b.t.Helper()
	packed, err := b.db.Client.HGet(b.ctx, keysOf(id).ledger, strconv.Itoa(index)).Result()
	require.NoError(b.t, err)
	parts := strings.Split(packed, "|")
	parts[3] = strconv.FormatInt(time.Now().Add(-time.Minute).UnixMilli(), 10)
	return strings.Join(parts, "|")
}

func TestTasksThatNobodyHoldsArePutBackAsTheirBatchStandsStill(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		var ids []string
		for range 3 {
			ids = append(ids, b.submit(2, spec()).ID)
		}
		_, err := b.Beat(b.ctx, "w1")
		require.NoError(t, err)
		taker := newTaker(b.Store, ServerConfig{Lines: []Line{{Target: "crm", Places: 6}}})
		for len(taker.lines[0].out) < 6 { // and whoever took them never heard of it
			taker.lines[0].markAll()
			taker.lines[0].turn(true)
		}
		require.Empty(t, b.pending(batch.Interactive))
		b.sweep()
		for _, id := range ids {
			was := b.stalls.now[id]
			was.since = time.Now().Add(-time.Minute)
			b.stalls.now[id] = was
		}
		paused := b.pauses()
		require.Equal(t, batch.Swept{Open: 3, Lost: 6}, b.sweep())
		require.EqualValues(t, 1, paused.Load(), "one pause for all")
		require.Len(t, b.pending(batch.Interactive), 6)
	})
}
