package queue_test

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/queuetest"
)

// attack is a batch of the owner "me" for the target "crm", and one of the owner "you" for the target "erp", as an
// attacker meets them who can write to Redis. In both, action 0 has ended, action 1 waits for another attempt,
// action 2 is the first of a group, and action 4 waits. Each owner has another batch, which has ended, with a webhook.
type attack struct {
	*bundle
	mine, foreign       string
	ended, foreignEnded string
	delivery            int
}

func newAttack(t *testing.T) *attack {
	t.Helper()
	a := &attack{bundle: open(t, redistest.Start(t).URL()), delivery: 1}
	for _, of := range []struct {
		owner, target string
		open, ended   *string
	}{{"me", "crm", &a.mine, &a.ended}, {"you", "erp", &a.foreign, &a.foreignEnded}} {
		spec := queuetest.Spec()
		spec.Target, spec.Scope = of.target, "scope of "+of.owner
		spec.WebhookURL, spec.Metadata = "https://"+of.owner+".example.com/hook", map[string]string{"of": of.owner}
		spec.Fingerprint = []byte("content of " + of.owner)
		*of.open = a.commit(of.owner, "open", spec, func(i int, action *batch.Action) {
			if i == 2 || i == 3 {
				action.Group = "g"
			}
		})
		a.End(*of.open, 0, batch.Succeeded)
		begun := a.Begin(*of.open, 1)
		_, err := a.Ledger.Release(a.Ctx, *of.open, 1, begun.Token, queuetest.Attempted(begun, 503, nil))
		require.NoError(t, err)
		*of.ended = a.commit(of.owner, "ended", spec, nil)
		for i := range 5 {
			a.End(*of.ended, i, batch.Succeeded)
		}
		attempt := batch.Delivery{Round: 1, MessageID: "m", At: time.Now()}
		require.NoError(t, a.Ledger.Delivered(a.Ctx, *of.ended, 1, attempt, batch.DeliveryPending, time.Now().Add(time.Hour)))
	}
	return a
}

func (a *attack) commit(owner, key string, spec *batch.Spec, change func(i int, a *batch.Action)) string {
	a.T.Helper()
	u, err := a.Open(a.Ctx, owner, key)
	require.NoError(a.T, err)
	for i := range 5 {
		action := queuetest.Action(i)
		if change != nil {
			change(i, action)
		}
		require.NoError(a.T, u.Add(a.Ctx, action))
	}
	made, _, err := u.Commit(a.Ctx, spec)
	require.NoError(a.T, err)
	a.Background.Wait()
	return made.ID
}

// begin begins an action as a worker would before it sends the request. It gives the action back if it may.
func (a *attack) begin(id string, index int) error {
	begun, err := a.Ledger.Begin(a.Ctx, id, index, "w9")
	if err != nil {
		return err
	}
	if begun.Verdict == batch.Run {
		_, err := a.Ledger.GiveBack(a.Ctx, id, index, begun.Token)
		require.NoError(a.T, err)
		return nil
	}
	return fmt.Errorf("verdict %d", begun.Verdict)
}

// reads are all ways to read a batch.
func (a *attack) reads(owner, id string) map[string]func() error {
	return map[string]func() error{
		"get":     func() error { return queuetest.ErrorOf(a.Get(a.Ctx, owner, id, 0)) },
		"get few": func() error { return queuetest.ErrorOf(a.Get(a.Ctx, owner, id, 100)) },
		"results": func() error {
			return queuetest.ErrorOf(a.Results(a.Ctx, owner, id, batch.ResultQuery{Limit: 10}))
		},
		"by outcome": func() error {
			return queuetest.ErrorOf(a.Results(a.Ctx, owner, id, batch.ResultQuery{Limit: 10, Outcomes: []batch.Outcome{batch.Succeeded}}))
		},
		"list":       func() error { return a.listed(owner, id) },
		"deliveries": func() error { return queuetest.ErrorOf(a.Deliveries(a.Ctx, owner, id)) },
	}
}

// listed returns the error of a batch in the list of an owner.
func (a *attack) listed(owner, id string) error {
	found, _, err := a.List(a.Ctx, batch.OwnedBy(owner), "", 100)
	for _, b := range found {
		if b.ID == id && b.Damaged != nil {
			return b.Damaged
		}
		if b.ID == id {
			return nil
		}
	}
	return errors.Join(err, fmt.Errorf("the list lacks batch %s", id))
}

