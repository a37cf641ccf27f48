package main

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api"
	"github.com/batchd/batchd/internal/apikey"
	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/config"
	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue"
)

func TestKeysAreMadeRotatedAndRevoked(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keys.yaml")
	keys := func(args ...string) commandResult {
		return batchd(t, "", append(append([]string{"keys"}, args...), "--keys-file", path)...)
	}
	// valid reports whether a key is in the file.
	valid := func(text string) bool {
		found, _, _, err := (&config.KeysFile{Path: path}).Keys(t.Context(), "")
		require.NoError(t, err)
		for _, k := range found {
			for _, s := range k.Secrets {
				if s.SHA256 == apikey.HexHash(text) && k.Revoked.IsZero() {
					return true
				}
			}
		}
		return false
	}
	got := keys("create", "billing", "--scope", "submit,read", "--target", "crm", "--webhook-host", "hooks.example.com", "--rate", "10/s", "--concurrent", "5", "--expires-in", "90d",
		"--quota", "open_batches=100,stored_bytes=64MiB", "--quota", "upload_rate=1MiB")
	require.Equal(t, exitOK, got.code, got.stderr)
	first := strings.TrimSuffix(got.stdout, "\n")
	require.True(t, apikey.Valid(first), "the key alone is on standard output: %q", got.stdout)
	require.Contains(t, got.stderr, "shown this once")
	require.Contains(t, got.stderr, "Servers accept it within 5 s")
	require.NotContains(t, got.stderr, first)
	require.True(t, valid(first))
	source, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NotContains(t, string(source), first[len(apikey.Prefix):])

	got = keys("create", "billing")
	require.Equal(t, exitFailure, got.code)
	require.Contains(t, got.stderr, "a key with this name exists")
	require.Empty(t, got.stdout)
	require.True(t, valid(first))

	got = keys("rotate", "billing")
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Contains(t, got.stderr, "Servers accept it within 5 s. The old one is valid until ")
	second := strings.TrimSpace(got.stdout)
	require.True(t, valid(first) && valid(second))
	got = keys("rotate", "billing", "--grace", "0")
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Contains(t, got.stderr, "Servers accept it within 5 s. They refuse the old one within 5 s.")
	third := strings.TrimSpace(got.stdout)
	require.True(t, valid(third) && !valid(first) && !valid(second))

	got = keys("list")
	require.Equal(t, exitOK, got.code, got.stderr)
	var listed batch.Key
	require.NoError(t, json.Unmarshal([]byte(got.stdout), &listed))
	require.Equal(t, "billing", listed.Owner)
	require.Equal(t, []string{"submit", "read"}, listed.Scopes)
	require.Equal(t, batch.Quotas{OpenBatches: 100, StoredBytes: 64 << 20, UploadRate: 1 << 20}, listed.Quotas)
	require.NotContains(t, got.stdout, third[len(apikey.Prefix):])
	require.Contains(t, keys("list", "--format", "table").stdout, "until ")

	got = keys("revoke", "billing")
	require.Equal(t, exitOK, got.code, got.stderr)
	require.False(t, valid(third))
	require.Contains(t, keys("list", "--format", "table").stdout, "revoked ")
	for _, row := range []struct {
		args []string
		want string
	}{
		{[]string{"create", "billing"}, "was revoked at"},
		{[]string{"rotate", "billing"}, "was revoked or has expired"},
		{[]string{"revoke", "nobody"}, "key nobody: there is no key with this name"},
		{[]string{"rotate", "nobody"}, "key nobody: there is no key with this name"},
		{[]string{"create", "a{b}"}, "is not usable"},
		{[]string{"create", "a", "--scope", "everything"}, `unknown value "everything"`},
		{[]string{"create", "a", "--expires-in", "soon"}, "--expires-in: cannot read"},
		{[]string{"create", "a", "--expires-in", "213504d"}, "--expires-in: cannot read"}, // 2^64 ns and 25 minutes
		{[]string{"create", "a", "--expires-in", "106752d"}, "--expires-in: cannot read"},
		{[]string{"create", "a", "--quota", "stored_bytes=0"}, `--quota: stored_bytes is "0": expected a size of at least 1 byte`},
		{[]string{"create", "a", "--quota", "upload_rate=0MiB"}, `--quota: upload_rate is "0MiB": expected a size of at least 1 byte`},
		{[]string{"create", "a", "--quota", "upload_burst=0"}, `--quota: upload_burst is "0": expected a size of at least 1 byte`},
		{[]string{"create", "a", "--quota", "open_batches=many"}, `--quota: cannot read "many" as a number of batches`},
		{[]string{"create", "a", "--quota", "stored_bytes=-1"}, `--quota: cannot read "-1" as a size`},
		{[]string{"create", "a", "--quota", "batches=1"}, `--quota: unknown quota "batches": expected open_batches`},
		{[]string{"create", "a", "--quota", "upload_rate=2MiB,upload_burst=1MiB"}, "quotas.upload_rate: 2MiB is more than quotas.upload_burst, which is 1MiB"},
		{[]string{"create", "a", "--rate", "fast"}, "--rate: cannot read"},
		{[]string{"create", "a", "--webhook-host", "localhost:21230"}, `webhook_hosts[0]: "localhost:21230" is not a host`},
		{[]string{"create", "a", "--webhook-host", "127.0.0.1:80"}, `"127.0.0.1:80" is not a host`},
		{[]string{"create", "a", "--webhook-host", "[::1]:80"}, `"[::1]:80" is not a host`},
		{[]string{"create", "a", "--webhook-host", "https://a.example"}, `"https://a.example" is not a host`},
		{[]string{"create", "a", "--webhook-host", "b.example,cafe:8080"}, `webhook_hosts[1]: "cafe:8080" is not a host`},
		{[]string{"rotate", "billing", "--grace", "-1h"}, "--grace: cannot read"},
	} {
		got = keys(row.args...)
		require.Equal(t, exitFailure, got.code, "%q", row.args)
		require.Contains(t, got.stderr, row.want)
		require.Empty(t, got.stdout)
	}
	got = batchd(t, "", "keys", "list", "--config", file(t, "b.yaml", "targets: [{name: crm, base_url: 'http://127.0.0.1:9000'}]\n"))
	require.Equal(t, exitFailure, got.code)
	require.Contains(t, got.stderr, "there is no place for keys")
}

