package main

import (
	"bytes"
	"encoding/base64"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/redistest"
)

// sealKey returns a seal key whose bytes are all the same.
func sealKey(id string, fill byte) string {
	return id + ":" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{fill}, 32))
}

func TestAProcessWithOtherSealKeysThanTheRedisSaysSo(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t).URL()
	settings := func(keys string) map[string]string {
		set := map[string]string{"auth.modes": "keys", "redis.url": redis, "monitor.listen": "127.0.0.1:0"}
		if keys != "" {
			set["seal.keys"] = keys
		}
		return set
	}
	i, atStart := startedWithLog(t, roles{api: true}, settings(sealKey("one", 1)))
	require.NotContains(t, atStart, "level=ERROR")
	require.Equal(t, batch.CheckOK, checkOf(t, i, "sealing").State)
	for name, row := range map[string]struct{ keys, want string }{
		"an unknown key":           {sealKey("two", 2), `key "one" encrypted what is in Redis, and seal.keys has another one or none of that name: set the same ones`},
		"another key of this name": {sealKey("one", 3), `key "one" encrypted what is in Redis, and seal.keys has another one or none of that name: set the same ones`},
		"no key":                   {"", `key "one" encrypted what is in Redis, and this process has no seal.keys: set the same ones`},
	} {
		for _, r := range []roles{{api: true}, {worker: true}, {api: true, worker: true}} {
			i, atStart := startedWithLog(t, r, settings(row.keys))
			require.Contains(t, atStart, "level=ERROR", name)
			check := checkOf(t, i, "sealing")
			require.Equal(t, batch.CheckFailed, check.State, name)
			require.Contains(t, check.Detail, row.want, name)
		}
	}
	i, atStart = startedWithLog(t, roles{api: true}, settings(sealKey("two", 2)+","+sealKey("one", 1)))
	require.NotContains(t, atStart, "level=ERROR", "the first key is new, and the old one opens what it sealed")
	require.Equal(t, batch.CheckOK, checkOf(t, i, "sealing").State)
}
