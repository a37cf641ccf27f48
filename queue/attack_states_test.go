package queue_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/queuetest"
)

// A state that an attacker changes repeats or drops an action of its own batch; it never opens another one.
func TestStatesAreNotAuthenticatedAndLeadToNoForeignValue(t *testing.T) {
	t.Parallel()
	a := newAttack(t)
	for index := range 5 {
		for _, state := range "prwgSFEUOCXK?" {
			require.NoError(t, a.DB.Client.SetRange(a.Ctx, keys.KeysOf(a.mine).State, int64(index), string(state)).Err())
			page, err := a.Results(a.Ctx, "me", a.mine, batch.ResultQuery{Limit: 10})
			if err != nil {
				continue
			}
			for i, encoded := range page.Results {
				var r batch.Result
				require.NoError(t, r.UnmarshalJSON(encoded))
				require.Equal(t, i, r.Index)
				require.Equal(t, "a-"+strconv.Itoa(i), r.ID)
			}
		}
	}
}

func TestAnOutcomeThatIsNotThatOfTheResultIsNoAnswer(t *testing.T) {
	t.Parallel()
	a := newAttack(t)
	for id, index := range map[string]int64{a.mine: 0, a.ended: 3} {
		for _, state := range "FEUKCXOprwga0-\x00" {
			counts := []string{"", "unknown"}
			if outcome := map[rune]string{'F': "failed", 'E': "errored", 'U': "unknown", 'O': "unknown", 'C': "cancelled", 'X': "expired", 'K': "skipped"}[state]; outcome != "" {
				counts[1] = outcome
			}
			for _, count := range counts {
				a.changeState(id, index, string(state), "succeeded", count)
				for _, q := range []batch.ResultQuery{{Limit: 10}, {Limit: 10, Outcomes: batch.Outcomes()}, {From: int(index), Limit: 1}} {
					_, err := a.Results(a.Ctx, "me", id, q)
					a.requireDamaged(id, err, "%q, %s", state, count)
				}
				if id == a.ended {
					_, err := a.Ledger.Webhook(a.Ctx, id, a.delivery)
					a.requireDamaged(id, err, "webhook, %q, %s", state, count)
					got, err := a.Get(a.Ctx, "me", id, 100)
					require.NoError(t, err)
					require.Nil(t, got.First)
				}
				a.changeState(id, index, "S", count, "succeeded")
			}
		}
		_, err := a.Results(a.Ctx, "me", id, batch.ResultQuery{Limit: 10})
		require.NoError(t, err)
	}
}

// The counts of an ended batch must be those of all its states, also of actions that an answer does not have.
func TestCountsOfALargeBatchAreThoseOfItsStates(t *testing.T) {
	t.Parallel()
	a := newAttack(t)
	const n = 160
	id := a.Submit(n, queuetest.Spec()).ID
	for i := range n {
		outcome := batch.Failed
		if i < 40 {
			outcome = batch.Succeeded
		}
		a.End(id, i, outcome)
	}
	meta := keys.KeysOf(id).Meta
	queries := []batch.ResultQuery{{Limit: 10}, {Limit: n}, {Limit: 10, Outcomes: []batch.Outcome{batch.Failed}}}
	for _, by := range []int64{0, 1, -1} {
		require.NoError(t, a.DB.Client.HIncrBy(a.Ctx, meta, "succeeded", by).Err())
		require.NoError(t, a.DB.Client.HIncrBy(a.Ctx, meta, "failed", -by).Err())
		for _, q := range queries {
			_, err := a.Results(a.Ctx, "me", id, q)
			if by == 0 {
				require.NoError(t, err)
			} else {
				a.requireDamaged(id, err, "%d, %v", by, q)
			}
		}
		require.NoError(t, a.DB.Client.HIncrBy(a.Ctx, meta, "succeeded", -by).Err())
		require.NoError(t, a.DB.Client.HIncrBy(a.Ctx, meta, "failed", by).Err())
	}
}

// changeState changes the state of an action, and the counts unless one is empty.
func (a *attack) changeState(id string, index int64, state, from, to string) {
	a.T.Helper()
	k := keys.KeysOf(id)
	require.NoError(a.T, a.DB.Client.SetRange(a.Ctx, k.State, index, state).Err())
	if from != "" && to != "" {
		require.NoError(a.T, a.DB.Client.HIncrBy(a.Ctx, k.Meta, from, -1).Err())
		require.NoError(a.T, a.DB.Client.HIncrBy(a.Ctx, k.Meta, to, 1).Err())
	}
}

