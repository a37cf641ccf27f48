package config_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
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

// edit adds a key through a path, and returns the keys that another path has then.
func edit(t *testing.T, through, seen string) []batch.Key {
	t.Helper()
	require.NoError(t, (&config.KeysFile{Path: through}).ChangeKey(t.Context(), "other", func(*batch.Key) (*batch.Key, error) {
		return &batch.Key{Name: "other", Owner: "other", Scopes: []string{"read"}, Secrets: []batch.KeySecret{{SHA256: apikey.HexHash("o")}}}, nil
	}))
	found, _, _, err := (&config.KeysFile{Path: seen}).Keys(t.Context(), "")
	require.NoError(t, err)
	return found
}

func TestAChangeThroughALinkReachesTheFile(t *testing.T) {
	t.Parallel()
	for name, lead := range map[string]func(dir, actual string) string{
		"relative": func(dir, _ string) string { return symlink(t, "store/keys.yaml", filepath.Join(dir, "link")) },
		"absolute": func(dir, actual string) string { return symlink(t, actual, filepath.Join(dir, "link")) },
		"twice": func(dir, _ string) string {
			return symlink(t, symlink(t, "store/keys.yaml", filepath.Join(dir, "link")), filepath.Join(t.TempDir(), "link"))
		},
		"directory": func(dir, _ string) string {
			return filepath.Join(symlink(t, "store", filepath.Join(dir, "link")), "keys.yaml")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			require.NoError(t, os.Mkdir(filepath.Join(dir, "store"), 0o700))
			actual := filepath.Join(dir, "store", "keys.yaml")
			link := lead(dir, actual)
			want, err := filepath.EvalSymlinks(filepath.Dir(actual))
			require.NoError(t, err)
			require.Equal(t, filepath.Join(want, "keys.yaml"), (&config.KeysFile{Path: link}).Place(), "the file does not exist yet")
			require.Len(t, edit(t, link, actual), 1)
			at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
			_, err = (&config.KeysFile{Path: link}).RevokeKey(t.Context(), "other", at)
			require.NoError(t, err)
			found, _, err := (&config.KeysFile{Path: actual}).ListKeys(t.Context())
			require.NoError(t, err)
			require.Equal(t, at, found[0].Revoked)
			require.Empty(t, found[0].Secrets)
		})
	}
	loop := filepath.Join(t.TempDir(), "loop")
	symlink(t, loop, loop)
	_, err := (&config.KeysFile{Path: loop}).RevokeKey(t.Context(), "other", time.Now())
	require.ErrorContains(t, err, "find the file with the keys")
}

func symlink(t *testing.T, to, at string) string {
	t.Helper()
	require.NoError(t, os.Symlink(to, at))
	return at
}

func TestAChangeKeepsModeAndOwnerOfTheFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keys.yaml")
	require.NoError(t, os.WriteFile(path, []byte("keys: []\n"), 0o600))
	require.NoError(t, os.Chmod(path, 0o640)) //nolint:gosec // another mode than that of new files
	root := os.Getuid() == 0
	if root { // only root can give files away
		require.NoError(t, os.Chown(path, 65532, 65533))
	}
	require.Len(t, edit(t, path, path), 1)
	for file, mode := range map[string]os.FileMode{path: 0o640, path + ".lock": 0o600} {
		info, err := os.Stat(file)
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode().Perm(), file)
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && root {
			require.EqualValues(t, 65532, stat.Uid, file)
			require.EqualValues(t, 65533, stat.Gid, file)
		}
	}
}

func TestAChangeThatWouldNotReachAllNamesOfAFileFails(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keys.yaml")
	require.Len(t, edit(t, path, path), 1)
	require.NoError(t, os.Link(path, path+"2"))
	before, err := os.ReadFile(path)
	require.NoError(t, err)
	_, err = (&config.KeysFile{Path: path}).RevokeKey(t.Context(), "other", time.Now())
	require.ErrorContains(t, err, "has 2 names (hard links)")
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(before), string(after))
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".keys-*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

// A path that leads to an open file leads to the old file also after it was replaced, as a mount of a single file does.
func TestAFileThatWasReplacedUnderAMountIsNotRead(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keys.yaml")
	require.Len(t, edit(t, path, path), 1)
	old, err := os.Open(path)
	require.NoError(t, err)
	defer func() { require.NoError(t, old.Close()) }()
	mount := &config.KeysFile{Path: "/proc/self/fd/" + strconv.Itoa(int(old.Fd()))} // tests run on Linux
	_, version, _, err := mount.Keys(t.Context(), "")
	require.NoError(t, err)
	_, err = (&config.KeysFile{Path: path}).RevokeKey(t.Context(), "other", time.Now())
	require.NoError(t, err)
	_, _, _, err = mount.Keys(t.Context(), version)
	require.ErrorContains(t, err, "mount the directory")
}

