package reseal_test

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue"
	"github.com/batchd/batchd/queue/apikeys"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/reseal"
	"github.com/batchd/batchd/queue/seal"
	"github.com/batchd/batchd/queue/sessions"
)

func newKey(id string) seal.Key {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret)
	return seal.NewKey(id, secret)
}

// with opens a store with keys.
func with(t *testing.T, url string, cfg seal.Config) *queuetest.Bundle {
	t.Helper()
	s, err := queue.Open(queue.Config{Redis: rdb.Config{URL: rdb.URL(url)}, Timeout: queuetest.Endless, Seal: cfg})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	s.Fanout.RecordPause = 0
	return &queuetest.Bundle{Store: s, T: t, Ctx: t.Context()}
}

func ring(keys ...seal.Key) seal.Config { return seal.Config{Keys: keys} }

func rotate(b *queuetest.Bundle) reseal.Report {
	b.T.Helper()
	report, err := reseal.New(b.DB, b.Seals, b.Batches).Run(b.Ctx)
	require.NoError(b.T, err)
	return report
}

// stored commits batches with all kinds of values, and returns their ids: one that is read, and one with a group.
func stored(b *queuetest.Bundle) (plain, grouped string) {
	b.T.Helper()
	spec := queuetest.Spec()
	spec.WebhookURL, spec.Metadata = "https://example.com/hook", map[string]string{"a": "b"}
	plain = b.Submit(4, spec).ID
	b.End(plain, 0, batch.Succeeded)
	begun := b.Begin(plain, 1)
	_, err := b.Ledger.Release(b.Ctx, plain, 1, begun.Token, queuetest.Attempted(begun, 503, nil))
	require.NoError(b.T, err)
	return plain, b.Grouped(queuetest.Spec())
}

// others stores values of all kinds that belong to no batch. It returns a name that depends on the salt.
func others(b *queuetest.Bundle) (owner string) {
	b.T.Helper()
	owner, err := b.Owner(b.Ctx, "credential")
	require.NoError(b.T, err)
	require.NoError(b.T, b.Keys.ChangeKey(b.Ctx, "alice", func(*batch.Key) (*batch.Key, error) {
		return &batch.Key{Name: "alice", Owner: "alice"}, nil
	}))
	require.NoError(b.T, sessions.New(b.DB, b.Seals).PutSession(b.Ctx, "key:alice", "id", []byte("session"), time.Hour))
	return owner
}

// requireOthers reads the values of others.
func requireOthers(b *queuetest.Bundle, owner string) {
	b.T.Helper()
	same, err := b.Owner(b.Ctx, "credential")
	require.NoError(b.T, err)
	require.Equal(b.T, owner, same)
	keys, faults, err := b.Keys.ListKeys(b.Ctx)
	require.NoError(b.T, err)
	require.Empty(b.T, faults)
	require.Len(b.T, keys, 1)
	session, err := sessions.New(b.DB, b.Seals).Session(b.Ctx, "key:alice", "id", time.Hour, true)
	if b.T.Name() == "TestARotationSealsWhatWasStoredInClear" {
		require.ErrorIs(b.T, err, batch.ErrNoSession, "a rotation makes no session of what anybody could have stored")
		return
	}
	require.NoError(b.T, err)
	require.Equal(b.T, "session", string(session))
}

// kindsSealedBy returns the kinds of all values in Redis that a key has sealed, wherever they are.
func kindsSealedBy(b *queuetest.Bundle, sealed string) (kinds []string) {
	b.T.Helper()
	known := map[string]string{keys.SaltKey: "s", apikeys.Key: "k", sessions.Key("key:alice"): "n"}
	look := func(key, field, value string) {
		if !strings.Contains(value, sealed) {
			return
		}
		kind := known[key]
		if id, of, ok := strings.Cut(strings.TrimPrefix(key, "batchd:{"), "}:"); ok && keys.IsBatchID(id) {
			kind = of
			switch {
			case of == "m" && field == "head":
				kind = "h"
			case of == "g" && strings.HasPrefix(field, "o"):
				kind = "o"
			}
		}
		require.NotEmpty(b.T, kind, "a sealed value at %s %s: register its place in reseal.Places", key, field)
		if !slices.Contains(kinds, kind) {
			kinds = append(kinds, kind)
		}
	}
	scan := func(ctx context.Context, node *redis.Client) {
		for each := node.Scan(ctx, 0, "*", 1000).Iterator(); each.Next(ctx); {
			key := each.Val()
			switch node.Type(ctx, key).Val() {
			case "string":
				look(key, "", node.Get(ctx, key).Val())
			case "hash":
				for field, value := range node.HGetAll(ctx, key).Val() {
					look(key, field, value)
				}
			case "list":
				for _, value := range node.LRange(ctx, key, 0, -1).Val() {
					look(key, "", value)
				}
			case "zset":
				for _, value := range node.ZRange(ctx, key, 0, -1).Val() {
					look(key, "", value)
				}
			case "set":
				for _, value := range node.SMembers(ctx, key).Val() {
					look(key, "", value)
				}
			}
		}
	}
	switch client := b.DB.Client.(type) {
	case *redis.ClusterClient:
		var mu sync.Mutex
		require.NoError(b.T, client.ForEachMaster(b.Ctx, func(ctx context.Context, node *redis.Client) error {
			mu.Lock()
			defer mu.Unlock()
			scan(ctx, node)
			return nil
		}))
	case *redis.Client:
		scan(b.Ctx, client)
	}
	return kinds
}

