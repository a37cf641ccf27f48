package limits_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/limits"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/rdb"
)

// commitAsked commits an upload of n actions.
func (b *bundle) commitAsked(u batch.Upload, n int) string {
	b.T.Helper()
	for i := range n {
		require.NoError(b.T, u.Add(b.Ctx, queuetest.Action(i)))
	}
	got, _, err := u.Commit(b.Ctx, queuetest.Spec())
	require.NoError(b.T, err)
	return got.ID
}

func TestARateAdmitsAllOrNothing(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		limit := batch.Limit{Rate: batch.Rate{N: 10, Per: time.Hour}}
		_, admitted, state, err := b.Ask("me", 6, limit, false)
		require.NoError(t, err)
		require.Equal(t, 6, admitted)
		require.Equal(t, 4, state.Remaining)
		require.Positive(t, state.Reset)
		_, _, _, err = b.Ask("me", 5, limit, false)
		limited := (*batch.LimitedError)(nil)
		require.ErrorAs(t, err, &limited)
		require.Equal(t, 4, limited.State.Remaining, "nothing was taken")
		require.Contains(t, limited.Detail, "10/hour")
		_, admitted, _, err = b.Ask("me", 4, limit, false)
		require.NoError(t, err)
		require.Equal(t, 4, admitted)
		_, admitted, _, err = b.Ask("you", 10, limit, false)
		require.NoError(t, err, "an owner's limit is his own")
		require.Equal(t, 10, admitted)
		other := limit
		other.Scope = "/elsewhere"
		_, _, _, err = b.Ask("me", 10, other, false)
		require.NoError(t, err, "an endpoint's limit is its own")

		_, _, _, err = b.Ask("me", 10, limit, false)
		require.ErrorAs(t, err, &limited)
		require.Greater(t, limited.RetryAfter, 50*time.Minute)
		require.LessOrEqual(t, limited.RetryAfter, time.Hour+time.Hour/100)

		_, _, _, err = b.Ask("me", 11, limit, false)
		require.ErrorAs(t, err, &limited)
		require.Zero(t, limited.RetryAfter, "it can never be")

		limit.Rate.Per = 300 * time.Millisecond
		_, _, _, err = b.Ask("she", 10, limit, false)
		require.NoError(t, err)
		for { // a busy machine may have let the window pass
			if _, _, _, err = b.Ask("she", 10, limit, false); err != nil {
				break
			}
		}
		require.ErrorAs(t, err, &limited)
		require.Positive(t, limited.RetryAfter)
		require.LessOrEqual(t, limited.RetryAfter, limit.Rate.Per+limit.Rate.Per/limits.WindowSlices+time.Millisecond)
		<-time.After(limited.RetryAfter + 5*time.Millisecond)
		_, _, _, err = b.Ask("she", 10, limit, false)
		require.NoError(t, err, "what Retry-After says is true")
	})
}

