package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestListShowsABatchThatCannotBeRead(t *testing.T) {
	t.Parallel()
	fake := newFakeServer(t)
	fake.list = docRunning + `,{"id":"b2","created_at":"2026-01-02T03:04:05Z","error":"batch b2 cannot be read:\u001b[2J changed"},` + docFailed
	for _, format := range []string{"ndjson", "table"} {
		got := batchd(t, "", "list", "--server", fake.URL, "--format", format)
		require.Equal(t, exitFailure, got.code)
		require.Contains(t, got.stderr, "1 of 3 batches cannot be read, such as: batch b2 cannot be read:")
		require.NotContains(t, got.stderr, "\x1b")
		require.Less(t, strings.Index(got.stdout, "b1"), strings.Index(got.stdout, "b2"))
		require.Contains(t, got.stdout, map[string]string{"ndjson": `{"id":"b2","created_at":"2026-01-02T03:04:05Z","error":"batch b2`, "table": "unreadable"}[format])
	}
}

func TestAKeyWithTheScopeAdminReachesTheBatchesOfOthers(t *testing.T) {
	t.Parallel()
	keys := filepath.Join(t.TempDir(), "keys.yaml")
	as := map[string]string{}
	for name, scopes := range map[string]string{"alice": "submit,read,cancel", "bob": "submit,read,cancel", "root": "read,cancel,admin"} {
		got := batchd(t, "", "keys", "create", name, "--scope", scopes, "--keys-file", keys)
		require.Equal(t, exitOK, got.code, got.stderr)
		as[name] = "Authorization: Bearer " + strings.TrimSpace(got.stdout)
	}
	i := started(t, roles{api: true, worker: true}, map[string]string{"auth.modes": "keys", "auth.keys_file": keys})
	run := func(name string, args ...string) commandResult {
		return batchd(t, `{"method":"GET","path":"/"}`+"\n", append(args, "--server", i.URL, "--header", as[name])...)
	}
	ids := map[string]string{}
	for _, name := range []string{"alice", "bob"} {
		got := run(name, "submit", "-")
		require.Equal(t, exitOK, got.code, got.stderr)
		ids[name] = strings.TrimSpace(got.stdout)
	}
	got := run("root", "list", "--format", "ndjson")
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Less(t, strings.Index(got.stdout, ids["bob"]), strings.Index(got.stdout, ids["alice"]), "newest first: %s", got.stdout)
	require.Contains(t, got.stdout, `"owner":"key:alice"`)
	got = run("root", "list", "--owner", "key:alice", "--format", "ndjson")
	require.Contains(t, got.stdout, ids["alice"])
	require.NotContains(t, got.stdout, ids["bob"])
	got = run("bob", "list", "--format", "ndjson")
	require.NotContains(t, got.stdout, ids["alice"])
	require.NotContains(t, got.stdout, "owner")
	require.Contains(t, run("bob", "list", "--owner", "key:alice").stderr, "403")
	require.Contains(t, run("bob", "status", ids["alice"]).stderr, "404")
	got = run("root", "cancel", ids["alice"])
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Contains(t, run("root", "submit", "-").stderr, "403", "a key without the scope submit")
}