// end ends the batches of stored, and reads all of their values.
func end(b *queuetest.Bundle, plain, grouped string) {
	b.T.Helper()
	for i := 1; i < 4; i++ {
		b.End(plain, i, batch.Succeeded)
	}
	require.Len(b.T, b.AllResults(plain, 10), 4)
	require.Equal(b.T, "https://example.com/hook", b.Read(plain).WebhookURL)
	begun := b.Begin(grouped, 1)
	require.NotNil(b.T, begun.Group)
	require.Len(b.T, begun.Group.Members, 3)
}

func TestARotationSealsEveryKindOfValueWithTheFirstKey(t *testing.T) {
	queuetest.OnStores(t, func(t *testing.T, on *queuetest.Bundle) {
		url := ""
		switch c := on.DB.Client.(type) {
		case *redis.ClusterClient:
			url = "redis+cluster://" + c.Options().Addrs[0]
		case *redis.Client:
			url = "redis://" + c.Options().Addr
		}
		require.NoError(t, on.DB.Client.Del(on.Ctx, keys.SaltKey).Err()) // of the store that chose the server
		older, newer := newKey("old"), newKey("new")
		before := with(t, url, ring(older))
		owner := others(before)
		plain, grouped := stored(before)
		ended := before.Submit(1, &batch.Spec{Target: "crm", ExpiresIn: time.Hour, Retention: time.Hour, WebhookURL: "https://example.com/hook"}).ID
		before.End(ended, 0, batch.Succeeded)
		require.NoError(t, before.Ledger.Delivered(before.Ctx, ended, 1, batch.Delivery{Round: 1}, batch.DeliveryPending, time.Now().Add(time.Hour)))

		require.ElementsMatch(t, seal.Kinds(), kindsSealedBy(before, before.Seals.Prefix()), "the test has a value of each kind")

		report := rotate(with(t, url, ring(newer, older)))
		require.True(t, report.Complete(), "%+v", report)
		// Heads and private parts of three batches, 11 actions, 2 results, a last attempt, 2 groups, an attempt at a webhook,
		// the salt, a key of batchd's own, and a session.
		require.Equal(t, 3+2+11+2+1+2+1+1+1+1, report.Resealed)
		require.Empty(t, kindsSealedBy(before, before.Seals.Prefix()), "nothing is left that the old key sealed")
		require.Zero(t, rotate(with(t, url, ring(newer, older))).Resealed, "there is nothing left to do")

		after := with(t, url, ring(newer))
		end(after, plain, grouped)
		log, err := after.Deliveries(after.Ctx, "me", ended)
		require.NoError(t, err)
		require.Len(t, log.Attempts, 1)
		requireOthers(after, owner)
	}, "server", "cluster")
}

func TestARotationGoesOnWhileBatchesAreSubmittedAndRun(t *testing.T) {
	t.Parallel()
	url := redistest.Start(t).URL()
	older, newer := newKey("old"), newKey("new")
	before := with(t, url, ring(older))
	const n, actions = 24, 20
	var ids []string
	for range n {
		ids = append(ids, before.Submit(actions, queuetest.Spec()).ID)
	}
	staged, err := before.Open(before.Ctx, "me", "") // an upload that is under way
	require.NoError(t, err)
	for i := range 300 {
		require.NoError(t, staged.Add(before.Ctx, queuetest.Action(i)))
	}
	working := with(t, url, ring(newer, older))
	var load sync.WaitGroup
	for part := range 4 {
		load.Go(func() {
			for i := part; i < n; i += 4 {
				for index := range actions {
					begun, err := working.Ledger.Begin(working.Ctx, ids[i], index, "w"+strconv.Itoa(part))
					if err == nil && begun.Verdict == batch.Run {
						err = working.Ledger.Finish(working.Ctx, ids[i], index, begun.Token, queuetest.Result(index, batch.Succeeded))
					}
					if err != nil {
						t.Errorf("action %d of batch %s: %v", index, ids[i], err)
						return
					}
				}
			}
		})
	}
	report := rotate(with(t, url, ring(newer, older)))
	load.Wait()
	last := rotate(with(t, url, ring(newer, older)))
	require.True(t, report.Complete() && last.Complete(), "%+v %+v", report, last)
	require.Positive(t, report.Resealed)

	after := with(t, url, ring(newer))
	for _, id := range ids {
		results := after.AllResults(id, 100)
		require.Len(t, results, actions)
		for i, r := range results {
			require.Equal(t, batch.Succeeded, r.Outcome)
			require.Equal(t, "answer "+strconv.Itoa(i), string(r.Body))
		}
	}
	committed, _, err := staged.Commit(before.Ctx, queuetest.Spec())
	require.NoError(t, err)
	require.True(t, rotate(with(t, url, ring(newer, older))).Complete())
	_, err = after.Ledger.Begin(after.Ctx, committed.ID, 299, "w9")
	require.NoError(t, err)
}

