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
		require.Error(t, URL(bad).check(), bad)
	}
}

// A URL whose options the client does not know is found before anything starts, and Connect refuses it, too.
func TestOptionsOfAURLThatTheClientDoesNotKnowAreRefused(t *testing.T) {
	t.Parallel()
	for bad, want := range map[string]string{
		"redis://h?zzz=1":                         "an unknown option",
		"rediss://:hush@h:1/0?pool_size=2&zzz=1":  "an unknown option",
		"redis://h?hush2=1":                       "an unknown option",
		"redis://h?pool_size=many":                "a value that cannot be read",
		"redis://h?db=x":                          "not the number of a database",
		"redis://h/x":                             "not the number of a database",
		"redis://h?a=%zz":                         "options that cannot be parsed",
		"redis://h/0#1":                           "has a fragment",
		"redis://:hush@h/0#1":                     "has a fragment",
		"redis+sentinel://a/0?master=m&zzz=1":     "an unknown option: with sentinels",
		"redis+sentinel://a?master_name=m":        "an unknown option: with sentinels",
		"redis+sentinel://a?master=m&pool_size=2": "an unknown option: with sentinels",
		"redis+sentinel://a?master=m&hush2=1":     "an unknown option: with sentinels",
		"redis+sentinel://a?master=m&master=n":    "the option master twice",
		"redis+sentinel://a?master=m&b=%zz":       "options that cannot be parsed",
		"redis+sentinel://a?master=m#n":           "has a fragment",
		"redis+sentinel://a?master=":              "names no master",
		"redis+sentinel://a":                      "names no master",
		"redis+sentinel://a/-1?master=m":          "database is not a number",
		"redis+cluster://a?addr=b":                "no numbered databases or options",
		"redis+cluster://a/1":                     "no numbered databases or options",
	} {
		err := URL(bad).check()
		require.ErrorContains(t, err, want, bad)
		require.NotContains(t, err.Error(), "hush", bad)
		_, err = Connect(bad, time.Second, nil, nil)
		require.ErrorContains(t, err, want, bad)
	}
	for _, good := range []string{
		"redis://h", "redis://h?pool_size=200&max_retries=1", "redis+sentinel://a,b:1/3?master=m&sentinel_username=u&sentinel_password=p", "redis+cluster://a,b:2",
	} {
		require.NoError(t, URL(good).check(), good)
	}
}
