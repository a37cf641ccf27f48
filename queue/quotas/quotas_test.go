package quotas_test

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/quotas"
)

// bundle is what a test works with.
type bundle struct{ *queuetest.Bundle }

func onEveryStore(t *testing.T, test func(t *testing.T, b *bundle)) {
	t.Helper()
	queuetest.OnEveryStore(t, func(t *testing.T, b *queuetest.Bundle) { test(t, &bundle{b}) })
}

func of(owner string, q batch.Quotas) batch.Account {
	return batch.Account{Kind: batch.OwnerAccount, Name: owner, Quotas: q}
}

func at(address string, q batch.Quotas) batch.Account {
	return batch.Account{Kind: batch.AddressAccount, Name: address, Quotas: q}
}

// submit submits n actions of the owner "me" that count for accounts.
func (b *bundle) submit(n int, accounts ...batch.Account) (*batch.Batch, error) {
	u, err := b.Open(b.Ctx, "me", "")
	if err != nil {
		return nil, err
	}
	defer u.Abort(b.Ctx)
	u.Charge(accounts...)
	for i := range n {
		if err := u.Add(b.Ctx, queuetest.Action(i)); err != nil {
			return nil, err
		}
	}
	got, _, err := u.Commit(b.Ctx, queuetest.Spec())
	return got, err
}

func (b *bundle) must(n int, accounts ...batch.Account) *batch.Batch {
	b.T.Helper()
	got, err := b.submit(n, accounts...)
	require.NoError(b.T, err)
	return got
}

func (b *bundle) use(a batch.Account) quotas.Use {
	b.T.Helper()
	use, err := b.Batches.Quotas.Use(b.Ctx, a)
	require.NoError(b.T, err)
	return use
}

// requireRefused requires that a quota refused a submission, and returns the error.
func (b *bundle) requireRefused(err error, quota string) *batch.QuotaError {
	b.T.Helper()
	var refused *batch.QuotaError
	require.ErrorAs(b.T, err, &refused)
	require.Equal(b.T, quota, refused.Quota)
	return refused
}

// passTime makes everything due that accounts look at later.
func (b *bundle) passTime(accounts ...batch.Account) {
	b.T.Helper()
	for _, a := range accounts {
		key := quotas.Keys(string(a.Kind) + ":" + a.Name)[1]
		ids, err := b.DB.Client.ZRange(b.Ctx, key, 0, -1).Result()
		require.NoError(b.T, err)
		for _, id := range ids {
			require.NoError(b.T, b.DB.Client.ZAdd(b.Ctx, key, redis.Z{Member: id}).Err())
		}
	}
	names, err := b.DB.Client.ZRange(b.Ctx, quotas.ListKey, 0, -1).Result()
	require.NoError(b.T, err)
	for _, name := range names {
		require.NoError(b.T, b.DB.Client.ZAdd(b.Ctx, quotas.ListKey, redis.Z{Member: name}).Err())
	}
}

// noKeys requires that nothing is left of the accounts.
func (b *bundle) noKeys() {
	b.T.Helper()
	b.Background.Wait()
	for key := range b.AllKeys() {
		require.NotContains(b.T, key, "batchd:quota")
	}
}

func TestOfManySubmissionsAtOnceExactlyTheQuotaIsAccepted(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		accounts := []batch.Account{at("a", batch.Quotas{OpenBatches: 10}), of("me", batch.Quotas{OpenBatches: 10})}
		var accepted, refused atomic.Int32
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				_, err := b.submit(1, accounts...)
				switch {
				case err == nil:
					accepted.Add(1)
				case errors.As(err, new(*batch.QuotaError)):
					refused.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		all.Wait()
		require.EqualValues(t, 10, accepted.Load())
		require.EqualValues(t, 40, refused.Load())
		b.Background.Wait()
		for _, a := range accounts {
			require.EqualValues(t, 10, b.use(a).OpenBatches, "refused submissions hold nothing")
		}
		page, _, err := b.List(b.Ctx, batch.OwnedBy("me"), "", 100)
		require.NoError(t, err)
		require.Len(t, page, 10)
		for key := range b.AllKeys() {
			require.NotRegexp(t, `:[au]$`, dropped(key, page), "a refused submission leaves nothing")
		}
	})
}

