package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const threeLines = `{"method":"GET","path":"/a"}

{"method":"POST","path":"/b","body":{"n":1.0}}
{"method":"GET","path":"/c"}
`

var threeActions = []string{`{"method":"GET","path":"/a"}`, `{"method":"POST","path":"/b","body":{"n":1.0}}`, `{"method":"GET","path":"/c"}`}

func TestSubmitPrintsOnlyTheID(t *testing.T) {
	t.Parallel()
	server := newFakeServer(t)
	got := batchd(t, "", "submit", file(t, "a.ndjson", threeLines), "--server", server.URL,
		"--target", "crm", "--webhook", "https://h.example/?x=1", "--expires-in", "2h", "--retention", "90m", "--metadata", "k=v=w")
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Equal(t, "b1\n", got.stdout)
	require.Equal(t, strings.ReplaceAll(`accepted: 3 actions
  batchd status b1 --wait --server URL  # follow it
  batchd results b1 --server URL        # read the results
`, "URL", server.URL), strings.ReplaceAll(got.stderr, strings.Repeat(" ", len(server.URL)-3), ""))
	sub := server.submissions[0]
	require.Equal(t, threeActions, sub.actions(t))
	require.Equal(t, "expires_in=2h0m0s&metadata.k=v%3Dw&retention=1h30m0s&target=crm&webhook=https%3A%2F%2Fh.example%2F%3Fx%3D1", sub.query)
	require.NotEmpty(t, sub.key)
	require.Empty(t, sub.prefer)
}

func TestSubmitTellsFormatsByExtensionOrBySniffing(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ file, content, contentType string }{
		"ndjson":                {"a.jsonl", threeLines, "application/x-ndjson"},
		"ndjson without a name": {"a", "\n" + threeLines, "application/x-ndjson"},
		"array":                 {"a.json", "[" + strings.Join(threeActions, ",\n") + "]", "application/json"},
		"array without a name":  {"a", " [" + strings.Join(threeActions, ",") + "]\n", "application/json"},
		"document on one line":  {"a", `{"actions":[` + strings.Join(threeActions, ",") + "]}", "application/json"},
		"document on many":      {"a", "{\n \"actions\":[" + strings.Join(threeActions, ",\n") + "]\n}", "application/json"},
		"byte order mark":       {"a", "\xef\xbb\xbf" + threeLines, "application/x-ndjson"},
		"windows line ends":     {"a.ndjson", strings.ReplaceAll(threeLines, "\n", "\r\n"), "application/x-ndjson"},
		"no line end at last":   {"a.ndjson", strings.TrimSpace(threeLines), "application/x-ndjson"},
	} {
		server := newFakeServer(t)
		got := batchd(t, "", "submit", file(t, tc.file, tc.content), "--server", server.URL)
		require.Equal(t, exitOK, got.code, "%s: %s", name, got.stderr)
		require.Equal(t, tc.contentType, server.submissions[0].contentType, name)
		require.Equal(t, threeActions, server.submissions[0].actions(t), name)
	}
}

func TestSubmitMergesFlagsIntoADocument(t *testing.T) {
	t.Parallel()
	server := newFakeServer(t)
	doc := `{"metadata":{"a":"1","k":"old"},"target":"old","actions":[{"method":"GET","path":"/<"}],"expires_in":"1h"}`
	got := batchd(t, "", "submit", file(t, "a.json", doc), "--server", server.URL, "--target", "crm", "--metadata", "k=v", "--webhook", "https://h.example/")
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Equal(t, `{"metadata":{"a":"1","k":"v"},"actions":[{"method":"GET","path":"/<"}],"expires_in":"1h","target":"crm","webhook":{"url":"https://h.example/"}}`+"\n", //nolint:testifylint // byte for byte
		server.submissions[0].body)
	require.Empty(t, server.submissions[0].query)

	got = batchd(t, `[]`, "submit", "-", "--server", server.URL, "--retention", "1h", "--metadata", "k=v")
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Equal(t, `{"actions":[],"retention":"1h0m0s","metadata":{"k":"v"}}`+"\n", server.submissions[1].body) //nolint:testifylint // byte for byte
	require.Empty(t, server.submissions[1].key, "standard input is sent once, so it needs no key")
}