func TestAKeyInThePlaceOfItsNameIsNotShown(t *testing.T) {
	t.Parallel()
	path, key := filepath.Join(t.TempDir(), "keys.yaml"), apikey.New()
	for _, args := range [][]string{{"create", key}, {"create", "Bearer " + key}, {"create", "x", "--owner", key}, {"revoke", key}, {"rotate", key}, {"rotate", key[:len(key)-1]}} {
		got := batchd(t, "", append(append([]string{"keys"}, args...), "--keys-file", path)...)
		require.NotEqual(t, exitOK, got.code, args[0])
		require.Contains(t, got.stderr, "looks like a key of batchd", args[0])
		require.NotContains(t, got.stdout+got.stderr, key[10:40], args[0])
		require.NoFileExists(t, path)
	}
}

func TestAServerTakesTheKeysOfAFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keys.yaml")
	text := strings.TrimSpace(batchd(t, "", "keys", "create", "ci", "--keys-file", path).stdout)
	cfg, err := config.Load(config.Options{
		File: file(t, "b.yaml", "targets: [{name: crm, base_url: 'http://127.0.0.1:9000'}]\nauth: {modes: [keys]}\n"), Environ: []string{"BATCHD_API_KEYS_FILE=" + path},
	})
	require.NoError(t, err)
	store, err := queue.Open(queue.Config{Redis: cfg.Redis})
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close()) }()
	server, err := api.New(apiConfig(cfg, store, nil, nil, nil))
	require.NoError(t, err)
	for want, authorization := range map[int]string{http.StatusOK: "Bearer " + text, http.StatusUnauthorized: "Bearer " + apikey.New()} {
		r := httptest.NewRequest(http.MethodGet, "/batch", http.NoBody)
		r.Header.Set("Authorization", authorization)
		w := httptest.NewRecorder()
		server.Handler().ServeHTTP(w, r)
		require.Equal(t, want, w.Code, "%s", w.Body)
	}
}

