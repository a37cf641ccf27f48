package quotas_test

import (
	"bytes"
	"encoding/json"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/ledger"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/quotas"
	"github.com/batchd/batchd/queue/rdb"
)

// small is what small results may exceed a quota by, for each action.
const small = quotas.SmallResult

// stored returns what a batch stores, by its hash.
func (b *bundle) stored(id string) int64 { return b.number(id, "stored") }

func (b *bundle) number(id, field string) int64 {
	b.T.Helper()
	text, err := b.DB.Client.HGet(b.Ctx, keys.KeysOf(id).Meta, field).Result()
	require.NoError(b.T, err)
	return rdb.Atoi(text)
}

// held returns the sizes of the results and groups that a batch has in Redis.
func (b *bundle) held(id string) (n int64) {
	b.T.Helper()
	for _, key := range []string{keys.KeysOf(id).Results, keys.KeysOf(id).Groups} {
		values, err := b.DB.Client.HVals(b.Ctx, key).Result()
		require.NoError(b.T, err)
		for _, v := range values {
			n += int64(len(v))
		}
	}
	return n
}

// large returns a result with a body of n bytes.
func large(index, n int) *batch.Result {
	r := queuetest.Result(index, batch.Succeeded)
	r.Headers = []batch.Field{{Name: "content-type", Value: "text/plain"}}
	r.Body = bytes.Repeat([]byte{'x'}, n)
	return r
}

// dieBeforeSetRoom ends the first action of a batch as a worker that dies after it reserved room, before the batch had it.
func (b *bundle) dieBeforeSetRoom(id string, begun *batch.Begun) {
	died := &queuetest.RefusedCommands{Step: quotas.Steps.SetRoom.Hash()}
	b.DB.Client.AddHook(died)
	require.Error(b.T, b.Ledger.Finish(b.Ctx, id, 0, begun.Token, large(0, 300<<10)))
	died.Over.Store(true)
}

// answer begins an action and ends it with a body of n bytes. It returns the result as it was stored.
func (b *bundle) answer(l *ledger.Ledger, id string, index, n int) *batch.Result {
	begun, err := l.Begin(b.Ctx, id, index, "w1")
	if err != nil || begun.Verdict != batch.Run {
		b.T.Error(index, begun, err)
		return nil
	}
	r := large(index, n)
	if err := l.Finish(b.Ctx, id, index, begun.Token, r); err != nil {
		b.T.Error(err)
	}
	return r
}

// results reads the results of a batch, and counts those with a body and those without.
func (b *bundle) results(id string, n int) (whole, without int) {
	b.T.Helper()
	all := b.AllResults(id, 100)
	require.Len(b.T, all, n)
	for i, r := range all {
		require.Equal(b.T, batch.Succeeded, r.Outcome)
		require.Equal(b.T, 200, r.Status)
		require.Equal(b.T, i, r.Index)
		require.NotZero(b.T, r.StartedAt)
		if r.TruncatedBy == "" {
			require.False(b.T, r.Truncated)
			whole++
			continue
		}
		require.Equal(b.T, batch.QuotaStoredBytes, r.TruncatedBy)
		require.True(b.T, r.Truncated)
		require.Empty(b.T, r.Body)
		without++
	}
	return whole, without
}

// A small submission must not fill Redis with the answers that it gets.
func TestResultsAreBoundedByTheQuotaOfStoredBytes(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		const quota, n, body = 1 << 20, 60, 64 << 10
		mine, other := of("me", batch.Quotas{StoredBytes: quota}), of("other", batch.Quotas{StoredBytes: quota})
		got := b.must(n, mine)
		for i := range n {
			b.answer(b.Ledger, got.ID, i, body)
			if i == n/2 {
				b.must(1, other)
			}
		}
		require.LessOrEqual(t, b.stored(got.ID), int64(quota+n*small))
		require.LessOrEqual(t, b.held(got.ID), b.stored(got.ID))
		whole, without := b.results(got.ID, n)
		require.GreaterOrEqual(t, whole, 12, "most of the quota is used")
		require.Positive(t, without)
		end := b.Read(got.ID)
		require.Equal(t, batch.StatusCompleted, end.Status)
		require.Equal(t, n, end.Counts.Succeeded)

		_, err := b.submit(100, mine)
		b.requireRefused(err, batch.QuotaStoredBytes)
		b.must(1, other)
		require.NoError(t, b.Delete(b.Ctx, "me", got.ID))
		b.must(100, mine)
	})
}

