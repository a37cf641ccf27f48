package rdb

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/setting"
)

func TestThePasswordMayBeASettingOfItsOwn(t *testing.T) {
	t.Parallel()
	const password = "p@ss/w:o?r#d% "
	none := func(context.Context, *redis.Conn) error { return nil }
	for raw, user := range map[string]string{
		"redis://h:1/0": "", "rediss://h:1": "", "redis://ada@h:1/0": "ada", "redis://:@h:1/0": "",
		"redis+sentinel://ada@a,b:2/0?master=m": "ada",
	} {
		client, err := Connect(Config{URL: URL(raw), Password: password}.address(), time.Second, none)
		require.NoError(t, err, raw)
		options := client.(*redis.Client).Options() //nolint:forcetypeassert // it is one, or the test fails
		require.Equal(t, []string{user, password}, []string{options.Username, options.Password}, raw)
		require.NoError(t, client.Close())
	}
	require.Equal(t, "embedded", Config{URL: Embedded, Password: password}.address())
	client, err := Connect(Config{URL: "redis+cluster://a:1,b:2", Password: password}.address(), time.Second, none)
	require.NoError(t, err)
	require.Equal(t, password, client.(*redis.ClusterClient).Options().Password) //nolint:forcetypeassert // see above
	require.NoError(t, client.Close())

	var faults setting.Faults
	Config{URL: "redis://:hunter2@h:1", Password: password}.Check(setting.NewChecker(&faults).In("redis"))
	require.EqualError(t, faults.Err(), "redis.password: redis.url has a password, too: set it in one place")
}

func TestRedactedURLsKeepWhatHelps(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		"embedded":                               "embedded",
		"redis://localhost:6379/0":               "redis://localhost:6379/0",
		"redis://user:hunter2@localhost:6379/0":  "redis://(redacted)@localhost:6379/0",
		"redis://:hunt@er2@localhost":            "redis://(redacted)@localhost",
		"redis+cluster://a:1,b:2?secret=hunter2": "redis+cluster://a:1,b:2?(redacted)",
		"hunter2":                                "(redacted)",
		"":                                       "",
	} {
		require.Equal(t, want, URL(raw).String())
	}
}
