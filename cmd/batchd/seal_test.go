package main

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/redistest"
)

// sealed returns a configuration with a Redis and a seal key.
func sealed(t *testing.T, url, key string) string {
	t.Helper()
	return file(t, key+".yaml", fmt.Sprintf("targets: [{name: crm, base_url: 'http://127.0.0.1:9000'}]\nredis: {url: %q}\n"+
		"seal: {keys: [{id: %s, base64: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}]}\n", url, key))
}

func TestARotationNamesTheKeyThatItLacks(t *testing.T) {
	t.Parallel()
	url := redistest.Start(t).URL()
	got := batchd(t, "", "keys", "create", "ci", "--config", sealed(t, url, "old"))
	require.Equal(t, exitOK, got.code, got.stderr)
	got = batchd(t, "", "seal", "rotate", "--config", sealed(t, url, "new"))
	require.Equal(t, exitFailure, got.code)
	require.Contains(t, got.stderr, `2 were sealed with key "old", which seal.keys does not have: add the key that sealed them to seal.keys`)
	require.NotContains(t, got.stderr, "keep the other keys")
}

func TestARotationSaysAtOnceWhyRedisDoesNotAnswer(t *testing.T) {
	t.Parallel()
	addr := redistest.Start(t).Addr
	for address, want := range map[string]string{
		"redis://127.0.0.1:1":         "redis at redis://127.0.0.1:1 does not answer, and nothing was changed: store unavailable: dial tcp 127.0.0.1:1: connect: connection refused",
		"redis://bob:hunter2@" + addr: "WRONGPASS",
	} {
		began := time.Now()
		got := batchd(t, "", "seal", "rotate", "--config", sealed(t, address, "one"))
		require.Equal(t, exitFailure, got.code)
		require.Contains(t, got.stderr, want)
		require.NotContains(t, got.stderr, "hunter2")
		require.Less(t, time.Since(began), 40*time.Second, "it does not wait a minute for Redis")
	}
}

func TestCommandsWithoutAConfigurationSayHowToNameOne(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{
		"there is no configuration: set --config or BATCHD_CONFIG to that of the server, or name the file with the keys with --keys-file": {"keys", "create", "foo"},
		"there is no configuration: set --config or BATCHD_CONFIG to that of the server\n":                                                {"seal", "rotate"},
	} {
		got := batchd(t, "", args...)
		require.Equal(t, exitFailure, got.code)
		require.Contains(t, got.stderr, want)
		require.NotContains(t, got.stderr, "--target")
	}
}