func TestFaultsOfAFileNameFileAndLine(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ file, content, want string }{
		"broken line":          {"a.ndjson", "{}\n\n{\"a\":\n", "a.ndjson:3: the JSON ends too early"},
		"no object":            {"a.ndjson", "{}\n17\n", "a.ndjson:2: expected an action, which is a JSON object, not 17"},
		"two on a line":        {"a.ndjson", "{} {}\n", "a.ndjson:1: there is something after the JSON object: write one action a line"},
		"name twice":           {"a.ndjson", "{\"path\":\"/\",\"path\":\"/x\"}\n", `a.ndjson:1: duplicate object member name at /path`},
		"broken document":      {"a.json", "{\"actions\":[\n{\"method\":\"GET\"},\n{\"method\" 1}\n]}", "a.json:3:11: invalid character '1' after object name (expecting ':') at /actions/1/method"},
		"cut document":         {"a.json", "{\"actions\":[\n{}", "a.json:2: the JSON ends too early"},
		"empty document":       {"a.json", "", "a.json:1: the JSON ends too early"},
		"a number":             {"a.json", "\n17", `a.json:2: expected an object with "actions", or an array of actions`},
		"lines in a .json":     {"a.json", "{\"method\":\"GET\",\"path\":\"/\",\n\"actions\":[]}\n{}\n", "a.json:3: there is something after the document: for one action a line, use --format ndjson"},
		"bad metadata":         {"a.json", "{\"metadata\":\n17}", "a.json:2: metadata is not an object"},
		"metadata is null":     {"a.json", "{\"metadata\":\nnull, \"actions\":[{}]}", "a.json:2: metadata is not an object"},
		"metadata is a list":   {"a.json", "{\"actions\":[],\n\"metadata\":[]}", "a.json:2: metadata is not an object"},
		"not UTF-8":            {"a.ndjson", "{}\n  {\"id\":\"M\xfcller\"}\n", "a.ndjson:2:11: invalid UTF-8 at /id"},
		"a name not UTF-8":     {"a.ndjson", "{\"M\xfc\":1}\n", "a.ndjson:1:4: invalid UTF-8"},
		"half a surrogate":     {"a.ndjson", "{\"id\":\"\\ud800\"}\n", "a.ndjson:1:8: invalid surrogate pair `\\ud800\"}` in string at /id"},
		"line end in a string": {"a.json", "{\"actions\":[\n{\"id\":\"\n\"}]}", "a.json:2:8: invalid character '\\n' in string (expecting non-control character) at /actions/0/id"},
		"Latin-1 document":     {"a.json", "{\"actions\":[{},\n {\"id\":\"M\xfcller\"}]}", "a.json:2:10: invalid UTF-8 at /actions/1/id"},
		"Latin-1 metadata":     {"a.json", "{\"metadata\":\n {\"k\":\"M\xfcller\"}}", "a.json:2:9: invalid UTF-8 at /metadata/k"},
		"UTF-16":               {"a.ndjson", "\xff\xfe{\x00}\x00", "a.ndjson: the text is in UTF-16: save it as UTF-8"},
		"UTF-16, no mark":      {"a.json", "\x00{\x00}", "a.json: the text is in UTF-16: save it as UTF-8"},
		"a mark inside":        {"a.ndjson", "{}\n\ufeff{}\n", "a.ndjson:2:1: there is a byte order mark (U+FEFF) here, which is allowed at the very start only: remove it (a file that was appended to another leaves one)"},
		"UTF-16 inside":        {"a.ndjson", strings.Repeat(" ", 2<<10) + "{}\n\xff\xfe{\x00}\x00\n", "a.ndjson:2:1: invalid character '\\xff' at start of value: text in UTF-16 has such bytes, which begins here if it was appended to this text: save all of it as UTF-8"},
		"a zero byte":          {"a.ndjson", strings.Repeat(" ", 2<<10) + "{}\n\x00{\x00}\n", "a.ndjson:2:1: invalid character '\\x00' at start of value: text in UTF-16 has such bytes, which begins here if it was appended to this text: save all of it as UTF-8"},
		"far too deep":         {"a.ndjson", `{"body":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + "}\n", "a.ndjson:1:10008: it is nested more than 10000 levels deep: at most 100 are allowed at /body" + strings.Repeat("/0", 253)},
		"a mark in a document": {"a.json", "{\"actions\":\n \ufeff[]}", "a.json:2:2: there is a byte order mark (U+FEFF) here, which is allowed at the very start only: remove it (a file that was appended to another leaves one) at /actions"},
		"two marks":            {"a.json", "\ufeff\ufeff[]", "a.json:1:1: there is a byte order mark (U+FEFF) here, which is allowed at the very start only: remove it (a file that was appended to another leaves one)"},
		"no JSON blank":        {"a.ndjson", "{}\n\u00a0\n{}\n", "a.ndjson:2: expected an action, which is a JSON object, not \u00a0"},
		"a form feed":          {"a.ndjson", "{}\n\f\n{}\n", "a.ndjson:2: expected an action, which is a JSON object, not \\u000c"},
		"templates":            {"a.ndjson", "{}", "a.ndjson is read as ndjson, but --method, --path, --body and the other templates are for csv: use --format csv if the input is csv"},
	} {
		server := newFakeServer(t)
		path := file(t, tc.file, tc.content)
		args := []string{"submit", path, "--server", server.URL, "--metadata", "k=v"}
		if name == "templates" {
			args = append(args, "--path", "/{x}")
		}
		got := batchd(t, "", args...)
		require.Equal(t, exitFailure, got.code, name)
		require.Equal(t, "batchd: "+tc.want+"\n", strings.ReplaceAll(got.stderr, filepath.Dir(path)+"/", ""), name)
		require.Empty(t, server.submissions, name)
	}
}

func TestFaultsThatTheServerFindsNameTheLineToo(t *testing.T) {
	t.Parallel()
	server := newFakeServer(t)
	server.submit = func(_ int, w http.ResponseWriter) bool {
		refuse(w, 400, `{"detail":"3 faults","errors":[{"index":1,"pointer":"/path","detail":"no"},{"index":9,"detail":"far off"},{"pointer":"/target","detail":"which?"}],"more":1200}`)
		return true
	}
	for _, tc := range []struct{ file, content, line string }{
		{"a.ndjson", threeLines, "a.ndjson:3"},
		{"a.json", "[\n" + strings.Join(threeActions, ",\n\n") + "]", "a.json:4"},
		{"a.json", "{\"actions\":\n[\n{},\n{\n\"path\":\"\"}]}", "a.json:4"},
		{"a.csv", "id\n1\n2\n3\n", "a.csv:3"},
		{"a.csv", "id\n\"1\n\"\n2\n3\n", "a.csv:4"},
	} {
		path := file(t, tc.file, tc.content)
		args := []string{"submit", path, "--server", server.URL}
		if tc.file == "a.csv" {
			args = append(args, "--path", "/{id}")
		}
		got := batchd(t, "", args...)
		require.Equal(t, exitFailure, got.code)
		require.Equal(t, "batchd: the server answered 400: 3 faults\n  "+tc.line+": /path: no\n  action 9: far off\n  /target: which?\n  and 1,200 more\n",
			strings.ReplaceAll(got.stderr, filepath.Dir(path)+"/", ""))
	}
}

func TestABusyServerGetsTheFileAgainUnderTheSameKey(t *testing.T) {
	t.Parallel()
	server := newFakeServer(t)
	server.submit = func(attempt int, w http.ResponseWriter) bool {
		if attempt == 1 {
			w.Header().Set("Retry-After", "1")
			refuse(w, 503, `{"detail":"busy"}`)
		}
		return attempt == 1
	}
	got := batchd(t, "", "submit", file(t, "a.csv", "id\n1\n2\n"), "--path", "/{id}", "--server", server.URL)
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Contains(t, got.stderr, "the server answered 503: busy (come back in 1s)\nsending it again in 1s\n")
	require.Len(t, server.submissions, 2)
	require.NotEmpty(t, server.submissions[0].key)
	require.Equal(t, server.submissions[0], server.submissions[1])
}

func TestStandardInputIsSentOnce(t *testing.T) {
	t.Parallel()
	server := newFakeServer(t)
	server.submit = func(_ int, w http.ResponseWriter) bool {
		refuse(w, 503, `{"detail":"busy"}`)
		return true
	}
	got := batchd(t, threeLines, "submit", "-", "--server", server.URL, "--idempotency-key", "k")
	require.Equal(t, exitFailure, got.code)
	require.Equal(t, "batchd: the server answered 503: busy\nstandard input cannot be read again, so it was sent once: run the command again\n", got.stderr)
	require.Len(t, server.submissions, 1)
	require.Equal(t, "k", server.submissions[0].key)
}

func TestARefusalIsNotRepeated(t *testing.T) {
	t.Parallel()
	server := newFakeServer(t)
	server.submit = func(_ int, w http.ResponseWriter) bool {
		refuse(w, 413, `{"detail":"too many actions"}`)
		return true
	}
	got := batchd(t, "", "submit", file(t, "a.ndjson", threeLines), "--server", server.URL)
	require.Equal(t, exitFailure, got.code)
	require.Equal(t, "batchd: the server answered 413: too many actions\n", got.stderr)
	require.Len(t, server.submissions, 1)
}

func TestWaitingEndsWithTheBatch(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		documents []string
		code      int
		stderr    string
	}{
		"all succeeded": {[]string{docRunning, docCompleted}, exitOK, "running: 1 of 3 done (33%)\ncompleted: 3 succeeded in 1.5s\n"},
		"not all": {[]string{docRunning, docFailed}, exitNotAll, `running: 1 of 3 done (33%)
completed: 1 succeeded, 1 failed, 1 errored in 1m1s
  batchd results b1 --outcome failed,errored --server URL  # their results
`},
		"ended at once": {[]string{docCompleted}, exitOK, "completed: 3 succeeded in 1.5s\n"},
	} {
		server := newFakeServer(t)
		server.documents = tc.documents
		got := batchd(t, "", "submit", file(t, "a.ndjson", threeLines), "--wait", "--server", server.URL)
		require.Equal(t, tc.code, got.code, name)
		require.Equal(t, "b1\n", got.stdout, name)
		require.Equal(t, strings.ReplaceAll(tc.stderr, "URL", server.URL), got.stderr, name)
		require.Equal(t, "wait=1", server.submissions[0].prefer, "somebody waits, so the batch is urgent")
	}
}

func TestASmallBatchThatEndsAtOnceNeedsNoPolling(t *testing.T) {
	t.Parallel()
	server := newFakeServer(t)
	server.submit = func(_ int, w http.ResponseWriter) bool {
		fmt.Fprint(w, strings.TrimSuffix(docFailed, "}")+`,"results":[{"id":"0","index":0,"outcome":"succeeded","truncated":true,"truncated_by":"stored_bytes"}]}`)
		return true
	}
	got := batchd(t, threeLines, "submit", "-", "--wait", "--server", server.URL)
	require.Equal(t, exitNotAll, got.code)
	require.Contains(t, got.stderr, "warning: 1 result lacks its body")
	require.Equal(t, []string{"POST /batch"}, server.requests)
}

func TestAnInterruptionLeavesTheBatchAndSaysHowToComeBack(t *testing.T) {
	t.Parallel()
	server := newFakeServer(t)
	server.documents = []string{docRunning}
	ctx, cancel := context.WithCancel(t.Context())
	stderr := &signalWriter{on: "running", do: cancel}
	code := run(ctx, []string{"submit", file(t, "a.ndjson", threeLines), "--wait", "--server", server.URL}, strings.NewReader(""), io.Discard, stderr)
	require.Equal(t, exitInterrupted, code)
	require.Equal(t, strings.ReplaceAll(`running: 1 of 3 done (33%)
interrupted: batch b1 continues without this command, unless the server keeps it in memory and ends
  batchd status b1 --wait --server URL  # follow it again
  batchd results b1 --server URL        # results so far
  batchd cancel b1 --server URL         # cancel actions that have not started
`, "URL", server.URL), stderr.text.String())
	for _, r := range server.requests {
		require.NotContains(t, r, "cancel")
	}
}

// signalWriter calls do once a text has been written.
type signalWriter struct {
	on   string
	do   func()
	text strings.Builder
}

func (w *signalWriter) Write(p []byte) (int, error) {
	if strings.Contains(string(p), w.on) {
		w.do()
	}
	return w.text.Write(p)
}

// stuckReader delivers one text, then calls do and blocks for ever.
type stuckReader struct {
	text    string
	do      func()
	release chan struct{}
}

func (r *stuckReader) Read(p []byte) (int, error) {
	if r.text == "" {
		r.do()
		<-r.release
		return 0, io.EOF
	}
	n := copy(p, r.text)
	r.text = r.text[n:]
	return n, nil
}

func TestAnInterruptionEndsAReadOfStandardInput(t *testing.T) {
	t.Parallel()
	server := newFakeServer(t)
	ctx, cancel := context.WithCancel(t.Context())
	in := &stuckReader{text: threeLines, do: cancel, release: make(chan struct{})}
	defer close(in.release)
	var stderr strings.Builder
	code := run(ctx, []string{"submit", "-", "--format", "ndjson", "--server", server.URL}, in, io.Discard, &stderr)
	require.Equal(t, exitInterrupted, code)
	require.Equal(t, "interrupted before the server answered: batchd list shows whether it accepted the batch\n", stderr.String())
	require.Empty(t, server.submissions)
}

func TestAServerThatIsNotThereIsToldAtOnce(t *testing.T) {
	t.Parallel()
	got := batchd(t, "", "submit", file(t, "a.ndjson", threeLines), "--server", "http://127.0.0.1:1")
	require.Equal(t, exitFailure, got.code)
	require.True(t, strings.HasPrefix(got.stderr, "batchd: no server listens at http://127.0.0.1:1"), got.stderr)
}

func TestALongFileIsStreamed(t *testing.T) {
	t.Parallel()
	const n = 100_000
	path := filepath.Join(t.TempDir(), "long.ndjson")
	out, err := os.Create(path)
	require.NoError(t, err)
	for i := range n {
		fmt.Fprintf(out, `{"id":"%d","method":"GET","path":"/items/%d"}`+"\n", i, i)
	}
	require.NoError(t, out.Close())
	server := newFakeServer(t)
	got := batchd(t, "", "submit", path, "--server", server.URL, "--compress", "none")
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Equal(t, n, strings.Count(server.submissions[0].body, "\n"))
}

func TestUploadsAreCompressedOnRequest(t *testing.T) {
	t.Parallel()
	for _, compression := range []string{"gzip", "zstd"} {
		server := newFakeServer(t)
		got := batchd(t, threeLines, "submit", "-", "--server", server.URL, "--compress", compression)
		require.Equal(t, exitOK, got.code, got.stderr)
		require.Equal(t, compression, server.submissions[0].encoding)
	}
}

func TestTheEnvironmentNamesServerAndToken(t *testing.T) {
	server := newFakeServer(t)
	t.Setenv("BATCHD_SERVER", server.URL)
	t.Setenv("BATCHD_TOKEN", "s3cret")
	got := batchd(t, threeLines, "submit", "-", "--header", "X-Team: a")
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Equal(t, "Bearer s3cret", server.submissions[0].authorization)
	require.NotContains(t, got.stderr, "--server")

	got = batchd(t, threeLines, "submit", "-", "--header", "authorization: Basic eDp5")
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Equal(t, "Basic eDp5", server.submissions[1].authorization)
	require.NotContains(t, got.stderr, "s3cret")
}