func TestManyBatchesOnTwoWorkersStayWithinTheQuotaTogether(t *testing.T) {
	queuetest.OnStores(t, func(t *testing.T, b0 *queuetest.Bundle) {
		b := &bundle{b0}
		const quota, batches, n, body = 2 << 20, 5, 20, 48 << 10
		address, mine := at("a", batch.Quotas{StoredBytes: quota}), of("me", batch.Quotas{StoredBytes: quota + 1<<10})
		workers := []*ledger.Ledger{
			b.Ledger,
			ledger.New(b.DB, b.Log, b.Seals, b.Background, b.Batcher, b.Tasks, b.Batches, ledger.NoHandOver{}, ledger.NewHistory()),
		}
		var ids []string
		for range batches {
			ids = append(ids, b.must(n, address, mine).ID)
		}
		stop, looked := make(chan struct{}), make(chan struct{})
		go func() { // looks at any moment change nothing
			defer close(looked)
			for {
				select {
				case <-stop:
					return
				default:
					b.Batches.Quotas.Sweep(b.Ctx)
					_, _, _ = b.Batches.Quotas.Reserve(b.Ctx, &mine, quotas.Charge{ID: "refused", Bytes: quota + 1<<10})
				}
			}
		}()
		var all sync.WaitGroup
		for i, id := range ids {
			for index := range n {
				all.Go(func() { b.answer(workers[(i+index)%2], id, index, body+index) })
			}
		}
		all.Wait()
		close(stop)
		<-looked
		var sum int64
		whole, without := 0, 0
		for _, id := range ids {
			require.Equal(t, n, b.Read(id).Counts.Succeeded)
			require.LessOrEqual(t, b.held(id), b.stored(id))
			sum += b.stored(id)
			w, o := b.results(id, n)
			whole, without = whole+w, without+o
		}
		require.LessOrEqual(t, sum, int64(quota+batches*n*small))
		require.Positive(t, without)
		require.GreaterOrEqual(t, whole, 20)

		b.passTime(address, mine)
		b.Batches.Quotas.Sweep(b.Ctx)
		for _, a := range []batch.Account{address, mine} {
			require.Equal(t, quotas.Use{StoredBytes: sum}, b.use(a), "the room of batches that have ended is released")
		}
	}, "server")
}

// While a batch has room, and without quotas, a result costs the exchanges that it always did.
func TestAResultWithRoomAsksNoAccount(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		mine := of("me", batch.Quotas{StoredBytes: 64 << 20})
		seen := &queuetest.Exchanges{}
		b.DB.Client.AddHook(seen)
		for _, accounts := range [][]batch.Account{{mine}, {of("me", batch.Quotas{OpenBatches: 9})}, nil} {
			got := b.must(20, accounts...)
			before := len(seen.With(quotas.Steps.Charge.Hash()))
			for i := range 20 {
				b.answer(b.Ledger, got.ID, i, 2<<10)
			}
			require.Len(t, seen.With(quotas.Steps.Charge.Hash()), before)
			whole, _ := b.results(got.ID, 20)
			require.Equal(t, 20, whole)
		}
		got := b.must(64, mine)
		before := len(seen.With(quotas.Steps.Charge.Hash()))
		for i := range 64 {
			b.answer(b.Ledger, got.ID, i, 64<<10)
		}
		require.LessOrEqual(t, len(seen.With(quotas.Steps.Charge.Hash()))-before, 8, "it asks rarely")
	})
}

