package queue_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/queuetest"
	"github.com/batchd/batchd/queue/rdb"
)

func (b *bundle) keyOn(addr, kind string) string {
	b.T.Helper()
	for i := range 10_000 {
		if key := fmt.Sprintf("%s%d", kind, i); b.DB.NodeOf(b.Ctx, key).Options().Addr == addr {
			return key
		}
	}
	require.FailNow(b.T, "no key is on "+addr)
	return ""
}

func TestANodeThatDoesNotAnswerCostsNoReplyOfAnother(t *testing.T) {
	t.Parallel()
	for name, trouble := range queuetest.TroubledNode {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			shared, node := queuetest.OpenCluster(t)
			b := local(shared)
			var alive, dead []string
			for _, m := range b.masters() {
				if key := b.keyOn(m, "key"); m == node.Addr {
					dead = append(dead, key)
				} else {
					alive = append(alive, key)
				}
			}
			trouble(node)
			ctx, cancel := b.DB.WithTimeout(b.Ctx)
			defer cancel()
			pipe := b.DB.Client.Pipeline()
			var counts []*redis.IntCmd
			for _, key := range alive {
				counts = append(counts, pipe.Incr(ctx, key))
			}
			failed := pipe.Incr(ctx, dead[0])
			b.DB.Send(ctx, pipe)
			var away *batch.UnavailableError
			require.ErrorAs(t, rdb.MapError(ctx, failed.Err()), &away)
			for _, count := range counts {
				require.NoError(t, count.Err())
				require.EqualValues(t, 1, count.Val(), "it is sent once")
			}
		})
	}
}

// masters returns the addresses of the masters.
func (b *bundle) masters() []string {
	b.T.Helper()
	var addrs []string
	found := make(chan string, 100)
	require.NoError(b.T, b.DB.Client.(*redis.ClusterClient).ForEachMaster(b.Ctx, func(_ context.Context, c *redis.Client) error {
		found <- c.Options().Addr
		return nil
	}))
	close(found)
	for addr := range found {
		addrs = append(addrs, addr)
	}
	return addrs
}

// The connection breaks behind the first of two replies.
func TestAReplyThatArrivedIsUsedThoughTheNextDoesNot(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		require.ErrorIs(t, b.DB.Client.Get(b.Ctx, "{key}first").Err(), redis.Nil) // a connection is open
		cut := &cutReplies{}
		b.DB.Client.AddHook(cut)
		pipe := b.DB.Client.Pipeline()
		first, second := pipe.Incr(b.Ctx, "{key}first"), pipe.Incr(b.Ctx, "{key}second")
		cut.on = true
		b.DB.Send(b.Ctx, pipe)
		require.NoError(t, first.Err())
		require.EqualValues(t, 1, first.Val())
		require.ErrorIs(t, second.Err(), errCut)
	})
}

var errCut = errors.New("the connection was cut")

// cutReplies loses all replies of a pipeline but the first, and marks them as go-redis does.
type cutReplies struct{ on bool }

func (c *cutReplies) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c *cutReplies) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (c *cutReplies) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if !c.on || len(cmds) < 2 {
			return next(ctx, cmds)
		}
		_ = next(ctx, cmds[:1])
		for _, cmd := range cmds {
			cmd.SetErr(errCut)
		}
		return errCut
	}
}