// No window of a rate's length sees more than it admits, wherever in a slice the requests are. The
// times are recorded, and any window that begins with one of them is looked at.
func TestNoWindowOfAnOwnersRateSeesMoreThanItAdmits(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.DB.Embed.StopClock() // keys would expire by the time of this machine
	for seed := range uint64(4) {
		r := rand.New(rand.NewPCG(seed, 1))
		rate := batch.Rate{N: 1 + r.IntN(20), Per: time.Duration(1+r.IntN(7)) * time.Second}
		owner, slice := fmt.Sprint("owner", seed), rate.Per/limits.WindowSlices
		now := time.UnixMilli(1_700_000_000_000)
		var admitted []time.Time // one for each action
		last := now
		for range 250 {
			switch r.IntN(3) {
			case 0: // right before, at, or right after the end of a slice
				edge := now.Truncate(slice.Truncate(time.Millisecond)).Add(slice.Truncate(time.Millisecond))
				now = edge.Add(time.Duration(r.IntN(3)-1) * time.Millisecond)
			case 1:
				now = now.Add(time.Duration(r.Int64N(int64(rate.Per / time.Duration(rate.N)))).Truncate(time.Millisecond))
			case 2: // as long as the window after one that was admitted
				if len(admitted) > 0 {
					at := admitted[r.IntN(len(admitted))].Add(rate.Per + time.Duration(r.IntN(3)-1)*time.Millisecond)
					now = maxTime(now, at)
				}
			}
			now = maxTime(now, last)
			last = now
			b.DB.Embed.Server.SetTime(now)
			given, err := b.Limits.Admit(b.Ctx, limits.Asked{Owner: owner, Grant: "batch", N: 1 + r.IntN(3), Limit: batch.Limit{Rate: rate}, Partial: true})
			require.NoError(t, err)
			for range given.Holds {
				admitted = append(admitted, now)
			}
		}
		require.LessOrEqual(t, most(admitted, rate.Per), rate.N, "%s", rate)
		require.Greater(t, len(admitted), 2*rate.N, "it does admit some")

		// The same owner's rate is changed, to one with other slices.
		now = last.Add(time.Millisecond)
		b.DB.Embed.Server.SetTime(now)
		changed := batch.Rate{N: rate.N, Per: 2 * rate.Per}
		_, err := b.Limits.Admit(b.Ctx, limits.Asked{Owner: owner, Grant: "batch", N: rate.N, Limit: batch.Limit{Rate: changed}, Partial: true})
		require.NoError(t, err)
		b.DB.Embed.Server.SetTime(now.Add(changed.Per + 2*changed.Per/limits.WindowSlices))
		given, err := b.Limits.Admit(b.Ctx, limits.Asked{Owner: owner, Grant: "batch", N: rate.N, Limit: batch.Limit{Rate: changed}})
		require.NoError(t, err)
		require.Equal(t, rate.N, given.Holds, "what was admitted under the former rate has left the window")
	}
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func TestWhatIsAdmittedAndComesToNothingIsGivenBack(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		limit := batch.Limit{Rate: batch.Rate{N: 10, Per: time.Minute}, Concurrent: 10}
		for range 3 {
			u, _, _, err := b.Ask("me", 10, limit, false)
			require.NoError(t, err)
			u.Abort(b.Ctx)
		}
		_, admitted, state, err := b.Ask("me", 25, limit, true)
		require.NoError(t, err)
		require.Equal(t, 10, admitted, "a part is admitted where that is asked for")
		require.Zero(t, state.Remaining)
		_, admitted, _, err = b.Ask("me", 25, limit, true)
		require.NoError(t, err)
		require.Zero(t, admitted)
	})
}

func TestConcurrencyIsGivenBackAsActionsEnd(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		limit := batch.Limit{Concurrent: 5}
		u, _, _, err := b.Ask("me", 5, limit, false)
		require.NoError(t, err)
		id := b.commitAsked(u, 5)
		limited := (*batch.LimitedError)(nil)
		_, _, _, err = b.Ask("me", 1, limit, false)
		require.ErrorAs(t, err, &limited)
		require.Positive(t, limited.RetryAfter)
		b.End(id, 3, batch.Succeeded)
		b.End(id, 4, batch.Unknown) // as after a worker was killed
		u, _, _, err = b.Ask("me", 2, limit, false)
		require.NoError(t, err)
		b.commitAsked(u, 2)
		_, _, _, err = b.Ask("me", 1, limit, false)
		require.ErrorAs(t, err, &limited)
		_, err = b.Cancel(b.Ctx, "me", id)
		require.NoError(t, err)
		u, _, _, err = b.Ask("me", 3, limit, false)
		require.NoError(t, err, "whoever ended them")
		third := b.commitAsked(u, 3)
		require.NoError(t, b.Delete(b.Ctx, "me", third))
		fourth, _, _, err := b.Ask("me", 3, limit, false)
		require.NoError(t, err, "what was erased holds no place")
		_, _, _, err = b.Ask("me", 3, limit, false)
		require.ErrorAs(t, err, &limited, "what is about to be committed does")
		fourth.Abort(b.Ctx)
	})
}