func (a *attack) requireDamaged(id string, err error, what string, args ...any) {
	a.T.Helper()
	var damaged *batch.DamagedError
	require.ErrorAsf(a.T, err, &damaged, what, args...)
	require.Equal(a.T, id, damaged.ID)
	require.ErrorContains(a.T, err, id)
}

// Results and states that are missing are no missing batch, as long as there is the batch.
func TestMissingResultsAndStatesAreAnErrorThatNamesTheBatch(t *testing.T) {
	t.Parallel()
	a := newAttack(t)
	k := keys.KeysOf(a.ended)
	for name, change := range map[string]func(p redis.Pipeliner){
		"no result":     func(p redis.Pipeliner) { p.HDel(a.Ctx, k.Results, "1") },
		"empty result":  func(p redis.Pipeliner) { p.HSet(a.Ctx, k.Results, "1", "") },
		"no results":    func(p redis.Pipeliner) { p.Del(a.Ctx, k.Results) },
		"no states":     func(p redis.Pipeliner) { p.Del(a.Ctx, k.State) },
		"one state":     func(p redis.Pipeliner) { p.Set(a.Ctx, k.State, "S", redis.KeepTTL) },
		"four states":   func(p redis.Pipeliner) { p.Set(a.Ctx, k.State, "SSSS", redis.KeepTTL) },
		"six states":    func(p redis.Pipeliner) { p.Set(a.Ctx, k.State, "SSSSSS", redis.KeepTTL) },
		"many states":   func(p redis.Pipeliner) { p.Set(a.Ctx, k.State, strings.Repeat("S", 50_000), redis.KeepTTL) },
		"other states":  func(p redis.Pipeliner) { p.Set(a.Ctx, k.State, "\xff\xff\xff\xff\xff", redis.KeepTTL) },
		"cancelled":     func(p redis.Pipeliner) { p.Set(a.Ctx, k.State, "CCCCC", redis.KeepTTL) },
		"result of one": func(p redis.Pipeliner) { p.HSet(a.Ctx, k.Results, "1", "\x00{}") },
	} {
		state, err := a.DB.Client.Dump(a.Ctx, k.State).Result()
		require.NoError(t, err)
		results, err := a.DB.Client.Dump(a.Ctx, k.Results).Result()
		require.NoError(t, err)
		_, err = a.DB.Client.Pipelined(a.Ctx, func(p redis.Pipeliner) error { change(p); return nil })
		require.NoError(t, err)
		for _, q := range []batch.ResultQuery{{Limit: 10}, {Limit: 1, From: 1}, {Limit: 10, Outcomes: []batch.Outcome{batch.Succeeded, batch.Cancelled, batch.Pending}}} {
			_, err := a.Results(a.Ctx, "me", a.ended, q)
			a.requireDamaged(a.ended, err, "%s", name)
		}
		_, err = a.Ledger.Webhook(a.Ctx, a.ended, a.delivery)
		a.requireDamaged(a.ended, err, "%s, webhook", name)
		require.NoError(t, a.DB.Client.RestoreReplace(a.Ctx, k.State, time.Hour, state).Err())
		require.NoError(t, a.DB.Client.RestoreReplace(a.Ctx, k.Results, time.Hour, results).Err())
		_, err = a.Results(a.Ctx, "me", a.ended, batch.ResultQuery{Limit: 10})
		require.NoError(t, err, name)
	}
	actions, err := a.DB.Client.Dump(a.Ctx, keys.KeysOf(a.mine).Actions).Result()
	require.NoError(t, err)
	for _, field := range []string{"4", "1"} {
		require.NoError(t, a.DB.Client.HDel(a.Ctx, keys.KeysOf(a.mine).Actions, field).Err())
		_, err := a.Results(a.Ctx, "me", a.mine, batch.ResultQuery{Limit: 10})
		a.requireDamaged(a.mine, err, "no action %s", field)
		require.NoError(t, a.DB.Client.RestoreReplace(a.Ctx, keys.KeysOf(a.mine).Actions, time.Hour, actions).Err())
	}
	for _, entry := range []string{"x|-99999999999|zzz|9999999999999999999|7|w|||", "x", "x|1|1|1|1.|w", "x|1|253402300800000|1|1|w", "x|1|1|1|-1|w"} {
		require.NoError(t, a.DB.Client.HSet(a.Ctx, keys.KeysOf(a.mine).Ledger, "1", entry).Err())
		_, err := a.Results(a.Ctx, "me", a.mine, batch.ResultQuery{Limit: 10})
		a.requireDamaged(a.mine, err, "ledger entry %s", entry)
	}
}