// onSwap calls a function before each exchange with a step that replaces a value.
type onSwap struct{ do func(args []any) }

func (onSwap) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h onSwap) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if args := cmd.Args(); len(args) > 3 && args[0] == "evalsha" && args[1] == reseal.Steps.Swap.Hash() {
			h.do(args)
		}
		return next(ctx, cmd)
	}
}

func (onSwap) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func TestAnInterruptedRotationGoesOnWhereItEnded(t *testing.T) {
	t.Parallel()
	url := redistest.Start(t).URL()
	older, newer := newKey("old"), newKey("new")
	plain, grouped := stored(with(t, url, ring(older)))
	b := with(t, url, ring(newer, older))
	ctx, cancel := context.WithCancel(b.Ctx)
	var swaps atomic.Int32
	b.DB.Client.AddHook(onSwap{func([]any) {
		if swaps.Add(1) == 5 {
			cancel()
		}
	}})
	first, err := reseal.New(b.DB, b.Seals, b.Batches).Run(ctx)
	require.Error(t, err)
	require.False(t, first.Complete())
	second := rotate(b)
	require.True(t, second.Complete())
	require.Equal(t, 4, first.Resealed)
	require.Positive(t, second.Resealed)
	end(with(t, url, ring(newer)), plain, grouped)
}

func TestARotationDoesNotOverwriteAValueThatChangedMeanwhile(t *testing.T) {
	t.Parallel()
	url := redistest.Start(t).URL()
	older, newer := newKey("old"), newKey("new")
	before := with(t, url, ring(older))
	id := before.Submit(1, queuetest.Spec()).ID
	before.End(id, 0, batch.Succeeded)
	b := with(t, url, ring(newer, older))
	results := keys.KeysOf(id).Results
	fresh := queuetest.Result(0, batch.Failed)
	changed := false
	b.DB.Client.AddHook(onSwap{func(args []any) {
		if !changed && args[3] == results {
			changed = true
			value := before.Seals.Seal(seal.Label{ID: id, Kind: "r"}, fresh.Encode())
			require.NoError(t, before.DB.Client.SetRange(before.Ctx, keys.KeysOf(id).State, 0, "F").Err())
			require.NoError(t, before.DB.Client.HSet(before.Ctx, keys.KeysOf(id).Meta, "succeeded", 0, "failed", 1).Err())
			require.NoError(t, before.DB.Client.HSet(before.Ctx, results, "0", value).Err())
		}
	}})
	report := rotate(b)
	require.True(t, changed)
	require.True(t, report.Complete())
	require.Equal(t, batch.Failed, with(t, url, ring(newer)).AllResults(id, 1)[0].Outcome)
}

func TestARotationSaysThatAnotherKeyIsStillNeeded(t *testing.T) {
	t.Parallel()
	url := redistest.Start(t).URL()
	older, newer := newKey("old"), newKey("new")
	before := with(t, url, ring(older))
	id := before.Submit(3, queuetest.Spec()).ID
	owner := others(before)
	report := rotate(with(t, url, ring(newer)))
	require.False(t, report.Complete())
	require.Zero(t, report.Resealed)
	require.Equal(t, map[string]int{"old": 7}, report.Left)
	faults := errors.Join(report.Faults...)
	for _, name := range []string{"batch " + id, "key alice", "the salt"} {
		require.ErrorContains(t, faults, name)
	}
	require.True(t, rotate(with(t, url, ring(newer, older))).Complete())
	requireOthers(with(t, url, ring(newer)), owner)
}

// A process that still has the old key first, and starts during a rotation, brings nothing back.
func TestAProcessWithTheOldKeyFirstBringsNoSaltBack(t *testing.T) {
	t.Parallel()
	url := redistest.Start(t).URL()
	older, newer := newKey("old"), newKey("new")
	owner := others(with(t, url, ring(older)))
	require.True(t, rotate(with(t, url, ring(newer, older))).Complete())
	requireOthers(with(t, url, ring(older, newer)), owner)
	requireOthers(with(t, url, ring(newer)), owner)
}

func TestARotationSealsWhatWasStoredInClear(t *testing.T) {
	t.Parallel()
	url := redistest.Start(t).URL()
	key := newKey("first")
	before := with(t, url, seal.Config{})
	plain, grouped := stored(before)
	owner := others(before)
	refused := rotate(with(t, url, ring(key)))
	require.False(t, refused.Complete())
	require.Zero(t, refused.Resealed)
	accepting := ring(key)
	accepting.AcceptClearUntil = time.Now().UTC().AddDate(0, 0, 1).Format(time.DateOnly)
	requireOthers(with(t, url, accepting), owner) // also before the rotation
	require.True(t, rotate(with(t, url, accepting)).Complete())
	requireOthers(with(t, url, ring(key)), owner)
	end(with(t, url, ring(key)), plain, grouped)
}