func TestWhoAmIShowsWhatTheServerSays(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keys.yaml")
	text := strings.TrimSpace(batchd(t, "", "keys", "create", "ci", "--scope", "read", "--expires-in", "90d", "--keys-file", path).stdout)
	cfg, err := config.Load(config.Options{
		File: file(t, "b.yaml", "targets: [{name: crm, base_url: 'http://127.0.0.1:9000'}]\nauth: {modes: [keys]}\n"), Environ: []string{"BATCHD_API_KEYS_FILE=" + path},
	})
	require.NoError(t, err)
	store, err := queue.Open(queue.Config{Redis: cfg.Redis})
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close()) }()
	server, err := api.New(apiConfig(cfg, store, nil, nil, nil))
	require.NoError(t, err)
	live := httptest.NewServer(server.Handler())
	defer live.Close()
	got := batchd(t, "", "whoami", "--server", live.URL, "--header", "Authorization: Bearer "+text)
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Regexp(t, `^mode +keys\nname +ci\nowner +key:ci\nscopes +read\ntargets +crm\nexpires +20`, got.stdout)
	got = batchd(t, "", "whoami", "--json", "--server", live.URL, "--header", "X-Batchd-Key: "+text)
	require.Equal(t, "keys", jsonField(t, got.stdout, "mode"))
	got = batchd(t, "", "whoami", "--server", live.URL)
	require.Equal(t, exitFailure, got.code)
	require.Contains(t, got.stderr, "has no credential")
}

func jsonField(t *testing.T, text, name string) string {
	t.Helper()
	var doc map[string]any
	require.NoError(t, json.Unmarshal([]byte(text), &doc))
	value, _ := doc[name].(string)
	return value
}

// Keys that were made before seal.keys was set cannot be read: the list says so, and they can be revoked.
func TestKeysThatCannotBeReadAreListedAndRevoked(t *testing.T) {
	t.Parallel()
	open := "targets: [{name: crm, base_url: 'http://127.0.0.1:9000'}]\nredis: {url: '" + redistest.Start(t).URL() + "'}\n"
	sealed := open + "seal: {keys: [{id: one, base64: " + base64.StdEncoding.EncodeToString(make([]byte, 32)) + "}]}\n"
	keys := func(text string, args ...string) commandResult {
		return batchd(t, "", append(append([]string{"keys"}, args...), "--config", file(t, "b.yaml", text))...)
	}
	got := keys(open, "create", "old")
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Equal(t, exitOK, keys(sealed, "create", "new").code)

	got = keys(sealed, "list")
	require.Equal(t, exitFailure, got.code)
	require.Contains(t, got.stderr, "1 of 2 keys in Redis at redis://")
	require.Contains(t, got.stdout, `"name":"new"`)
	require.Contains(t, got.stdout, `{"name":"old","error":"`)
	got = keys(sealed, "list", "--format", "table")
	require.Equal(t, exitFailure, got.code)
	require.Contains(t, got.stdout, "not readable: ")

	for _, args := range [][]string{{"create", "old"}, {"rotate", "old"}} {
		got = keys(sealed, args...)
		require.Equal(t, exitFailure, got.code)
		require.Contains(t, got.stderr, "the record of key old cannot be read")
	}
	got = keys(sealed, "revoke", "old")
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Contains(t, got.stderr, "was replaced, as it could not be read")
	require.Contains(t, got.stderr, "Key old is revoked in Redis at redis://")
	got = keys(sealed, "list", "--format", "table")
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Contains(t, got.stdout, "revoked ")
}

// The client of Redis has a log of its own. A command returns an error instead.
func TestACommandWithoutARedisPrintsOneLine(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	require.NoError(t, err)
	configuration := file(t, "b.yaml", "targets: [{name: crm, base_url: 'http://127.0.0.1:9000'}]\nredis: {url: 'redis://"+redistest.FreeAddr(t)+"'}\n")
	command := exec.CommandContext(t.Context(), self, "keys", "list", "--config", configuration)
	command.Env = append(os.Environ(), asProcess+"=1")
	var stderr strings.Builder
	command.Stderr = &stderr
	require.Error(t, command.Run())
	require.Equal(t, 1, strings.Count(stderr.String(), "\n"), stderr.String())
	require.Contains(t, stderr.String(), "does not answer")
}