// The fields of the hash that change while a batch runs are not authenticated, but no reader gets values that no batch
// has.
func TestFieldsThatContradictEachOtherAreAnErrorThatNamesTheBatch(t *testing.T) {
	t.Parallel()
	a := newAttack(t)
	for _, id := range []string{a.mine, a.ended} {
		meta := keys.KeysOf(id).Meta
		own, err := a.DB.Client.HGetAll(a.Ctx, meta).Result()
		require.NoError(t, err)
		change := map[string][]string{
			"status":    {"bogus", "", "Completed", "queued2", "cancelling\x00", "expired"},
			"succeeded": {"-5", "99999999999999999999", "0", "x", "", "+1"},
			"failed":    {"1", "-1", "9223372036854775807"},
			"pending":   {"-1", "17", "", "00"},
			"created":   {"-1", "", "x", "253402300800000"},
			"expires":   {"-1", "", "9223372036854775807"},
			"started":   {"-1", "x", "9223372036854775807"},
			"ended":     {"-1", "x", "999999999999999"},
			"round":     {"-1", "0", "1", "x", "9223372036854775807"},
		}
		if id == a.ended {
			change["status"] = append(change["status"], "queued", "running", "cancelling")
		} else {
			change["status"] = append(change["status"], "completed", "cancelled")
			change["ended"] = append(change["ended"], own["created"])
		}
		for field, values := range change {
			for _, value := range append(values, "\x00deleted") {
				if value == "\x00deleted" {
					if own[field] == "" || field == "started" {
						continue
					}
					require.NoError(t, a.DB.Client.HDel(a.Ctx, meta, field).Err())
				} else {
					require.NoError(t, a.DB.Client.HSet(a.Ctx, meta, field, value).Err())
				}
				for name, read := range a.reads("me", id) {
					a.requireDamaged(id, read(), "%s %q, %s", field, value, name)
				}
				if id == a.ended {
					_, err := a.Ledger.Webhook(a.Ctx, id, a.delivery)
					a.requireDamaged(id, err, "%s %q, webhook", field, value)
				}
				if own[field] == "" {
					require.NoError(t, a.DB.Client.HDel(a.Ctx, meta, field).Err())
				} else {
					require.NoError(t, a.DB.Client.HSet(a.Ctx, meta, field, own[field]).Err())
				}
			}
		}
		for name, read := range a.reads("me", id) {
			require.NoError(t, read(), name)
		}
	}
}

// The log of deliveries has no states that no delivery has.
func TestAStateThatNoDeliveryHasIsAnError(t *testing.T) {
	t.Parallel()
	a := newAttack(t)
	meta := keys.KeysOf(a.ended).Meta
	own, err := a.DB.Client.HGetAll(a.Ctx, meta).Result()
	require.NoError(t, err)
	for field, values := range map[string][]string{"delivery": {"bogus", "withdrawn"}, "next": {"-1", "x"}, "end:1": {"bogus", "pending"}} {
		require.NoError(t, a.DB.Client.HSet(a.Ctx, meta, "round", 2).Err())
		for _, value := range values {
			require.NoError(t, a.DB.Client.HSet(a.Ctx, meta, field, value).Err())
			a.requireDamaged(a.ended, queuetest.ErrorOf(a.Deliveries(a.Ctx, "me", a.ended)), "%s %s", field, value)
		}
		require.NoError(t, a.DB.Client.HDel(a.Ctx, meta, field, "round").Err())
		if own[field] != "" {
			require.NoError(t, a.DB.Client.HSet(a.Ctx, meta, field, own[field]).Err())
		}
	}
	require.NoError(t, queuetest.ErrorOf(a.Deliveries(a.Ctx, "me", a.ended)))
}

// A key of a batch with a value of another type is an error that names the batch.
func TestAKeyOfAnotherTypeIsAnErrorThatNamesTheBatch(t *testing.T) {
	t.Parallel()
	a := newAttack(t)
	for i, key := range []string{keys.KeysOf(a.ended).Results, keys.KeysOf(a.ended).State, keys.KeysOf(a.ended).Meta} {
		require.NoError(t, a.DB.Client.Del(a.Ctx, key).Err())
		require.NoError(t, a.DB.Client.RPush(a.Ctx, key, "x").Err())
		_, err := a.Results(a.Ctx, "me", a.ended, batch.ResultQuery{Limit: 10})
		a.requireDamaged(a.ended, err, "%s", key)
		if i == 2 {
			a.requireDamaged(a.ended, queuetest.ErrorOf(a.Get(a.Ctx, "me", a.ended, 0)), "get")
			a.requireDamaged(a.ended, a.listed("me", a.ended), "list")
			require.NoError(t, a.listed("me", a.mine))
		}
	}
}
