package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/apikey"
	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/config"
)

func TestKeysAreKeptInAFile(t *testing.T) {
	t.Parallel()
	f := &config.KeysFile{Path: filepath.Join(t.TempDir(), "keys.yaml")}
	found, none, changed, err := f.Keys(t.Context(), "")
	require.NoError(t, err)
	require.True(t, changed)
	require.Empty(t, found)
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	want := batch.Key{
		Name: "alice", Owner: "a.b-c_d", Scopes: []string{"read", "submit"}, Targets: []string{"crm"}, WebhookHosts: []string{"*.example.com"},
		Limits: batch.OwnerLimits{Rate: batch.Rate{N: 100, Per: 15 * time.Minute}, Concurrent: 7}, Created: at, Expires: at.Add(time.Hour),
		Secrets: []batch.KeySecret{{SHA256: apikey.HexHash("x"), Until: at}, {SHA256: apikey.HexHash("y")}},
	}
	bob := batch.Key{Name: "bob", Owner: "bob", Scopes: []string{"read"}, Created: at, Revoked: at}
	for _, key := range []batch.Key{want, bob} {
		require.NoError(t, f.ChangeKey(t.Context(), key.Name, func(*batch.Key) (*batch.Key, error) { return &key, nil }))
	}
	found, version, changed, err := f.Keys(t.Context(), none)
	require.NoError(t, err)
	require.True(t, changed)
	require.Equal(t, []batch.Key{want, bob}, found)
	_, _, changed, err = f.Keys(t.Context(), version)
	require.NoError(t, err)
	require.False(t, changed)
	info, err := os.Stat(f.Path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	var all sync.WaitGroup
	for range 8 { // changes at the same time lose nothing
		all.Go(func() {
			if err := f.ChangeKey(t.Context(), "bob", func(key *batch.Key) (*batch.Key, error) {
				key.Targets = append(key.Targets, "t")
				return key, nil
			}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	found, _, _, err = f.Keys(t.Context(), "")
	require.NoError(t, err)
	require.Len(t, found[1].Targets, 8)
}

func TestFaultsOfAKeysFileHaveTheirPlace(t *testing.T) {
	t.Parallel()
	hash := apikey.HexHash("x")
	good := "  - {name: a, scopes: [read], secrets: [{sha256: " + hash + "}]}\n"
	for text, want := range map[string]string{
		"keys:\n" + good + good: "keys.yaml:3: keys[1].name: the name is taken by keys[0].name",
		"keys:\n  - {name: '{x}', scopes: [read], secrets: [{sha256: " + hash + "}]}":              "keys.yaml:2: keys[0].name: the name \"{x}\" is not usable",
		"keys:\n  - {name: a, secrets: [{sha256: " + hash + "}]}":                                  "keys[0].scopes: there are no scopes",
		"keys:\n  - {name: a, scopes: [everything]}":                                               `keys[0].scopes[0]: unknown value "everything"`,
		"keys:\n  - {name: a, scopes: [read]}":                                                     "keys[0].secrets: there is no secret",
		"keys:\n  - {name: a, scopes: [read], secrets: [{sha256: " + strings.ToUpper(hash) + "}]}": "keys[0].secrets[0].sha256: expected the SHA-256",
		"keys:\n  - {name: a, scopes: [read], expires: tomorrow}":                                  "keys[0].expires: cannot read \"tomorrow\" as a time",
		"keys:\n  - {name: a, secret: batchd_x}":                                                   "keys[0].secret: unknown key",
		"keys: [":                                                                                  "is not valid YAML",
	} {
		f := &config.KeysFile{Path: filepath.Join(t.TempDir(), "keys.yaml")}
		require.NoError(t, os.WriteFile(f.Path, []byte(text), 0o600))
		_, _, _, err := f.Keys(t.Context(), "")
		require.ErrorContains(t, err, want, text)
		_, err = config.Load(config.Options{File: write(t, oneTarget), Environ: []string{"BATCHD_API_KEYS_FILE=" + f.Path, "BATCHD_AUTH_MODES=keys"}})
		require.ErrorContains(t, err, "keys.yaml", text)
	}
	_, err := config.Load(config.Options{File: write(t, oneTarget+"auth: {modes: [keys]}\n")})
	require.ErrorContains(t, err, "auth.modes: keys has no keys to check")
	c := load(t, config.Options{File: write(t, oneTarget+"auth: {modes: [keys, passthrough], keys_file: keys.yaml}\nredis: {url: embedded}\n")})
	require.True(t, filepath.IsAbs(c.Auth.KeysFile), "it is relative to the directory of the file")
}
