package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// hostile is text with control sequences for terminals.
const hostile = "a\x1b]0;owned\x07\x1b[2J\r\x00\x7f\u009b31m\u202eb\u2066\u200b\u2028\xff"

// inJSON is hostile in a JSON string.
const inJSON = `a\u001b]0;owned\u0007\u001b[2J\r\n\u0000` + "\x7f\u009b31m\u202eb\u2066\u200b\u2028"

// requireShown requires that the text contains no terminal control characters.
func requireShown(t *testing.T, text string) {
	t.Helper()
	for _, r := range text {
		require.True(t, r == '\n' || r == '\t' || unicode.IsGraphic(r), "%q holds %q", text, r)
	}
}

func TestControlCharactersAreShownAsEscapes(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p := plain(&out)
	for _, part := range []string{"x\t\n", "é\u202e", "\U000e0041", "\xc3", "\xa9", "a", "\xff", "\xe2\x80", "\xae", "😀\x1b["} {
		n, err := p.Write([]byte(part))
		require.NoError(t, err)
		require.Equal(t, len(part), n)
	}
	require.Equal(t, "x\t\né\\u202e\\udb40\\udc41éa\\xff\\u202e😀\\u001b[", out.String())
	require.Equal(t, `a\u000ab\u0009\xff\xc3`, visible("a\nb\t\xff\xc3"))
	requireShown(t, visible(hostile))
}

func TestWhatComesFromElsewhereReachesNoTerminal(t *testing.T) {
	t.Parallel()
	server := newFakeServer(t)
	batch := `{"id":"` + inJSON + `","status":"` + inJSON + `","target":"` + inJSON + `","counts":{"total":1,"pending":1},"metadata":{"` + inJSON + `":"` + inJSON + `"},"created_at":"2026-01-02T03:04:05Z"}`
	ended := strings.Replace(batch, `"status":"`+inJSON+`"`, `"status":"completed"`, 1)
	server.documents = []string{batch}
	server.results = `{"id":"` + inJSON + `","index":0,"outcome":"` + inJSON + `","status":200,"body_text":"` + inJSON + `","attempts":1}` + "\n" +
		`{"id":"x","index":1,"outcome":"errored","error":{"code":"` + inJSON + `","message":"` + inJSON + `"},"attempts":1}` + "\n"
	at := func(args ...string) commandResult { return batchd(t, "", append(args, "--server", server.URL)...) }

	server.list = batch
	for _, row := range []struct {
		args  []string
		shown string // the form in which the first line is printed
	}{
		{[]string{"status", "b1"}, `a\u001b]0;owned\u0007\u001b[2J`},
		{[]string{"results", "b1", "--format", "table"}, "a\ufffd]0;owned\ufffd\ufffd[2J"},
		{[]string{"list", "--format", "table"}, `a\u001b]0;owned\u0007\u001b[2J`},
	} {
		got := at(row.args...)
		require.Equal(t, exitOK, got.code, got.stderr)
		requireShown(t, got.stdout)
		require.Contains(t, got.stdout, row.shown, row.args)
		requireShown(t, got.stderr)
	}
	server.submit = func(_ int, w http.ResponseWriter) bool {
		w.WriteHeader(http.StatusAccepted)
		_, _ = w.Write([]byte(batch))
		return true
	}
	got := at("submit", file(t, "a.ndjson", threeLines))
	require.Equal(t, exitOK, got.code)
	requireShown(t, got.stdout+got.stderr)
	require.Equal(t, 1, strings.Count(got.stdout, "\n"), "an id is one line")

	// Progress, and the end of the batch.
	server.documents = []string{batch, ended}
	got = at("status", "b1", "--wait")
	requireShown(t, got.stdout+got.stderr)

	// Refusals: from the server itself, from a proxy, and as faults of a file.
	for _, media := range []string{"application/problem+json", "text/plain"} {
		server.submit = func(_ int, w http.ResponseWriter) bool {
			w.Header().Set("Content-Type", media)
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write([]byte(`{"title":"` + inJSON + `","detail":"` + inJSON + `","errors":[{"index":0,"pointer":"` + inJSON + `","detail":"` + inJSON + `"},{"pointer":"` + inJSON + `","detail":"` + inJSON + `"}]}`))
			return true
		}
		got = at("submit", file(t, "a.ndjson", threeLines))
		require.Equal(t, exitFailure, got.code)
		requireShown(t, got.stderr)
		require.NotContains(t, strings.TrimSuffix(strings.ReplaceAll(got.stderr, "\n  ", ""), "\n"), "\n", "a line end of a server's begins no line of ours")
	}

	// Names that the user gives: files, flags, commands.
	dir := t.TempDir()
	name := filepath.Join(dir, "M\xfc\x1b[2Jller.ndjson")
	require.NoError(t, os.WriteFile(name, []byte("{\n"), 0o600))
	for _, args := range [][]string{{"submit", name}, {"submit", name + "x"}, {"config", "check", name}, {hostile}, {"list", "--" + hostile}, {"list", "--format", hostile}, {"results", "b1", "--outcome", hostile}, {"submit", name, "--metadata", hostile}} {
		got = at(args...)
		require.Equal(t, exitFailure, got.code)
		require.NotEmpty(t, got.stderr)
		requireShown(t, got.stderr)
	}
}