// A client that is told to try again must have a chance.
func TestABatchThatCanNeverFitIsNotToldToTryAgain(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		small := of("me", batch.Quotas{StoredBytes: 1 << 20})
		b.must(1000, small) // needs more than half of the quota of the owner
		for _, row := range []struct {
			n     int
			never bool
		}{{1000, false}, {2000, true}, {9000, true}} {
			_, err := b.submit(row.n, of("me", small.Quotas))
			refused := b.requireRefused(err, batch.QuotaStoredBytes)
			require.Equal(t, row.never, refused.RetryAfter == 0, "%d actions: %v", row.n, err)
			require.Equal(t, row.never, refused.Needs > refused.Value, "%d actions: %v", row.n, err)
			if row.n == 1000 {
				require.Greater(t, refused.Needs, int64(1<<19), "the whole batch counts, not what came before the refusal")
			}
		}
		_, err := b.submit(10, of("me", batch.Quotas{OpenBatches: 1, StoredBytes: 4 << 10}))
		require.Zero(t, b.requireRefused(err, batch.QuotaStoredBytes).RetryAfter, "although there is no room for open batches either")
		b.Background.Wait()
		require.EqualValues(t, 1, b.use(small).OpenBatches)
	})
}

// dropped returns a key, or nothing if it belongs to one of the batches.
func dropped(key string, batches []*batch.Batch) string {
	for _, one := range batches {
		if key == keys.KeysOf(one.ID).Actions {
			return ""
		}
	}
	return key
}

func TestARefusalNamesTheQuotaAndOthersGoOn(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		mine := of("me", batch.Quotas{OpenBatches: 2, StoredBytes: 1 << 20})
		b.must(1, mine)
		b.must(1, mine)
		_, err := b.submit(1, mine)
		refused := b.requireRefused(err, batch.QuotaOpenBatches)
		require.EqualValues(t, 2, refused.Value)
		require.EqualValues(t, 2, refused.Used)
		require.Equal(t, batch.OwnerAccount, refused.Kind)
		require.Positive(t, refused.RetryAfter)
		b.must(1, of("other", batch.Quotas{OpenBatches: 2}))
		b.must(1) // without quotas
	})
}

func TestABatchCountsAsOpenUntilItEnds(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		mine := of("me", batch.Quotas{OpenBatches: 1})
		for i := range 4 {
			got := b.must(1, mine)
			_, err := b.submit(1, mine)
			b.requireRefused(err, batch.QuotaOpenBatches)
			switch i {
			case 0:
				b.End(got.ID, 0, batch.Succeeded)
			case 1:
				_, err := b.Cancel(b.Ctx, "me", got.ID)
				require.NoError(t, err)
			case 2:
				require.NoError(t, b.Delete(b.Ctx, "me", got.ID))
			default:
				require.NoError(t, b.DB.Client.HSet(b.Ctx, keys.KeysOf(got.ID).Meta, "expires", 1).Err())
				b.Sweep()
			}
			b.Eventually("the end makes room", func() bool {
				next, err := b.submit(1, mine)
				if err == nil {
					require.NoError(t, b.Delete(b.Ctx, "me", next.ID))
				}
				return err == nil
			})
		}
	})
}

func TestStoredBytesAreActionsAndResultsUntilTheBatchIsGone(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		mine := of("me", batch.Quotas{StoredBytes: 64 << 10})
		got := b.must(20, mine)
		submitted := b.stored(got.ID)
		require.Greater(t, submitted, int64(20*100))
		require.GreaterOrEqual(t, b.use(mine).StoredBytes, submitted)
		b.EndAll(got.ID, 20)
		b.passTime(mine)
		b.Batches.Quotas.Sweep(b.Ctx)
		ended := b.use(mine)
		require.Greater(t, ended.StoredBytes, submitted+20*50, "results count")
		require.Zero(t, ended.OpenBatches)
		var refused *batch.QuotaError
		for {
			_, err := b.submit(20, mine)
			if errors.As(err, &refused) {
				break
			}
			require.NoError(t, err)
		}
		require.Equal(t, batch.QuotaStoredBytes, refused.Quota)
		require.EqualValues(t, 64<<10, refused.Value)
		require.Positive(t, refused.RetryAfter)
		require.LessOrEqual(t, b.use(mine).StoredBytes, int64(64<<10))
		require.Greater(t, b.use(mine).StoredBytes+refused.Needs, int64(64<<10))
		require.NoError(t, b.Delete(b.Ctx, "me", got.ID))
		b.must(20, mine)

		_, err := b.submit(1000, mine)
		refused = b.requireRefused(err, batch.QuotaStoredBytes)
		require.Zero(t, refused.RetryAfter, "a submission that is larger than the quota never fits")
	})
}

