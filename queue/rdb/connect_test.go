package rdb

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func TestURLsOfRedis(t *testing.T) {
	t.Parallel()
	open := func(url string) redis.UniversalClient {
		c, err := Connect(url, time.Second, nil, nil)
		require.NoError(t, err, url)
		t.Cleanup(func() { require.NoError(t, c.Close()) })
		return c
	}
	one := open("rediss://ann:hush@example.com:7000/3").(*redis.Client).Options()
	require.Equal(t, "example.com:7000", one.Addr)
	require.Equal(t, 3, one.DB)
	require.Equal(t, "hush", one.Password)
	require.Equal(t, PoolSize, one.PoolSize)
	require.Equal(t, 200, open("redis://h?pool_size=200").(*redis.Client).Options().PoolSize)

	many := open("redis+cluster://:hush@a:7000,b,[::1]:7001").(*redis.ClusterClient).Options()
	require.Equal(t, []string{"a:7000", "b:6379", "[::1]:7001"}, many.Addrs)
	require.Equal(t, "hush", many.Password)
	require.True(t, many.ContextTimeoutEnabled)

	for _, bad := range []string{
		"", "localhost:6379", "http://x", "redis+magic://x", "redis+cluster://", "redis+cluster://a/3", "redis+cluster://a?x=1",
		"redis+sentinel://a", "redis+sentinel://a/x?master=m", "redis://:hush@host:port", "redis+sentinel://:hush%zz@a?master=m",
	} {
		_, err := Connect(bad, time.Second, nil, nil)
		require.Error(t, err, bad)
		require.NotContains(t, err.Error(), "hush")
	}
}