// An empty list allows nothing, and no command makes it a list that allows all.
func TestAnEmptyListOfAKeyStaysEmpty(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keys.yaml")
	const key = "keys:\n  - {name: a, scopes: [read], secrets: [{sha256: %s}], %s}\n"
	require.NoError(t, os.WriteFile(path, fmt.Appendf(nil, key, apikey.HexHash("x"), "targets: [], webhook_hosts: []"), 0o600))
	for _, found := range [][]batch.Key{edit(t, path, path), edit(t, path, path)} {
		require.Equal(t, []string{}, found[0].Targets)
		require.Equal(t, []string{}, found[0].WebhookHosts)
		require.Nil(t, found[1].Targets)
		require.Nil(t, found[1].WebhookHosts)
	}
	for _, name := range []string{"targets", "webhook_hosts"} {
		require.NoError(t, os.WriteFile(path, fmt.Appendf(nil, key, apikey.HexHash("x"), name+": "), 0o600))
		_, _, _, err := (&config.KeysFile{Path: path}).Keys(t.Context(), "")
		require.ErrorContains(t, err, "keys[0]."+name+": there is no list: write [] for none")
	}
}

func TestOnlyOneVariableNamesTheKeysFile(t *testing.T) {
	t.Parallel()
	both := []string{"BATCHD_API_KEYS_FILE=a.yaml", "BATCHD_AUTH_KEYS_FILE=b.yaml"}
	for range 2 {
		slices.Reverse(both)
		_, err := config.Load(config.Options{File: write(t, oneTarget), Environ: both})
		require.ErrorContains(t, err, "BATCHD_API_KEYS_FILE and BATCHD_AUTH_KEYS_FILE are set: set only one of them")
		_, err = config.KeysFileOf(both)
		require.ErrorContains(t, err, "set only one of them")
	}
	for _, environ := range [][]string{{"BATCHD_API_KEYS_FILE=a.yaml", "BATCHD_PORT=1"}, {"BATCHD_AUTH_KEYS_FILE=a.yaml"}} {
		file, err := config.KeysFileOf(environ)
		require.NoError(t, err)
		require.Equal(t, "a.yaml", file)
	}
	file, err := config.KeysFileOf([]string{"BATCHD_REDIS_URL=x"})
	require.NoError(t, err)
	require.Empty(t, file)
}

func TestABurstBelowItsRateIsAFault(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"quotas: {upload_rate: 2MiB, upload_burst: 1MiB}":                "yaml:2: quotas.upload_rate: 2MiB is more than quotas.upload_burst, which is 1MiB",
		"quotas: {upload_rate: 1GiB}":                                    "yaml:2: quotas.upload_rate: 1GiB is more than quotas.upload_burst, which is 512MiB",
		"quotas: {upload_burst: 1MiB}":                                   "yaml:2: quotas.upload_burst: 1MiB is less than quotas.upload_rate, which is 32MiB",
		"quotas: {per_address: {upload_rate: 2MiB, upload_burst: 1MiB}}": "yaml:2: quotas.per_address.upload_rate: 2MiB is more than quotas.per_address.upload_burst, which is 1MiB",
	} {
		_, err := config.Load(config.Options{File: write(t, oneTarget+text+"\n")})
		require.ErrorContains(t, err, want)
	}
	load(t, config.Options{File: write(t, oneTarget+"quotas: {upload_rate: 1GiB, upload_burst: 0}\n")})
	load(t, config.Options{File: write(t, oneTarget+"quotas: {upload_rate: 0, upload_burst: 1}\n")})
	f := &config.KeysFile{Path: filepath.Join(t.TempDir(), "keys.yaml")}
	key := "  - {name: a, scopes: [read], secrets: [{sha256: " + apikey.HexHash("x") + "}], quotas: {upload_rate: 2KiB, upload_burst: 1KiB}}\n"
	require.NoError(t, os.WriteFile(f.Path, []byte("keys:\n"+key), 0o600))
	_, _, _, err := f.Keys(t.Context(), "")
	require.ErrorContains(t, err, "keys.yaml:2: keys[0].quotas.upload_rate: 2KiB is more than")
}
