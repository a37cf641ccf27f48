package main

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/client"
)

const resultLines = `{"id":"ada","index":0,"outcome":"succeeded","status":201,"headers":{"content-type":"application/json"},"body":{"name":"Ada","tags":["<&>"]},"attempts":1,"started_at":"2026-01-02T03:04:05Z","duration_ms":12}
{"id":"1","index":1,"outcome":"failed","status":404,"body_text":"gone, \"really\"\nfor ever \u001b[31m","attempts":2,"started_at":"2026-01-02T03:04:05Z","duration_ms":61003}
{"id":"2","index":2,"outcome":"succeeded","status":200,"body_base64":"/wABAg==","attempts":1,"started_at":"2026-01-02T03:04:05Z","duration_ms":1500}
{"id":"3","index":3,"outcome":"errored","error":{"code":"timeout","message":"the answer did not come in time, which was half a second, as the action asks for"},"attempts":1,"started_at":"2026-01-02T03:04:05Z","duration_ms":500}
{"id":"5","index":5,"outcome":"failed","status":429,"headers":{"content-encoding":"gzip"},"body_base64":"YnVzeQ==","body_undecoded":true,"attempts":1,"started_at":"2026-01-02T03:04:05Z","duration_ms":5}
{"id":"a-very-long-id-that-somebody-thought-was-fine","index":4,"outcome":"pending","attempts":0}
`

func TestResultsInEveryFormat(t *testing.T) {
	t.Parallel()
	server := newFakeServer(t)
	server.results = resultLines
	for _, format := range []string{"table", "csv", "json", "ndjson", "auto"} {
		got := batchd(t, "", "results", "b1", "--server", server.URL, "--format", format)
		require.Equal(t, exitOK, got.code, got.stderr)
		require.Empty(t, got.stderr)
		switch format {
		case "ndjson", "auto": // no terminal
			require.Equal(t, resultLines, got.stdout) //nolint:testifylint // byte for byte
		case "json":
			var results []client.Result
			require.NoError(t, json.Unmarshal([]byte(got.stdout), &results))
			require.Len(t, results, 6)
		case "csv":
			rows, err := csv.NewReader(strings.NewReader(got.stdout)).ReadAll()
			require.NoError(t, err)
			require.Len(t, rows, 7)
			golden(t, "results.csv.golden", got.stdout)
		default:
			require.NotContains(t, got.stdout, "\x1b", "a body must not command the terminal")
			golden(t, "results.table.golden", got.stdout)
		}
	}
}

func TestResultsAreFilteredByTheServer(t *testing.T) {
	t.Parallel()
	server := newFakeServer(t)
	got := batchd(t, "", "results", "b1", "--server", server.URL, "--outcome", "failed,errored", "--outcome", "unknown", "--format", "json")
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Equal(t, "[]\n", got.stdout)
	require.Equal(t, []string{"GET /batch/b1/results?outcome=failed%2Cerrored%2Cunknown"}, server.requests)

	got = batchd(t, "", "results", "b1", "--server", server.URL, "--format", "table")
	require.Equal(t, "no results\n", got.stdout)
}

func TestResultsThatAreCutOffEndInAnError(t *testing.T) {
	t.Parallel()
	server := newFakeServer(t)
	server.results = resultLines + `{"id":"5",`
	for _, format := range []string{"ndjson", "csv", "json", "table"} {
		got := batchd(t, "", "results", "b1", "--server", server.URL, "--format", format)
		require.Equal(t, exitFailure, got.code, format)
		require.Equal(t, "batchd: read the results of batch b1 after 6 of them: unexpected EOF\n", got.stderr)
		if format != "table" {
			require.Contains(t, got.stdout, "Ada", "what was there is worth having")
		}
	}
}

func TestStatusListAndCancel(t *testing.T) {
	t.Parallel()
	server := newFakeServer(t)
	server.documents = []string{docRunning}
	got := batchd(t, "", "status", "b1", "--server", server.URL)
	require.Equal(t, exitOK, got.code, got.stderr)
	golden(t, "status.golden", got.stdout)

	got = batchd(t, "", "status", "b1", "--json", "--server", server.URL)
	require.Equal(t, exitOK, got.code, got.stderr)
	var doc client.Batch
	require.NoError(t, json.Unmarshal([]byte(got.stdout), &doc))
	require.Equal(t, client.StatusRunning, doc.Status)

	got = batchd(t, "", "list", "--server", server.URL, "--format", "table")
	require.Equal(t, exitOK, got.code, got.stderr)
	golden(t, "list.golden", got.stdout)
	require.NotContains(t, strings.Join(server.requests, "\n"), "owner")
	server.list = `{"id":"b1","owner":"key:alice","status":"running","counts":{"total":1,"pending":1},"created_at":"2026-01-02T03:04:05Z"}`
	got = batchd(t, "", "list", "--owner", "key:alice", "--server", server.URL, "--format", "table")
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Contains(t, got.stdout, " key:alice ")
	require.Contains(t, got.stdout, "OWNER")
	require.Contains(t, server.requests, "GET /batch?limit=100&owner=key%3Aalice")

	got = batchd(t, "", "list", "--server", server.URL, "--limit", "1")
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Equal(t, 1, strings.Count(got.stdout, "\n"))

	got = batchd(t, "", "cancel", "b1", "--server", server.URL)
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Equal(t, "cancelling: 2 cancelled, 1 pending\n", got.stdout)

	got = batchd(t, "", "status", "b2", "--server", server.URL)
	require.Equal(t, commandResult{exitFailure, "", "batchd: the server answered 404: there is no such batch\n"}, got)
}

func TestStatusWaitsOnRequest(t *testing.T) {
	t.Parallel()
	server := newFakeServer(t)
	server.documents = []string{docRunning, docFailed}
	got := batchd(t, "", "status", "b1", "--wait", "--json", "--server", server.URL)
	require.Equal(t, exitNotAll, got.code)
	require.Contains(t, got.stdout, `"status": "completed"`)
	require.Contains(t, got.stderr, "completed: 1 succeeded, 1 failed, 1 errored")

	server.documents = []string{docCompleted}
	got = batchd(t, "", "status", "b1", "--wait", "--server", server.URL)
	require.Equal(t, commandResult{exitOK, "", "completed: 3 succeeded in 1.5s\n"}, got)

	got = batchd(t, "", "status", "b2", "--wait", "--server", server.URL)
	require.Equal(t, exitFailure, got.code)
	require.NotContains(t, got.stderr, "come back", "there is nothing to come back to")
}

func TestATableFitsItsTerminal(t *testing.T) {
	t.Parallel()
	var result client.Result
	require.NoError(t, json.Unmarshal([]byte(strings.Split(resultLines, "\n")[3]), &result))
	for _, width := range []int{40, 80, 120, 200} {
		var out bytes.Buffer
		require.NoError(t, writeResultTable(&out, width, func(yield func(*client.Result, error) bool) { yield(&result, nil) }))
		for line := range strings.Lines(out.String()) {
			require.LessOrEqual(t, len([]rune(strings.TrimSuffix(line, "\n"))), max(width, fixedColumns+20))
		}
	}
}