// A batch may run for a year, and be kept for another one.
func TestAGrantOutlivesItsBatch(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		_, _, _, err := b.Ask("me", 1, batch.Limit{Concurrent: 5}, false)
		require.NoError(t, err)
		left, err := b.DB.Client.PTTL(b.Ctx, limits.LimitKeys("me", batch.Limit{})[1]).Result()
		require.NoError(t, err)
		require.Greater(t, left, 2*365*24*time.Hour)
	})
}

func TestALimitHoldsOverManyAtOnce(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		limit := batch.Limit{Rate: batch.Rate{N: 50, Per: time.Minute}, Concurrent: 40}
		var total atomic.Int64
		var refused atomic.Int32
		var wg sync.WaitGroup
		for range 30 {
			wg.Go(func() {
				u, err := b.Open(b.Ctx, "me", "")
				if err != nil {
					return
				}
				n, _, err := u.Admit(b.Ctx, 3, limit, false)
				total.Add(int64(n))
				if limited := (*batch.LimitedError)(nil); errors.As(err, &limited) {
					refused.Add(1)
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 39, total.Load())
		require.EqualValues(t, 17, refused.Load())
	})
}

// Credentials of one owner may have rates with different windows.
func TestRatesWithDifferentWindowsDoNotResetEachOther(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.DB.Embed.StopClock()
	now := time.UnixMilli(1_700_000_000_000)
	b.DB.Embed.Server.SetTime(now)
	long := batch.Limit{Rate: batch.Rate{N: 5, Per: time.Hour}}
	short := batch.Limit{Rate: batch.Rate{N: 5, Per: time.Second}}
	ask := func(limit batch.Limit, n int) error {
		_, _, _, err := b.Ask("me", n, limit, false)
		return err
	}
	require.NoError(t, ask(long, 5))
	for range 3 {
		now = now.Add(10 * time.Second)
		b.DB.Embed.Server.SetTime(now)
		require.NoError(t, ask(short, 5))
		require.ErrorAs(t, ask(long, 1), new(*batch.LimitedError), "the other rate's window is over, and not this one's")
	}
	left := b.DB.Client.PTTL(b.Ctx, limits.LimitKeys("me", long)[0]).Val()
	require.Greater(t, left, 59*time.Minute)
}

func atAddress(limit batch.Limit) batch.Limit {
	limit.Address = &batch.AddressLimit{Name: "address", Rate: limit.Rate, Concurrent: limit.Concurrent}
	return limit
}

func TestALimitAlsoHoldsForTheAddress(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		limited := (*batch.LimitedError)(nil)
		for name, limit := range map[string]batch.Limit{
			"rate": {Scope: "rate", Rate: batch.Rate{N: 4, Per: time.Hour}}, "concurrent": {Scope: "concurrent", Concurrent: 4},
		} {
			both := atAddress(limit)
			admitted := 0
			for i := range 20 {
				_, n, _, err := b.Ask(fmt.Sprint(name, i), 2, both, false)
				if admitted += n; err != nil {
					require.ErrorAs(t, err, &limited)
					require.Contains(t, limited.Detail, "for your address")
				}
			}
			require.Equal(t, 4, admitted, name)
			_, n, _, err := b.Ask("elsewhere "+name, 4, limit, false)
			require.NoError(t, err)
			require.Equal(t, 4, n, "another address, or one that does not count")
			_, _, _, err = b.Ask(name+"19", 4, limit, false)
			require.NoError(t, err, "what the address refused counts for no owner")
		}
	})
}