// tampered returns what an attacker may store in the place of a value.
func tampered(value, foreign string) map[string]string {
	flipped := []byte(value)
	if len(flipped) > 0 {
		flipped[len(flipped)/2] ^= 1
	}
	forms := map[string]string{
		"foreign": foreign, "flipped": string(flipped), "cut": value[:len(value)-1], "longer": value + "x",
		"clear": "\x00" + value, "clear of nothing": "\x00", "empty": "",
	}
	maps.DeleteFunc(forms, func(_, form string) bool { return form == value })
	return forms
}

// Whoever can write to Redis can change no field that decides where the requests of a batch go and who reads it.
func TestChangedFieldsOfABatchNeverLeadToARequestOrAnAnswer(t *testing.T) {
	t.Parallel()
	a := newAttack(t)
	named := func(id, what string, err error) {
		t.Helper()
		require.Error(t, err, what)
		require.NotErrorIs(t, err, batch.ErrNotFound, what)
		require.ErrorContains(t, err, id, what)
	}
	acting := []string{"owner", "target", "lane", "total", "groups", "head"}
	for _, c := range []struct {
		id, foreign string
		fields      []string
	}{
		{a.mine, a.foreign, append([]string{"scope", "webhook", "retention", "key", "fingerprint", "private"}, acting...)},
		{a.ended, a.foreignEnded, []string{"owner", "target", "lane", "total", "scope", "webhook", "retention", "key", "fingerprint", "private", "head"}},
	} {
		meta := keys.KeysOf(c.id).Meta
		own, err := a.DB.Client.HGetAll(a.Ctx, meta).Result()
		require.NoError(t, err)
		foreign, err := a.DB.Client.HGetAll(a.Ctx, keys.KeysOf(c.foreign).Meta).Result()
		require.NoError(t, err)
		for _, field := range c.fields {
			require.NotEmpty(t, own[field], "there is a field %s", field)
			for form, value := range tampered(own[field], foreign[field]) {
				what := field + ", " + form
				require.NoError(t, a.DB.Client.HSet(a.Ctx, meta, field, value).Err())
				owner := "me"
				if field == "owner" {
					owner = value
					a.list(value, c.id)
				}
				if owner != "" {
					for name, read := range a.reads(owner, c.id) {
						if field == "private" && value != "" && (name == "results" || name == "by outcome" || name == "deliveries") {
							continue // they do not read it
						}
						named(c.id, what+", "+name, read())
					}
				}
				if c.id == a.mine && strings.Contains(strings.Join(acting, " "), field) {
					for _, index := range []int{1, 2, 4} {
						named(c.id, fmt.Sprintf("%s, begin of %d", what, index), a.begin(c.id, index))
					}
				}
				if c.id == a.ended {
					_, err := a.Ledger.Webhook(a.Ctx, c.id, a.delivery)
					named(c.id, what+", webhook", err)
					_, _, err = a.Retry(a.Ctx, owner, c.id, &batch.RetrySpec{Outcomes: []batch.Outcome{batch.Succeeded}})
					if owner != "" {
						named(c.id, what+", retry", err)
					}
				} else if owner != "" {
					_, err := a.Cancel(a.Ctx, owner, c.id)
					named(c.id, what+", cancel", err)
				}
				require.NoError(t, a.DB.Client.HSet(a.Ctx, meta, field, own[field]).Err())
				if field == "owner" {
					require.NoError(t, a.DB.Client.ZRem(a.Ctx, keys.OwnerKey(value), c.id).Err())
				}
			}
		}
		for name, read := range a.reads("me", c.id) {
			require.NoError(t, read(), "%s: with its own fields the batch is as before", name)
		}
	}
	require.NoError(t, a.begin(a.mine, 4))
	_, err := a.Ledger.Webhook(a.Ctx, a.ended, a.delivery)
	require.NoError(t, err)
}

// list enters a batch into the list of an owner.
func (a *attack) list(owner, id string) {
	a.T.Helper()
	require.NoError(a.T, a.DB.Client.ZAdd(a.Ctx, keys.OwnerKey(owner), redis.Z{Member: id, Score: float64(time.Now().UnixMicro())}).Err())
}

