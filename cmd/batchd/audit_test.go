package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/apikey"
	"github.com/batchd/batchd/internal/audit"
)

func auditLines(t *testing.T, content string) (events []audit.Event) {
	t.Helper()
	for line := range strings.Lines(content) {
		var e audit.Event
		require.NoError(t, json.Unmarshal([]byte(line), &e), line)
		events = append(events, e)
	}
	return events
}

func TestChangesOfKeysAreAudited(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	log := filepath.Join(dir, "audit.log")
	cfg := file(t, "batchd.yaml", "targets: [{name: crm, base_url: 'http://127.0.0.1:9000'}]\nauth: {modes: [keys], keys_file: "+filepath.Join(dir, "keys.yaml")+"}\naudit: {output: "+log+"}\n")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "keys.yaml"), nil, 0o600))
	keys := func(args ...string) commandResult {
		return batchd(t, "", append(append([]string{"keys"}, args...), "--config", cfg)...)
	}
	got := keys("create", "billing")
	require.Equal(t, exitOK, got.code, got.stderr)
	secret := strings.TrimSpace(got.stdout)
	require.Equal(t, exitFailure, keys("create", "billing").code)
	require.Equal(t, exitOK, keys("rotate", "billing").code)
	require.Equal(t, exitOK, keys("list").code)
	require.Equal(t, exitOK, keys("revoke", "billing").code)
	require.Equal(t, exitFailure, keys("revoke", "unknown").code)
	require.Equal(t, exitFailure, keys("revoke", secret).code, "it is no name, so that nothing is tried")

	content, err := os.ReadFile(log)
	require.NoError(t, err)
	require.NotContains(t, string(content), secret[len(apikey.Prefix):], "not even if it was given as a name")
	found := auditLines(t, string(content))
	require.Len(t, found, 5)
	for i, want := range []struct {
		event  audit.Name
		result audit.Result
	}{{audit.KeyCreate, audit.OK}, {audit.KeyCreate, audit.Refused}, {audit.KeyRotate, audit.OK}, {audit.KeyRevoke, audit.OK}, {audit.KeyRevoke, audit.Refused}} {
		require.Equal(t, want.event, found[i].Name)
		require.Equal(t, want.result, found[i].Result)
		require.Equal(t, modeCommand, found[i].Mode)
		require.NotEmpty(t, found[i].Actor)
	}
	for _, e := range found[:2] {
		require.Equal(t, []any{"billing", "key:billing", []string{"submit", "read", "cancel"}}, []any{e.Key, e.Owner, e.Scopes})
	}

	// What cannot be recorded is not done.
	require.NoError(t, os.Remove(log))
	require.NoError(t, os.Mkdir(log, 0o700))
	got = keys("create", "another")
	require.Equal(t, exitFailure, got.code)
	require.Contains(t, got.stderr, "open the audit log")
	require.NotContains(t, keys("list").stdout, "another")
}

// Not parallel: it sets a variable. The output of a command is its result, so that its line is beside it.
func TestALineOfACommandIsNotInItsOutput(t *testing.T) {
	t.Setenv("BATCHD_AUDIT_OUTPUT", "stdout")
	got := batchd(t, "", "keys", "create", "billing", "--keys-file", filepath.Join(t.TempDir(), "keys.yaml"))
	require.Equal(t, exitOK, got.code, got.stderr)
	require.True(t, apikey.Valid(strings.TrimSuffix(got.stdout, "\n")), got.stdout)
	require.Contains(t, got.stderr, `"event":"key.create"`)
}

func TestAServerWritesItsAuditLog(t *testing.T) {
	t.Parallel()
	target := newSlowTarget(t)
	target.release()
	log := filepath.Join(t.TempDir(), "audit.log")
	serve := startProcess(t, nil, "serve", "--listen", "127.0.0.1:0", "--target", target.URL, "--audit-output", log)
	got := batchd(t, threeLines, "submit", "-", "--wait", "--server", serve.url)
	require.Equal(t, exitOK, got.code, got.stderr)
	serve.wait()
	require.NoError(t, serve.Process.Signal(syscall.SIGTERM))
	serve.requireEnd(t)
	content, err := os.ReadFile(log)
	require.NoError(t, err)
	found := auditLines(t, string(content))
	require.Equal(t, []any{audit.BatchSubmit, audit.OK, 3, "anonymous"}, []any{found[0].Name, found[0].Result, found[0].Count, found[0].Actor})
}