func TestTheVariableOfTheKeysFileNeedsNoConfiguration(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.yaml")
	t.Setenv("BATCHD_API_KEYS_FILE", path)
	got := batchd(t, "", "keys", "create", "ci")
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Contains(t, got.stderr, "keys.yaml")
	source, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, append(source, "    targets: []\n"...), 0o600))
	require.Contains(t, batchd(t, "", "keys", "list", "--format", "table").stdout, "none", "an empty list allows none")
	t.Setenv("BATCHD_AUTH_KEYS_FILE", path)
	require.Contains(t, batchd(t, "", "keys", "list").stderr, "set only one of them")
}

func TestAKeyForATargetThatTheConfigurationLacksIsRefused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keys.yaml")
	configuration := file(t, "b.yaml", "targets: [{name: crm, base_url: 'http://127.0.0.1:9'}, {name: billing, base_url: 'http://127.0.0.1:9'}]\nauth: {modes: [keys], keys_file: "+path+"}\n")
	got := batchd(t, "", "keys", "create", "ci", "--target", "crm,bilings", "--config", configuration)
	require.Equal(t, exitFailure, got.code)
	require.Contains(t, got.stderr, `--target: there is no target "bilings" in the configuration: expected crm or billing`)
	require.Empty(t, got.stdout)
	require.NoFileExists(t, path)
	got = batchd(t, "", "keys", "create", "ci", "--target", "crm", "--target", "billing", "--config", configuration)
	require.Equal(t, exitOK, got.code, got.stderr)
}

// A key that was sealed with a key which the servers lack would get 401.
func TestKeysThatTheServersCouldNotReadAreNotMade(t *testing.T) {
	t.Parallel()
	unsealed := "targets: [{name: crm, base_url: 'http://127.0.0.1:9000'}]\nredis: {url: '" + redistest.Start(t).URL() + "'}\n"
	sealed := func(keys ...string) string {
		text := unsealed + "seal:\n  keys:\n"
		for _, key := range keys {
			id, secret, _ := strings.Cut(key, ":")
			text += "    - {id: " + id + ", base64: " + secret + "}\n"
		}
		return text
	}
	keys := func(text string, args ...string) commandResult {
		return batchd(t, "", append(append([]string{"keys"}, args...), "--config", file(t, "b.yaml", text))...)
	}
	got := keys(sealed(sealKey("one", 1)), "create", "first")
	require.Equal(t, exitOK, got.code, got.stderr)
	for _, other := range []string{unsealed, sealed(sealKey("two", 2)), sealed(sealKey("one", 3))} {
		for _, args := range [][]string{{"create", "second"}, {"rotate", "first"}} {
			got = keys(other, args...)
			require.Equal(t, exitFailure, got.code, "%q", args)
			require.Contains(t, got.stderr, `key "one" encrypted what is in Redis`)
			require.Contains(t, got.stderr, "set the same ones as the processes that stored it")
			require.Empty(t, got.stdout)
		}
	}
	got = keys(sealed(sealKey("two", 2), sealKey("one", 1)), "create", "second")
	require.Equal(t, exitOK, got.code, got.stderr)
}

func TestAKeysBurstBelowItsRateIsRefused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keys.yaml")
	configuration := file(t, "b.yaml", "targets: [{name: crm, base_url: 'http://127.0.0.1:9'}]\nauth: {modes: [keys], keys_file: "+path+"}\n")
	for quota, want := range map[string]string{ // by default the rate is 32MiB and the burst 512MiB
		"upload_burst=16MiB": "--quota: upload_burst 16MiB is less than the configured quotas.upload_rate 32MiB",
		"upload_rate=1GiB":   "--quota: the configured quotas.upload_burst 512MiB is less than upload_rate 1GiB",
	} {
		got := batchd(t, "", "keys", "create", "ci", "--quota", quota, "--config", configuration)
		require.Equal(t, exitFailure, got.code, quota)
		require.Contains(t, got.stderr, want)
		require.Empty(t, got.stdout)
	}
	for name, quota := range map[string]string{"a": "upload_rate=1MiB,upload_burst=16MiB", "b": "upload_burst=32MiB", "c": "upload_rate=1KiB", "d": "stored_bytes=1MiB"} {
		got := batchd(t, "", "keys", "create", name, "--quota", quota, "--config", configuration)
		require.Equal(t, exitOK, got.code, got.stderr)
	}
}
