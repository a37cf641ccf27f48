package queue

import (
	"context"
	"crypto/rand"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
)

// lostReplies is a hook that loses the answers to a number of commands: Redis
// has done them, and the caller does not know.
type lostReplies struct {
	mu   sync.Mutex
	left int
	only string // a text that the command must hold
}

// lose reports whether the answer to a command is to be lost.
func (l *lostReplies) lose(cmd redis.Cmder) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.left == 0 || !strings.Contains(cmd.String(), l.only) {
		return false
	}
	l.left--
	return true
}

// lostReply is a command whose connection breaks in front of its reply.
type lostReply struct{ redis.Cmder }

func (l lostReply) SetErr(err error) {
	if err == nil {
		err = net.ErrClosed
	}
	l.Cmder.SetErr(err)
}

func (l *lostReplies) DialHook(next redis.DialHook) redis.DialHook { return next }

func (l *lostReplies) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		sent := slices.Clone(cmds)
		for i, cmd := range sent {
			if l.lose(cmd) {
				sent[i] = lostReply{cmd}
			}
		}
		return next(ctx, sent)
	}
}

func (l *lostReplies) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if err == nil && l.lose(cmd) {
			cmd.SetErr(net.ErrClosed)
			return net.ErrClosed
		}
		return err
	}
}

func TestABeginWhoseAnswerIsLostIsStillThisWorkers(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		id := b.submit(1, spec()).ID
		b.begin(b.submit(1, spec()).ID, 0) // the script is loaded
		lost := &lostReplies{left: 3, only: id}
		b.db.Client.AddHook(lost)
		begun := b.begin(id, 0)
		require.Equal(t, 1, begun.Attempt)
		require.Zero(t, lost.left)
		require.NoError(t, b.Finish(b.ctx, id, 0, begun.Token, result(0, batch.Succeeded)))
	})
}

func secretOf(id string) seal.Key {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret)
	return seal.NewKey(id, secret)
}

func TestAWorkerThatCannotOpenAnActionLeavesItToOthers(t *testing.T) {
	t.Parallel()
	url := redistest.Start(t).URL()
	with := func(keys ...seal.Key) *bundle {
		s, err := Open(Config{Redis: rdb.Config{URL: rdb.URL(url)}, Seal: seal.Config{Keys: keys}})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, s.Close()) })
		return &bundle{Store: s, t: t, ctx: t.Context()}
	}
	first, second := secretOf("1"), secretOf("2")
	fresh, old := with(second, first), with(first)
	id := fresh.submit(1, spec()).ID
	_, err := old.Begin(t.Context(), id, 0, "old")
	require.ErrorIs(t, err, seal.ErrSealed)
	require.ErrorContains(t, err, `"2"`)
	begun, err := fresh.Begin(t.Context(), id, 0, "fresh")
	require.NoError(t, err)
	require.Equal(t, batch.Run, begun.Verdict, "nothing was sent, so there is no doubt")

	owner, err := old.Owner(t.Context(), "credential")
	require.NoError(t, err)
	same, err := fresh.Owner(t.Context(), "credential")
	require.NoError(t, err)
	require.Equal(t, owner, same)
	last, err := with(second).Owner(t.Context(), "credential")
	require.NoError(t, err, "the first key can be dropped")
	require.Equal(t, owner, last)
}

func TestRedeliveringWhatIsNotThereLeavesNothing(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		for _, id := range []string{uuid.NewString(), "ffffffff-ffff-7fff-bfff-ffffffffffff", uuid.Must(uuid.NewV7()).String()} {
			require.ErrorIs(t, b.Redeliver(b.ctx, "me", id), batch.ErrNotFound)
		}
		require.Equal(t, batch.Swept{}, b.sweep())
		require.NoError(t, b.db.Client.ZAdd(b.ctx, openKey, redis.Z{Member: "ffffffff-ffff-7fff-bfff-ffffffffffff"}).Err())
		require.Equal(t, batch.Swept{Open: 1, Closed: 1}, b.sweep(), "an id from the future is none of ours")
	})
}

func TestWhatIsInFlightForEverIsUnknownInTheEnd(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		s := spec()
		s.WebhookURL = "https://example.com/hook"
		id := b.submit(2, s).ID
		b.begin(id, 0)
		expired := func(ago time.Duration) {
			require.NoError(t, b.db.Client.HSet(b.ctx, keysOf(id).meta, "expires", time.Now().Add(-ago).UnixMilli()).Err())
		}
		expired(time.Minute)
		require.Equal(t, batch.Swept{Open: 1, Expired: 1}, b.sweep())
		require.Equal(t, batch.Counts{Total: 2, Pending: 1, Expired: 1}, b.get(id).Counts)
		b.sweep()
		require.Equal(t, 1, b.get(id).Counts.Pending, "it is given its time")
		expired(overdueAfter + time.Minute)
		require.Equal(t, 1, b.sweep().Expired)
		got := b.get(id)
		require.Equal(t, batch.StatusExpired, got.Status)
		require.Equal(t, batch.Counts{Total: 2, Unknown: 1, Expired: 1}, got.Counts)
		require.Equal(t, batch.CodeInterrupted, b.results(id, 10)[0].Error.Code)
		tasks, err := b.inspector().ListPendingTasks(WebhookQueue)
		require.NoError(t, err)
		require.Len(t, tasks, 1)
	})
}

func TestASlowUploadKeepsItsKey(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		u, err := b.Open(b.ctx, "me", "k")
		require.NoError(t, err)
		raw := u.(*upload)
		for i := range 3 {
			require.NoError(t, b.db.Client.PExpire(b.ctx, raw.keys.upload, markerTTL/3).Err())
			raw.markedAt = time.Now().Add(-markerTTL / 3)
			require.NoError(t, u.Add(b.ctx, action(i)))
			ttl, err := b.db.Client.PTTL(b.ctx, raw.keys.upload).Result()
			require.NoError(t, err)
			require.Greater(t, ttl, markerTTL/2)
		}
		_, _, err = u.Commit(b.ctx, spec())
		require.NoError(t, err)
	})
}

func TestAStepThatFindsNoConnectionHasFailed(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	_, err := server.Command("CONFIG", "SET", "requirepass", "right")
	require.NoError(t, err)
	b := open(t, strings.Replace(server.URL(), "://", "://:wrong@", 1))
	l := newTaker(b.Store, ServerConfig{Lines: []Line{{Target: "crm", Places: 2}}}).lines[0]
	l.lanes[0].end("done")
	l.turn(true)
	require.Equal(t, []string{"done"}, l.lanes[0].done, "what has ended is told again")
	require.True(t, l.lanes[0].filled, "there may still be tasks")
	err = b.combine.do(&ride{step: b.steps.begin, id: uuid.Must(uuid.NewV7()).String(), head: []any{"w1", ""}, args: []any{"token"}})
	require.ErrorContains(t, err, "WRONGPASS", "it says what is wrong")
}
