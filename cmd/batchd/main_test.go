package main

import (
	"bytes"
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// asProcess is the environment variable that makes the test binary run as batchd.
const asProcess = "RUN_AS_BATCHD"

func TestMain(m *testing.M) {
	if os.Getenv(asProcess) != "" {
		os.Exit(mainCode())
	}
	goleak.VerifyTestMain(m)
}

// golden compares a text with a file in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o750))
		require.NoError(t, os.WriteFile(path, []byte(got), 0o600))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

// commandResult is the result of a command line.
type commandResult struct {
	code           int
	stdout, stderr string
}

// batchd runs a command line in this process.
func batchd(t *testing.T, stdin string, args ...string) commandResult {
	t.Helper()
	return batchdContext(t.Context(), stdin, args...)
}

func batchdContext(ctx context.Context, stdin string, args ...string) commandResult {
	var stdout, stderr bytes.Buffer
	code := run(ctx, args, strings.NewReader(stdin), &stdout, &stderr)
	return commandResult{code, stdout.String(), stderr.String()}
}

// file writes a file for one test, and returns its path.
func file(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

func TestHelpReadsAsMeant(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"submit", "status", "results", "cancel", "list"} {
		got := batchd(t, "", name, "--help")
		require.Equal(t, exitOK, got.code)
		require.Empty(t, got.stderr)
		golden(t, "help_"+name+".golden", got.stdout)
	}
}

func TestWrongUsageIsToldInOneLine(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{
		`batchd: unknown command "sumbit" for "batchd"`:                                                        {"sumbit"},
		"batchd: the FILE is missing: usage: batchd submit FILE [flags]":                                       {"submit"},
		"batchd: the FILE is missing: name it, or set BATCHD_CONFIG: usage: batchd config check [FILE]":        {"config", "check"},
		"batchd: expected one ID, got 2: usage: batchd status ID [flags]":                                      {"status", "a", "b"},
		"batchd: unknown flag: --wiat":                                                                         {"submit", "x", "--wiat"},
		`batchd: --outcome: unknown outcome "faild": expected pending, succeeded, failed`:                      {"results", "x", "--outcome", "failed,faild"},
		`batchd: invalid argument "xml" for "--format" flag: expected one of auto, table, ndjson, json, csv`:   {"results", "x", "--format", "xml"},
		"batchd: --limit is 0: expected 1 or more":                                                             {"list", "--limit", "0"},
		"batchd: --header: expected 'Name: value'":                                                             {"list", "--header", "hunter2"},
		`batchd: --server: "localhost:8080" has no scheme: expected http://localhost:8080 or`:                  {"list", "--server", "localhost:8080"},
		"batchd: no server listens at http://127.0.0.1:1: start one with `batchd serve`, or name another with": {"list", "--server", "http://127.0.0.1:1"},
		`batchd: --metadata "k": expected key=value`:                                                           {"submit", "x", "--metadata", "k"},
		`batchd: --compress "lzma": expected none, gzip or zstd`:                                               {"submit", "x", "--compress", "lzma"},
		"batchd: --expires-in is below zero":                                                                   {"submit", "x", "--expires-in", "-1s"},
		"batchd: --retention is below zero":                                                                    {"submit", "x", "--retention", "-1s"},
		"batchd: cannot open no-such-file.ndjson: no such file or directory":                                   {"submit", "no-such-file.ndjson"},
		"batchd: testdata is a directory: expected a file":                                                     {"submit", "testdata"},
	} {
		got := batchd(t, "", args...)
		require.Equal(t, exitFailure, got.code, args)
		require.Empty(t, got.stdout)
		require.True(t, strings.HasPrefix(got.stderr, want), "%s\n%s", want, got.stderr)
		require.NotContains(t, got.stderr, "hunter2")
	}
}

func TestVersionIsPrinted(t *testing.T) {
	t.Parallel()
	got := batchd(t, "", "version")
	require.Equal(t, exitOK, got.code)
	require.Regexp(t, `^batchd \S+, go1\.\d+\S*, \w+/\w+.*\n$`, got.stdout)
}