// What an owner's own limit refuses does not count for the address, in part or as a whole.
func TestTheAddressGivesBackWhatTheOwnerIsRefused(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		for name, own := range map[string]batch.Limit{
			"rate": {Scope: "rate", Rate: batch.Rate{N: 3, Per: time.Hour}}, "concurrent": {Scope: "concurrent", Concurrent: 3},
			"both": {Scope: "both", Rate: batch.Rate{N: 3, Per: time.Hour}, Concurrent: 3},
		} {
			both := atAddress(own)
			both.Address.Rate.N, both.Address.Concurrent = 2*own.Rate.N, 2*own.Concurrent
			_, n, state, err := b.Ask(name, 2, both, false)
			require.NoError(t, err)
			require.Equal(t, 2, n)
			if own.Rate.N > 0 {
				require.Equal(t, 1, state.Remaining, "the tighter one is shown")
				require.Equal(t, own.Rate, state.Limit.Rate)
			}
			_, _, _, err = b.Ask(name, 2, both, false)
			limited := (*batch.LimitedError)(nil)
			require.ErrorAs(t, err, &limited)
			require.NotContains(t, limited.Detail, "address")
			u, n, _, err := b.Ask(name, 4, both, true)
			require.NoError(t, err)
			require.Equal(t, 1, n)
			_, n, _, err = b.Ask(name+" invented", 3, both, false)
			require.NoError(t, err, "the address has room for three more")
			require.Equal(t, 3, n)
			_, n, _, err = b.Ask("third "+name, 1, both, true)
			require.NoError(t, err)
			require.Zero(t, n)
			u.Abort(b.Ctx)
			b.Eventually("both parts of the limit have the action again", func() bool {
				_, n, _, err := b.Ask(name, 1, both, true)
				return err == nil && n == 1
			})
		}
	})
}

func TestTheAddressHasRoomAgainAsActionsEnd(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		limit := atAddress(batch.Limit{Concurrent: 2})
		u, _, _, err := b.Ask("me", 2, limit, false)
		require.NoError(t, err)
		id := b.commitAsked(u, 2)
		_, _, _, err = b.Ask("you", 1, limit, false)
		require.ErrorAs(t, err, new(*batch.LimitedError))
		b.End(id, 0, batch.Succeeded)
		_, _, _, err = b.Ask("you", 1, limit, false)
		require.NoError(t, err)
	})
}

// go-redis repeats a step if the connection breaks before its answer.
func TestARefundThatIsRepeatedCountsOnce(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		limit := batch.Limit{Scope: "repeated", Rate: batch.Rate{N: 10, Per: time.Hour}, Concurrent: 10}
		keys := limits.LimitKeys("me", limit)
		for i := range 3 {
			_, n, _, err := b.Ask("me", 3, limit, false)
			require.NoError(t, err, i)
			require.Equal(t, 3, n)
		}
		counts := func() (sum int) {
			for _, n := range b.DB.Client.HGetAll(b.Ctx, keys[0]).Val() {
				sum += int(rdb.Atoi(n))
			}
			return sum
		}
		grants := b.DB.Client.HKeys(b.Ctx, keys[1]).Val()
		require.Len(t, grants, 3)
		for slice := range b.DB.Client.HGetAll(b.Ctx, keys[0]).Val() {
			for range 3 {
				_, err := b.DB.Run(b.Ctx, limits.Steps.Refund, append(keys, keys[0]+":refund:one"), grants[0], slice, 1)
				require.NoError(t, err)
			}
			break
		}
		require.Equal(t, 8, counts())
		require.Equal(t, "2|0", b.DB.Client.HGet(b.Ctx, keys[1], grants[0]).Val())
	})
}

// most returns the most writes in any half-open window of that length.
func most(writes []time.Time, window time.Duration) int {
	most := 0
	for i, j := 0, 0; j < len(writes); j++ {
		for writes[j].Sub(writes[i]) >= window {
			i++
		}
		most = max(most, j-i+1)
	}
	return most
}