func TestAnOpenBatchCountsWithItsRoom(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		mine := of("me", batch.Quotas{StoredBytes: 8 << 20})
		got := b.must(3, mine)
		require.Equal(t, b.number(got.ID, "room"), b.use(mine).StoredBytes)
		b.answer(b.Ledger, got.ID, 0, 300<<10)
		room := b.number(got.ID, "room")
		require.Greater(t, room, b.stored(got.ID))
		require.Equal(t, room, b.use(mine).StoredBytes)
		b.passTime(mine)
		b.Sweep()
		require.Equal(t, room, b.use(mine).StoredBytes)
		b.answer(b.Ledger, got.ID, 1, 10)
		b.answer(b.Ledger, got.ID, 2, 10)
		b.passTime(mine)
		b.Sweep()
		require.Equal(t, b.stored(got.ID), b.use(mine).StoredBytes)
	})
}

// A worker died after it reserved room, before the batch had it.
func TestTheSweeperReleasesRoomThatNoBatchGot(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		mine := of("me", batch.Quotas{StoredBytes: 8 << 20})
		got := b.must(3, mine)
		begun := b.Begin(got.ID, 0)
		b.dieBeforeSetRoom(got.ID, begun)
		require.Greater(t, b.use(mine).StoredBytes, int64(300<<10))
		b.Batches.Quotas.Sweep(b.Ctx)
		require.Greater(t, b.use(mine).StoredBytes, int64(300<<10), "the worker may be about to give the batch the room")
		b.passTime(mine)
		b.Batches.Quotas.Sweep(b.Ctx)
		require.Equal(t, b.number(got.ID, "room"), b.use(mine).StoredBytes)
		r := large(0, 300<<10)
		require.NoError(t, b.Ledger.Finish(b.Ctx, got.ID, 0, begun.Token, r), "the worker repeats it")
		require.Empty(t, r.TruncatedBy)
		require.Equal(t, b.number(got.ID, "room"), b.use(mine).StoredBytes)
	})
}

// Redis went back to a state in which the batch had less room than this process got for it.
func TestAProcessAsksAgainForRoomThatRedisForgot(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		mine := of("me", batch.Quotas{StoredBytes: 8 << 20})
		got := b.must(2, mine)
		before := b.number(got.ID, "room")
		b.answer(b.Ledger, got.ID, 0, 300<<10)
		require.NoError(t, b.DB.Client.HSet(b.Ctx, keys.KeysOf(got.ID).Meta, "room", before).Err())
		require.Empty(t, b.answer(b.Ledger, got.ID, 1, 100<<10).TruncatedBy)
		require.Greater(t, b.number(got.ID, "room"), before)
	})
}

// Room that was reserved long ago, or in an earlier round, may no longer be reserved.
func TestABatchGetsNoRoomThatMayNotBeReserved(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		mine := of("me", batch.Quotas{StoredBytes: 8 << 20})
		got := b.must(1, mine)
		meta := []string{keys.KeysOf(got.ID).Meta}
		now, err := b.DB.Now(b.Ctx)
		require.NoError(t, err)
		soon, room := now.UnixMilli()+60_000, b.number(got.ID, "room")
		set := func(round string, until int64) string {
			answer, err := b.DB.Run(b.Ctx, quotas.Steps.SetRoom, meta, round, "", room+1, until)
			require.NoError(t, err)
			return answer[0]
		}
		require.Equal(t, "late", set("", now.UnixMilli()-1))
		require.Equal(t, "over", set("2", soon))
		require.Equal(t, room, b.number(got.ID, "room"))
		for range 2 {
			require.Equal(t, "ok", set("", soon))
			require.Equal(t, room+1, b.number(got.ID, "room"))
		}
		b.End(got.ID, 0, batch.Failed)
		require.Equal(t, "over", set("", soon))
		require.NoError(t, b.Delete(b.Ctx, "me", got.ID))
		require.Equal(t, "over", set("", soon))
		require.Zero(t, b.DB.Client.Exists(b.Ctx, meta[0]).Val())
	})
}