// Values of all kinds open at their own place only.
func TestChangedValuesOfABatchNeverLeadToARequestOrAnAnswer(t *testing.T) {
	t.Parallel()
	a := newAttack(t)
	results := func(id string) func() error { return a.reads("me", id)["results"] }
	for name, c := range map[string]struct {
		id, foreign string
		key         func(k keys.BatchKeys) string
		field       string
		other       string // another field of the same batch
		skip        int    // bytes before the sealed value
		use         func() error
	}{
		"action":       {a.mine, a.foreign, func(k keys.BatchKeys) string { return k.Actions }, "4", "3", 0, func() error { return a.begin(a.mine, 4) }},
		"result":       {a.mine, a.foreign, func(k keys.BatchKeys) string { return k.Results }, "0", "", 0, results(a.mine)},
		"last attempt": {a.mine, a.foreign, func(k keys.BatchKeys) string { return k.Groups }, "o1", "", 1, func() error { return a.endedWaiting(a.mine, 1) }},
		"group":        {a.mine, a.foreign, func(k keys.BatchKeys) string { return k.Groups }, "2", "", len("2,3|0|"), func() error { return a.begin(a.mine, 2) }},
		"old result":   {a.ended, a.foreignEnded, func(k keys.BatchKeys) string { return k.Results }, "4", "3", 0, results(a.ended)},
		"webhook with results": {a.ended, a.foreignEnded, func(k keys.BatchKeys) string { return k.Results }, "1", "2", 0, func() error {
			_, err := a.Ledger.Webhook(a.Ctx, a.ended, a.delivery)
			return err
		}},
	} {
		own, err := a.DB.Client.HGet(a.Ctx, c.key(keys.KeysOf(c.id)), c.field).Result()
		require.NoError(t, err, name)
		foreign, err := a.DB.Client.HGet(a.Ctx, c.key(keys.KeysOf(c.foreign)), c.field).Result()
		require.NoError(t, err, name)
		forms := tampered(own[c.skip:], foreign[c.skip:])
		if c.other != "" {
			forms["other index"], err = a.DB.Client.HGet(a.Ctx, c.key(keys.KeysOf(c.id)), c.other).Result()
			require.NoError(t, err, name)
		}
		forms["other kind"], err = a.DB.Client.HGet(a.Ctx, keys.KeysOf(c.id).Actions, "0").Result()
		require.NoError(t, err)
		for form, value := range forms {
			require.NoError(t, a.DB.Client.HSet(a.Ctx, c.key(keys.KeysOf(c.id)), c.field, own[:c.skip]+value).Err())
			err := c.use()
			require.Error(t, err, "%s, %s", name, form)
			require.ErrorContains(t, err, c.id, "%s, %s", name, form)
			require.NoError(t, a.DB.Client.HSet(a.Ctx, c.key(keys.KeysOf(c.id)), c.field, own).Err())
		}
		require.NoError(t, c.use(), "%s: with its own value it is as before", name)
	}
	log := keys.KeysOf(a.ended).Deliveries
	own, err := a.DB.Client.LIndex(a.Ctx, log, 0).Result()
	require.NoError(t, err)
	foreign, err := a.DB.Client.LIndex(a.Ctx, keys.KeysOf(a.foreignEnded).Deliveries, 0).Result()
	require.NoError(t, err)
	for form, value := range tampered(own, foreign) {
		require.NoError(t, a.DB.Client.LSet(a.Ctx, log, 0, value).Err())
		require.ErrorContains(t, a.reads("me", a.ended)["deliveries"](), a.ended, form)
	}
}

// endedWaiting reads the result of an action that was cancelled while it waited for its next attempt.
func (a *attack) endedWaiting(id string, index int) error {
	k := keys.KeysOf(id)
	change := func(state string, n int64) {
		require.NoError(a.T, a.DB.Client.SetRange(a.Ctx, k.State, int64(index), state).Err())
		require.NoError(a.T, a.DB.Client.HIncrBy(a.Ctx, k.Meta, "cancelled", n).Err())
		require.NoError(a.T, a.DB.Client.HIncrBy(a.Ctx, k.Meta, "pending", -n).Err())
	}
	change("C", 1)
	_, err := a.Results(a.Ctx, "me", id, batch.ResultQuery{Limit: 10})
	change("p", -1)
	return err
}

// A group's action is never sent as an action of its own, whatever the records in Redis say.
func TestAnActionOfAGroupIsNotSentWithoutItsGroup(t *testing.T) {
	t.Parallel()
	a := newAttack(t)
	k := keys.KeysOf(a.mine)
	require.NoError(t, a.DB.Client.SetRange(a.Ctx, k.State, 3, "p").Err())
	require.ErrorContains(t, a.begin(a.mine, 3), a.mine, "a member as an action of its own")
	require.NoError(t, a.DB.Client.HDel(a.Ctx, k.Groups, "2").Err())
	require.ErrorContains(t, a.begin(a.mine, 2), a.mine, "the first action without the group's record")
}

