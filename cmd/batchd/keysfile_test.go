package main

import (
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/config"
)

// sharedLog is a log that several goroutines write while a test reads it.
type sharedLog struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *sharedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *sharedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// startedWithLog starts an instance as [started] does, and returns what it logged at its start.
func startedWithLog(t *testing.T, r roles, set map[string]string) (i *instance, atStart string) {
	t.Helper()
	all := map[string]string{"listen": "127.0.0.1:0", "worker.listen": "127.0.0.1:0", "target": "http://127.0.0.1:9"}
	maps.Copy(all, set)
	cfg, err := config.Load(config.Options{Set: all})
	require.NoError(t, err)
	var log sharedLog
	i, err = startInstance(t.Context(), cfg, slog.New(slog.NewTextHandler(&log, nil)), io.Discard, r)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, i.Close()) })
	return i, log.String()
}

// checkOf returns the check with a name of the monitor of an instance.
func checkOf(t *testing.T, i *instance, name string) batch.Check {
	t.Helper()
	url := i.MonitorURL
	if url == "" {
		url = i.URL
	}
	status, body := fetch(t, url+"/readyz?verbose", "")
	require.Equal(t, http.StatusOK, status, body)
	var ready batch.Readiness
	require.NoError(t, json.Unmarshal([]byte(body), &ready))
	for _, check := range ready.Checks {
		if check.Name == name {
			return check
		}
	}
	require.Fail(t, "there is no such check", "%s: %s", name, body)
	return batch.Check{}
}

// awaitCheck returns a check of an instance once it has that state: the checks are shown again for a second.
func awaitCheck(t *testing.T, i *instance, name string, state batch.CheckState) (check batch.Check) {
	t.Helper()
	require.Eventually(t, func() bool {
		check = checkOf(t, i, name)
		return check.State == state
	}, 10*time.Second, 50*time.Millisecond, "the check is not %s", state)
	return check
}

func TestAFileOfKeysThatDoesNotExistIsReported(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keys.yaml")
	i, atStart := startedWithLog(t, roles{api: true, worker: true}, map[string]string{"auth.modes": "keys", "auth.keys_file": path, "monitor.listen": "127.0.0.1:0"})
	require.Regexp(t, `level=WARN .*setting=auth\.keys_file file=`+path, atStart)
	check := checkOf(t, i, "keys_file")
	require.Equal(t, batch.CheckFailed, check.State)
	require.Contains(t, check.Detail, "auth.keys_file: "+path+" does not exist")
	got := batchd(t, "", "config", "check", file(t, "b.yaml", "targets: [{name: crm, base_url: 'http://127.0.0.1:9'}]\nauth: {modes: [keys], keys_file: "+path+"}\n"))
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Contains(t, got.stderr, "warning: auth.keys_file: "+path+" does not exist")

	// A file that appears later is read.
	text := strings.TrimSpace(batchd(t, "", "keys", "create", "root", "--scope", "read,admin", "--keys-file", path).stdout)
	got = batchd(t, "", "list", "--server", i.URL, "--header", "Authorization: Bearer "+text)
	require.Equal(t, exitOK, got.code, got.stderr)
	awaitCheck(t, i, "keys_file", batch.CheckOK)

	// The checks also report a file that was damaged, or has no keys.
	require.NoError(t, os.WriteFile(path, []byte("keys: [{"), 0o600))
	require.Contains(t, awaitCheck(t, i, "keys_file", batch.CheckFailed).Detail, "auth.keys_file: "+path+" cannot be used")
	require.NoError(t, os.WriteFile(path, []byte("keys: []"), 0o600))
	awaitCheck(t, i, "keys_file", batch.CheckWarning)
}

func TestAFileOfKeysThatNothingAuthenticatesByIsNotReported(t *testing.T) {
	t.Parallel()
	i, atStart := startedWithLog(t, roles{api: true, worker: true}, map[string]string{"auth.keys_file": filepath.Join(t.TempDir(), "keys.yaml")})
	require.NotContains(t, atStart, "keys_file")
	_, body := fetch(t, i.URL+"/readyz?verbose", "")
	require.NotContains(t, body, "keys_file")
}
