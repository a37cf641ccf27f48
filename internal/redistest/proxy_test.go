package redistest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func proxiedClient(t *testing.T) (*Proxy, *redis.Client) {
	t.Helper()
	p := StartProxy(t, Start(t).Addr)
	c := redis.NewClient(&redis.Options{Addr: p.Addr, MaxRetries: -1})
	t.Cleanup(func() { _ = c.Close() })
	return p, c
}

func TestAProxyPassesOnEverything(t *testing.T) {
	t.Parallel()
	_, c := proxiedClient(t)
	ctx := t.Context()
	pipe := c.Pipeline()
	for i := range 100 {
		pipe.HSet(ctx, "h", fmt.Sprint(i), "value\r\nof two lines")
	}
	all := pipe.HGetAll(ctx, "h")
	none := pipe.Get(ctx, "none")
	wrong := pipe.Incr(ctx, "h")
	_, _ = pipe.Exec(ctx)
	require.Len(t, all.Val(), 100)
	require.ErrorIs(t, none.Err(), redis.Nil)
	require.ErrorContains(t, wrong.Err(), "WRONGTYPE")
	require.Equal(t, []any{int64(1), "two"}, c.Eval(ctx, "return {1, 'two'}", nil).Val())
	cmds, err := c.TxPipelined(ctx, func(p redis.Pipeliner) error { p.Ping(ctx); p.Ping(ctx); return nil })
	require.NoError(t, err)
	require.Len(t, cmds, 2)

	sub := c.Subscribe(ctx, "news")
	defer sub.Close()
	messages := sub.Channel()
	require.Eventually(t, func() bool { return c.Publish(ctx, "news", "hello").Val() == 1 }, 30*time.Second, time.Millisecond)
	require.Equal(t, "hello", (<-messages).Payload)
}

func TestAProxyAnswersInThePlaceOfTheServer(t *testing.T) {
	t.Parallel()
	p, c := proxiedClient(t)
	ctx := context.Background()
	incr := func(words []string) bool { return words[0] == "INCR" }
	for _, way := range []Way{Refused, Replaced} {
		stop := p.Answer(Rule{Reply: "OOM no room", Match: incr, Way: way, Times: 2})
		require.NoError(t, c.Set(ctx, "n", 0, 0).Err())
		pipe := c.Pipeline()
		replies := []*redis.IntCmd{pipe.Incr(ctx, "n"), pipe.Incr(ctx, "n"), pipe.Incr(ctx, "n")}
		last := pipe.Get(ctx, "n")
		_, _ = pipe.Exec(ctx)
		require.EqualError(t, replies[0].Err(), "OOM no room")
		require.EqualError(t, replies[1].Err(), "OOM no room")
		require.NoError(t, replies[2].Err(), "only so many times")
		require.Equal(t, map[Way]string{Refused: "1", Replaced: "3"}[way], last.Val())
		require.Equal(t, 2, stop())
		require.NoError(t, c.Incr(ctx, "n").Err())
	}
	stop := p.Answer(Rule{Share: 0.3, Match: incr})
	failed := 0
	for range 500 {
		if c.Incr(ctx, "m").Err() != nil {
			failed++
		}
	}
	require.Equal(t, failed, stop())
	require.InDelta(t, 150, failed, 60)
	require.WithinDuration(t, time.Now(), p.Last(), 5*time.Second)
}
