package rdb

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/certs"
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
		client, err := Connect(Config{URL: URL(raw), Password: password}.address(), time.Second, nil, none)
		require.NoError(t, err, raw)
		options := client.(*redis.Client).Options() //nolint:forcetypeassert // it is one, or the test fails
		require.Equal(t, []string{user, password}, []string{options.Username, options.Password}, raw)
		require.NoError(t, client.Close())
	}
	require.Equal(t, "embedded", Config{URL: Embedded, Password: password}.address())
	client, err := Connect(Config{URL: "redis+cluster://a:1,b:2", Password: password}.address(), time.Second, nil, none)
	require.NoError(t, err)
	require.Equal(t, password, client.(*redis.ClusterClient).Options().Password) //nolint:forcetypeassert // see above
	require.NoError(t, client.Close())

	var faults setting.Faults
	Config{URL: "redis://:hunter2@h:1", Password: password}.Check(setting.NewChecker(&faults).In("redis"))
	require.EqualError(t, faults.Err(), "redis.password: redis.url has a password, too: set it in one place")
}

func TestSettingsOfTLSWithRedis(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		url  URL
		tls  certs.Client
		want string
	}{
		{"rediss://h", certs.Client{}, ""},
		{"redis://h", certs.Client{}, ""},
		{"rediss://h", certs.Client{CAFile: "a", CertFile: "b", KeyFile: "c", ServerName: "redis.example.com"}, ""},
		{"rediss+sentinel://h/0?master=m", certs.Client{ServerName: "::1"}, ""},
		{"rediss+cluster://h", certs.Client{CAFile: "a"}, ""},
		{"redis://h", certs.Client{CAFile: "a"}, "redis.tls.ca_file: redis.url begins with redis://, and so the connections to Redis would not be encrypted: let it begin with rediss://, or remove redis.tls"},
		{"redis+sentinel://h/0?master=m", certs.Client{CertFile: "a", KeyFile: "b"}, "redis.tls.cert_file: redis.url begins with redis+sentinel://, and so the connections to Redis would not be encrypted: let it begin with rediss+sentinel://, or remove redis.tls"},
		{"redis+cluster://h", certs.Client{ServerName: "a"}, "redis.tls.server_name: redis.url begins with redis+cluster://, and so the connections to Redis would not be encrypted: let it begin with rediss+cluster://, or remove redis.tls"},
		{Embedded, certs.Client{CAFile: "a"}, "redis.tls.ca_file: redis.url is embedded, a store in this process, to which nothing connects: set redis.url, or remove redis.tls"},
		{"rediss://h", certs.Client{CertFile: "a"}, "redis.tls.cert_file: a certificate of the client needs its key, and a key its certificate: set both or neither"},
		{"rediss://h", certs.Client{KeyFile: "a"}, "redis.tls.cert_file: a certificate of the client needs its key, and a key its certificate: set both or neither"},
		{"rediss://h", certs.Client{ServerName: "rediss://h"}, "redis.tls.server_name: the value is not the name of a host: expected one without a scheme and a port, for example redis.example.com"},
		{"rediss://h", certs.Client{ServerName: "h:6379"}, "redis.tls.server_name: the value is not the name of a host: expected one without a scheme and a port, for example redis.example.com"},
	} {
		var faults setting.Faults
		Config{URL: row.url, TLS: row.tls}.Check(setting.NewChecker(&faults).In("redis"))
		if row.want == "" {
			require.NoError(t, faults.Err(), row.url)
		} else {
			require.EqualError(t, faults.Err(), row.want)
		}
	}
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