func TestOutputForProgramsIsFaithful(t *testing.T) {
	t.Parallel()
	server := newFakeServer(t)
	server.results = `{"id":"x","index":0,"outcome":"succeeded","status":200,"body_text":"` + inJSON + `","attempts":1}` + "\n"
	// In JSON an escape has the same meaning, so it protects later viewers of the
	// output, too. CSV has no escapes.
	escaped := strings.NewReplacer("\x7f", `\u007f`, "\u009b", `\u009b`, "\u202e", `\u202e`, "\u2066", `\u2066`, "\u200b", `\u200b`, "\u2028", `\u2028`).Replace(inJSON)
	raw := strings.NewReplacer(`\u001b`, "\x1b", `\u0007`, "\a", `\r`, "\r", `\n`, "\n", `\u0000`, "\x00").Replace(inJSON)
	for format, want := range map[string]string{"csv": raw, "json": escaped, "ndjson": escaped} {
		got := batchd(t, "", "results", "b1", "--format", format, "--server", server.URL)
		require.Equal(t, exitOK, got.code, got.stderr)
		require.Contains(t, got.stdout, want, format)
		if format != "csv" {
			requireShown(t, got.stdout)
			require.True(t, json.Valid([]byte(got.stdout)), "%q", got.stdout)
		}
	}
	// White space from the target, and bytes that are not UTF-8.
	server.results = "{\"id\":\"\xff\u202e\",\"index\":0,\"outcome\":\"succeeded\",\"body\":{\r\t\"a\":\"\xe2\x80\"},\"attempts\":1}\n"
	for _, format := range []string{"json", "ndjson"} {
		got := batchd(t, "", "results", "b1", "--format", format, "--server", server.URL)
		require.Equal(t, exitOK, got.code, got.stderr)
		requireShown(t, strings.ReplaceAll(got.stdout, "\r", ""))
		require.True(t, utf8.ValidString(got.stdout), "%q", got.stdout)
		require.Contains(t, got.stdout, `\u202e`)
		require.True(t, json.Valid([]byte(got.stdout)), "%q", got.stdout)
	}
	server.list = `{"id":"b1","metadata":{"k":"` + inJSON + `"},"created_at":"2026-01-02T03:04:05Z"}`
	server.documents = []string{`{"id":"b1","status":"running","counts":{"total":1,"pending":1},"metadata":{"k":"` + inJSON + `"},"created_at":"2026-01-02T03:04:05Z"}`}
	for _, args := range [][]string{{"list", "--format", "ndjson"}, {"status", "b1", "--json"}} {
		got := batchd(t, "", append(args, "--server", server.URL)...)
		require.Equal(t, exitOK, got.code, got.stderr)
		requireShown(t, got.stdout)
		require.Contains(t, got.stdout, `\u009b31m\u202e`)
		require.True(t, json.Valid([]byte(got.stdout)), "%q", got.stdout)
	}
}