// All keys of a batch under another id are no batch.
func TestACopyOfABatchIsNoBatch(t *testing.T) {
	t.Parallel()
	a := newAttack(t)
	from, to := keys.KeysOf(a.mine), keys.KeysOf("0193750c-0000-7000-8000-000000000001")
	for _, pair := range [][2]string{{from.Meta, to.Meta}, {from.State, to.State}, {from.Actions, to.Actions}, {from.Results, to.Results}, {from.Groups, to.Groups}, {from.Ledger, to.Ledger}} {
		require.NoError(t, a.DB.Client.Copy(a.Ctx, pair[0], pair[1], 0, true).Err())
	}
	id := "0193750c-0000-7000-8000-000000000001"
	require.ErrorContains(t, a.begin(id, 4), id)
	for name, read := range a.reads("me", id) {
		if name == "list" {
			a.list("me", id)
		}
		require.ErrorContains(t, read(), id, name)
	}
}

// A list has the batches of its owner only, whatever an attacker enters into it.
func TestAListShowsNoBatchOfAnotherOwner(t *testing.T) {
	t.Parallel()
	a := newAttack(t)
	a.list("me", a.foreign)
	for _, limit := range []int{1, 2, 100} {
		var ids []string
		for cursor, more := "", true; more; more = cursor != "" {
			found, next, err := a.List(a.Ctx, batch.OwnedBy("me"), cursor, limit)
			require.NoError(t, err)
			for _, b := range found {
				require.Nil(t, b.Damaged)
				ids = append(ids, b.ID)
			}
			cursor = next
		}
		require.Equal(t, []string{a.ended, a.mine}, ids)
	}
	require.NoError(t, a.listed("you", a.foreign))
	require.NoError(t, a.DB.Client.HSet(a.Ctx, keys.KeysOf(a.foreign).Meta, "owner", "me").Err())
	require.ErrorContains(t, a.listed("me", a.foreign), a.foreign, "whose it is cannot be told")
	require.ErrorContains(t, a.listed("you", a.foreign), a.foreign)
	require.NoError(t, a.listed("me", a.mine))
}

// An idempotency key that was made to point at another batch replays nothing.
func TestAnIdempotencyKeyReplaysItsOwnBatchOnly(t *testing.T) {
	t.Parallel()
	a := newAttack(t)
	spec := queuetest.Spec()
	spec.Fingerprint = []byte("content of me")
	replay := func(key string) (*batch.Batch, error) {
		u, err := a.Open(a.Ctx, "me", key)
		require.NoError(t, err)
		got, _, err := u.Commit(a.Ctx, spec)
		return got, err
	}
	pointers := map[string]string{} // by batch
	for key := range a.AllKeys() {
		if strings.HasPrefix(key, "batchd:key:") {
			id, err := a.DB.Client.Get(a.Ctx, key).Result()
			require.NoError(t, err)
			pointers[id] = key
		}
	}
	got, err := replay("open")
	require.NoError(t, err)
	require.Equal(t, a.mine, got.ID)
	for _, other := range []string{a.foreign, a.ended} {
		require.NoError(t, a.DB.Client.Set(a.Ctx, pointers[a.mine], other, time.Hour).Err())
		got, err := replay("open")
		require.ErrorContains(t, err, other)
		require.Nil(t, got)
	}
}

// Without an Idempotency-Key there is no fingerprint, and with one it cannot be found by trying without the salt.
func TestAFingerprintIsAKeyedHash(t *testing.T) {
	t.Parallel()
	b := open(t, redistest.Start(t).URL())
	spec := queuetest.Spec()
	spec.Fingerprint = []byte("PIN 1234")
	plain := b.Submit(1, spec).ID
	m, err := b.DB.Client.HGetAll(b.Ctx, keys.KeysOf(plain).Meta).Result()
	require.NoError(t, err)
	require.Empty(t, m["fingerprint"])
	require.Empty(t, m["key"])
	stored := func(b *bundle) string {
		u, err := b.Open(b.Ctx, "me", "k")
		require.NoError(t, err)
		require.NoError(t, u.Add(b.Ctx, queuetest.Action(0)))
		made, _, err := u.Commit(b.Ctx, spec)
		require.NoError(t, err)
		got, err := b.DB.Client.HGet(b.Ctx, keys.KeysOf(made.ID).Meta, "fingerprint").Result()
		require.NoError(t, err)
		require.Len(t, got, 32)
		return got
	}
	other := open(t, redistest.Start(t).URL())
	require.NotEqual(t, stored(b), stored(other), "each installation has its own salt")
	names := func(b *bundle) (found []string) {
		for key := range b.AllKeys() {
			if strings.HasPrefix(key, "batchd:key:") {
				found = append(found, key)
			}
		}
		return found
	}
	require.Len(t, names(b), 1)
	require.NotEqual(t, names(b), names(other), "nor can idempotency keys be found by trying")
}