// A large submission is refused while it is staged, and what it staged is dropped.
func TestAnUploadDoesNotStageMoreThanItMayStore(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		mine := of("me", batch.Quotas{StoredBytes: 1 << 20})
		u, err := b.Open(b.Ctx, "me", "key")
		require.NoError(t, err)
		u.Charge(mine)
		added := 0
		a := queuetest.Action(0)
		a.Body = make([]byte, 10<<10)
		for ; err == nil && added < 1000; added++ {
			err = u.Add(b.Ctx, a)
		}
		b.requireRefused(err, batch.QuotaStoredBytes)
		require.Less(t, added, 150)
		require.LessOrEqual(t, b.use(mine).StoredBytes, int64(1<<20))
		u.Abort(b.Ctx)
		b.Background.Wait()
		require.Zero(t, b.use(mine))
		for key := range b.AllKeys() {
			require.NotRegexp(t, `^batchd:(\{|key)`, key, "a refused submission leaves nothing, also no idempotency key")
		}
	})
}

func TestUploadsHaveARateAndABurst(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		mine := of("me", batch.Quotas{UploadRate: 1, UploadBurst: 20 << 10})
		var refused *batch.QuotaError
		accepted := 0
		for {
			got, err := b.submit(1, mine)
			if errors.As(err, &refused) {
				break
			}
			require.NoError(t, err)
			accepted++
			require.NoError(t, b.Delete(b.Ctx, "me", got.ID), "the rate does not count what is stored")
		}
		require.Equal(t, batch.QuotaUploadRate, refused.Quota)
		require.Positive(t, accepted)
		require.Greater(t, refused.RetryAfter, time.Minute)
		_, err := b.submit(100, mine)
		require.Zero(t, b.requireRefused(err, batch.QuotaUploadRate).RetryAfter, "more than the burst never fits")

		fast := of("fast", batch.Quotas{UploadRate: 1 << 40, UploadBurst: 1})
		for range 20 {
			b.must(1, fast)
		}
	})
}

func TestARepeatedSubmissionCountsNothing(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		mine := of("me", batch.Quotas{OpenBatches: 1, UploadRate: 1, UploadBurst: 8 << 10})
		var first string
		for i := range 3 {
			u, err := b.Open(b.Ctx, "me", "key")
			require.NoError(t, err)
			u.Charge(mine)
			require.NoError(t, u.Add(b.Ctx, queuetest.Action(0)))
			got, replayed, err := u.Commit(b.Ctx, queuetest.Spec())
			require.NoError(t, err)
			require.Equal(t, i > 0, replayed)
			if i == 0 {
				first = got.ID
			}
			require.Equal(t, first, got.ID)
		}
	})
}

func TestARetriedBatchIsOpenAgain(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		address, mine := at("a", batch.Quotas{OpenBatches: 1}), of("me", batch.Quotas{OpenBatches: 1})
		spec := &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Failed}, Accounts: []batch.Account{at("elsewhere", address.Quotas), mine}}
		got := b.must(1, address, mine)
		b.End(got.ID, 0, batch.Failed)
		other := b.must(1, address, mine)
		_, _, err := b.Retry(b.Ctx, "me", got.ID, spec)
		b.requireRefused(err, batch.QuotaOpenBatches)
		require.Equal(t, batch.StatusCompleted, b.Read(got.ID).Status)
		b.End(other.ID, 0, batch.Failed)
		b.Eventually("the end makes room", func() bool {
			_, _, err = b.Retry(b.Ctx, "me", got.ID, spec)
			return err == nil
		})
		for _, a := range []batch.Account{address, mine} {
			_, err = b.submit(1, a)
			require.EqualValues(t, 1, b.requireRefused(err, batch.QuotaOpenBatches).Used)
		}
		require.Zero(t, b.use(at("elsewhere", batch.Quotas{})), "the batch counts for the address that submitted it")
	})
}

func TestNothingIsLeftOfAccountsWithoutBatches(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		address, mine := at("a", batch.Quotas{OpenBatches: 9}), of("me", batch.Quotas{OpenBatches: 9, StoredBytes: 1 << 20})
		got := b.must(3, address, mine)
		for _, a := range []batch.Account{address, mine} {
			require.EqualValues(t, 1, b.use(a).OpenBatches)
		}
		require.NoError(t, b.Delete(b.Ctx, "me", got.ID))
		for _, a := range []batch.Account{address, mine} {
			require.Zero(t, b.use(a))
		}
		b.passTime()
		b.Sweep()
		b.noKeys()
	})
}