func TestArgumentsThatAreEmptyOrNotUTF8AreRefusedByName(t *testing.T) {
	t.Parallel()
	csv := file(t, "a.csv", "id\n1\n")
	lines := file(t, "a.ndjson", threeLines)
	server := newFakeServer(t)
	for _, row := range []struct {
		args []string
		want string
	}{
		{[]string{"submit", lines, "--webhook", ""}, "--webhook is empty: give it a value, or leave it out"},
		{[]string{"submit", lines, "--target", ""}, "--target is empty: give it a value, or leave it out"},
		{[]string{"submit", lines, "--idempotency-key="}, "--idempotency-key is empty: give it a value, or leave it out"},
		{[]string{"submit", lines, "--metadata", "k=v", "--metadata", ""}, "--metadata is empty: give it a value, or leave it out"},
		{[]string{"submit", lines, "--expires-in", "0"}, "--expires-in is zero: expected more, or leave it out for the server's own"},
		{[]string{"submit", lines, "--retention", "0s"}, "--retention is zero: expected more, or leave it out for the server's own"},
		{[]string{"submit", csv, "--path", "/", "--body", ""}, "--body is empty: give it a value, or leave it out"},
		{[]string{"submit", csv, "--path", "/", "--delimiter", ""}, "--delimiter is empty: give it a value, or leave it out"},
		{[]string{"submit", csv, "--path", ""}, "--path is empty: give it a value, or leave it out"},
		{[]string{"retry", "b1", "--outcome", ""}, "--outcome is empty: give it a value, or leave it out"},
		{[]string{"results", "b1", "--outcome", "failed,"}, "--outcome is empty: give it a value, or leave it out"},
		{[]string{"list", "--header", ""}, "--header is empty: give it a value, or leave it out"},
		{[]string{"list", "--server", ""}, "--server is empty: give it a value, or leave it out"},
		{[]string{"status", ""}, "the ID is empty: usage: batchd status ID [flags]"},
		{[]string{"submit", ""}, "the FILE is empty: usage: batchd submit FILE [flags]"},
		{[]string{"serve", "--config", ""}, "--config is empty: give it a value, or leave it out"},
		{[]string{"serve", "--redis-url", ""}, "--redis-url is empty: give it a value, or leave it out"},

		{[]string{"submit", lines, "--metadata", "k=M\xfcller"}, "--metadata holds the byte 0xfc, which is not UTF-8: set it from a terminal or a file in UTF-8"},
		{[]string{"submit", lines, "--target", "M\xfc"}, "--target holds the byte 0xfc, which is not UTF-8: set it from a terminal or a file in UTF-8"},
		{[]string{"submit", csv, "--path", "/M\xfcller"}, "--path holds the byte 0xfc, which is not UTF-8: set it from a terminal or a file in UTF-8"},
		{[]string{"submit", csv, "--path", "/", "--body-text", "M\xfcller"}, "--body-text holds the byte 0xfc, which is not UTF-8: set it from a terminal or a file in UTF-8"},
		{[]string{"submit", csv, "--path", "/", "--header-template", "A: M\xfc"}, "--header-template holds the byte 0xfc, which is not UTF-8: set it from a terminal or a file in UTF-8"},
		{[]string{"submit", csv, "--path", "/", "--delimiter", "\xa7"}, "--delimiter holds the byte 0xa7, which is not UTF-8: set it from a terminal or a file in UTF-8"},
		{[]string{"list", "--header", "Authorization: Bearer M\xfc"}, "--header holds the byte 0xfc, which is not UTF-8: set it from a terminal or a file in UTF-8"},
		{[]string{"cancel", "M\xfc"}, "the ID holds the byte 0xfc, which is not UTF-8: set it from a terminal or a file in UTF-8"},
		{[]string{"serve", "--target", "http://h/\xfc"}, "--target holds the byte 0xfc, which is not UTF-8: set it from a terminal or a file in UTF-8"},
	} {
		args := row.args
		if args[0] != "serve" && row.want[:8] != "--server" {
			args = append(args, "--server", server.URL)
		}
		got := batchd(t, "", args...)
		require.Equal(t, exitFailure, got.code, args)
		require.Equal(t, "batchd: "+row.want+"\n", got.stderr, args)
	}
	require.Empty(t, server.requests)
}

func TestVariablesThatAreNotUTF8AreRefusedByName(t *testing.T) {
	t.Setenv("BATCHD_TOKEN", "M\xfcller")
	got := batchd(t, "", "list")
	require.Equal(t, exitFailure, got.code)
	require.Equal(t, "batchd: BATCHD_TOKEN holds the byte 0xfc, which is not UTF-8: set it from a terminal or a file in UTF-8\n", got.stderr)
}