func TestARetriedResultFreesTheBytesOfTheEarlierOne(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		mine := of("me", batch.Quotas{StoredBytes: 1 << 20})
		spec := &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Failed}, Accounts: []batch.Account{mine}}
		got := b.must(2, mine)
		b.End(got.ID, 1, batch.Succeeded)
		var stored int64
		for round := range 6 {
			begun := b.Begin(got.ID, 0)
			r := large(0, 600<<10)
			r.Outcome = batch.Failed
			r.Attempts = round + 1
			require.NoError(t, b.Ledger.Finish(b.Ctx, got.ID, 0, begun.Token, r))
			require.Empty(t, r.TruncatedBy)
			if round == 0 {
				stored = b.stored(got.ID)
			}
			require.InDelta(t, stored, b.stored(got.ID), 10)
			_, _, err := b.Retry(b.Ctx, "me", got.ID, spec)
			require.NoError(t, err)
		}
		b.answer(b.Ledger, got.ID, 0, 100)
		require.Less(t, b.stored(got.ID), int64(10<<10))

		full := b.must(40, mine)
		for i := range 40 {
			b.answer(b.Ledger, full.ID, i, 100<<10)
		}
		_, _, err := b.Retry(b.Ctx, "me", full.ID, &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Succeeded}, Accounts: []batch.Account{of("me", batch.Quotas{StoredBytes: 512 << 10})}})
		b.requireRefused(err, batch.QuotaStoredBytes)
	})
}

// The repetition of a finish after a lost answer counts nothing twice.
func TestAGroupAndAReleasedActionCountWhatTheyStore(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		mine := of("me", batch.Quotas{StoredBytes: 1 << 20})
		u, err := b.Open(b.Ctx, "me", "")
		require.NoError(t, err)
		u.Charge(mine)
		for i := range 4 {
			a := queuetest.Action(i)
			if i > 0 {
				a.Group = "g"
			}
			require.NoError(t, u.Add(b.Ctx, a))
		}
		got, _, err := u.Commit(b.Ctx, queuetest.Spec())
		require.NoError(t, err)
		stored, held := b.stored(got.ID), b.held(got.ID)
		grew := func() {
			t.Helper()
			require.Equal(t, b.held(got.ID)-held, b.stored(got.ID)-stored)
		}
		for range 2 {
			b.PutBack(got.ID, 0, 503)
			grew()
		}
		begun := b.Begin(got.ID, 1)
		g := begun.Group
		for i, n := range []int{300 << 10, 900 << 10} {
			g.Seq++
			staged := large(i+1, n)
			for range 2 {
				_, err = b.Ledger.SaveGroup(b.Ctx, got.ID, begun.Token, g, staged)
				require.NoError(t, err)
				grew()
			}
			require.Equal(t, i > 0, staged.TruncatedBy != "")
		}
		results := []batch.Result{{Outcome: batch.Succeeded}, {Outcome: batch.Succeeded}, *large(3, 900<<10)}
		for range 2 {
			require.NoError(t, b.Ledger.FinishGroup(b.Ctx, got.ID, begun.Token, g, results))
			require.Positive(t, b.held(got.ID))
		}
		require.Equal(t, batch.QuotaStoredBytes, results[2].TruncatedBy)
		require.LessOrEqual(t, b.stored(got.ID), int64(1<<20+4*small))
		b.answer(b.Ledger, got.ID, 0, 10)
		require.Equal(t, 4, b.Read(got.ID).Counts.Succeeded)
	})
}

func TestAResultWithoutRoomSaysWhy(t *testing.T) {
	t.Parallel()
	r := large(3, 10<<10)
	r.DropContent(small)
	require.Equal(t, "text/plain", r.Headers[0].Value)
	encoded, err := json.Marshal(r)
	require.NoError(t, err)
	require.LessOrEqual(t, len(encoded), small)
	require.Contains(t, string(encoded), `"truncated":true,"truncated_by":"stored_bytes"`)
	var back batch.Result
	require.NoError(t, json.Unmarshal(encoded, &back))
	require.Equal(t, batch.QuotaStoredBytes, back.TruncatedBy)

	r = large(3, 0)
	r.Headers = append(r.Headers, batch.Field{Name: "x", Value: string(bytes.Repeat([]byte{'y'}, small))})
	r.DropContent(small)
	require.Empty(t, r.Headers)
	require.Equal(t, batch.QuotaStoredBytes, r.TruncatedBy)
}
