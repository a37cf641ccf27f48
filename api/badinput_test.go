package api

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/webhook"
)

// small sets tight bounds everywhere, so that the tables stay readable.
func small(c *Config) {
	c.Limits.MaxActions, c.Limits.MaxActionBody = 3, 50
}

// fault is a fault that an answer must list: index (-1 for none), pointer, and a part
// of the detail.
type fault struct {
	index   int
	pointer string
	detail  string
}

func requireFaults(t *testing.T, w *httptest.ResponseRecorder, want []fault) {
	t.Helper()
	p := requireProblem(t, w, http.StatusBadRequest)
	require.Equal(t, kindInvalidBatch.problem("").Type, p.Type)
	require.Len(t, p.Errors, len(want), "%s", w.Body)
	for i, f := range want {
		got := p.Errors[i]
		index := -1
		if got.Index != nil {
			index = *got.Index
		}
		require.Equal(t, f.index, index, "the index of %v", got)
		if parent, deeper := strings.CutSuffix(f.pointer, "*"); deeper {
			require.True(t, strings.HasPrefix(got.Pointer, parent))
			require.LessOrEqual(t, len(got.Pointer), 512)
		} else {
			require.Equal(t, f.pointer, got.Pointer, "the pointer of %v", got)
		}
		require.Contains(t, got.Detail, f.detail)
	}
}

func TestRefusedSubmissions(t *testing.T) {
	t.Parallel()
	one := func(action string) string { return `{"target":"crm","actions":[` + action + `]}` }
	get := `{"method":"GET","path":"/"}`
	for _, row := range []struct {
		name string
		body string
		want []fault
	}{
		{"nothing", " ", []fault{{-1, "", "the body is empty"}}},
		{"no JSON", "hello", []fault{{-1, "", "not valid JSON at byte 0"}}},
		{"truncated", `{"target":"crm","actions":[` + get + `,{"method":"GE`, []fault{{1, "/actions/1/method", "ends too early"}}},
		{"truncated after everything", one(get)[:len(one(get))-1], []fault{{-1, "", "ends too early"}}},
		{"malformed", one(`{"method":"GET",,}`), []fault{{0, "/actions/0", "not valid JSON at byte"}}},
		{"a comma too many", one(get + ","), []fault{{1, "/actions", "not valid JSON"}}},
		{"more after the end", one(get) + one(get), []fault{{-1, "", "more after the end"}}},
		{"rubbish after the end", one(get) + "x", []fault{{-1, "", "not valid JSON"}}},
		{"invalid UTF-8", one("{\"method\":\"GET\",\"path\":\"/\xff\"}"), []fault{{0, "/actions/0/path", "UTF-8"}}},
		{"invalid UTF-8 in a body", one("{\"method\":\"GET\",\"path\":\"/\",\"body\":\"\xff\"}"), []fault{{0, "/actions/0/body", "UTF-8"}}},
		{"half of a surrogate pair", one(`{"method":"GET","path":"/","body_text":"\ud800"}`), []fault{{0, "/actions/0/body_text", "surrogate"}}},
		{"null where an object is due", "null", []fault{{-1, "", "expected an object, found null"}}},
		{"a number where an object is due", "1", []fault{{-1, "", "expected an object, found a number"}}},
		{"a list where an object is due", "[" + get + "]", []fault{{-1, "", "expected an object, found a list"}}},
		{"all of the wrong type", `{"target":1,"actions":{},"webhook":"x","expires_in":24,"retention":null,"metadata":[]}`, []fault{
			{-1, "/target", "expected a string, found a number"},
			{-1, "/actions", "expected a list, found an object"},
			{-1, "/webhook", "expected an object, found a string"},
			{-1, "/expires_in", "expected a string, found a number"},
			{-1, "/retention", "expected a string, found null"},
			{-1, "/metadata", "expected an object, found a list"},
		}},
		{"actions that are none", one(`null,1,[]`), []fault{
			{0, "/actions/0", "expected an object, found null"}, {1, "/actions/1", "found a number"}, {2, "/actions/2", "found a list"},
		}},
		{"fields of the wrong type", one(`{"id":1,"method":[],"path":{},"query":"a=1","headers":[],"body_text":1,"timeout":10,"retry":true}`), []fault{
			{0, "/actions/0/id", "expected a string, found a number"},
			{0, "/actions/0/method", "expected a string, found a list"},
			{0, "/actions/0/path", "expected a string, found an object"},
			{0, "/actions/0/query", "expected an object, found a string"},
			{0, "/actions/0/headers", "expected an object, found a list"},
			{0, "/actions/0/body_text", "expected a string, found a number"},
			{0, "/actions/0/timeout", "expected a string, found a number"},
			{0, "/actions/0/retry", "expected a string, found a boolean"},
		}},
		{"values of the wrong type", one(`{"method":"GET","path":"/","headers":{"A/b":1,"C":["x",null]},"query":{"a":null,"b":[[1]],"c":{}}}`), []fault{
			{0, "/actions/0/headers/A~1b", "expected a string, found a number"},
			{0, "/actions/0/headers/C/1", "expected a string, found null"},
			{0, "/actions/0/query/a", "expected a string, a number, a boolean or a list of those, found null"},
			{0, "/actions/0/query/b/0", "found a list"},
			{0, "/actions/0/query/c", "found an object"},
		}},
		{"an unknown field", one(`{"method":"GET","path":"/","verb":{"x":[1]}}`), []fault{{0, "/actions/0/verb", `unknown field "verb": expected one of id, method`}}},
		{"an unknown option", `{"target":"crm","actions":[` + get + `],"webook":{}}`, []fault{{-1, "/webook", "unknown field"}}},
		{"a duplicate field", one(`{"method":"GET","method":"DELETE","path":"/"}`), []fault{{0, "/actions/0/method", "twice"}}},
		{"a field in different case", one(`{"method":"GET","METHOD":"DELETE","path":"/"}`), []fault{{0, "/actions/0/METHOD", `it is spelt "method"`}}},
		{"the list twice", `{"target":"crm","actions":[` + get + `],"actions":[]}`, []fault{{-1, "/actions", "twice"}}},
		{"a duplicate header", one(`{"method":"GET","path":"/","headers":{"A":"1","A":"2","a":"3"}}`), []fault{
			{0, "/actions/0/headers/A", "twice"}, {0, "/actions/0/headers/a", "different case"},
		}},
		{"a duplicate name in a body", one(`{"method":"GET","path":"/","body":{"x":[{"a":1,"a":2}]}}`), []fault{{0, "/actions/0/body/x/0/a", "twice"}}},
		{"a body 101 levels deep", one(`{"method":"GET","path":"/","body":` + strings.Repeat("[", 101) + strings.Repeat("]", 101) + `}`), []fault{{0, "/actions/0/body", "101 levels deep"}}},
		{"10,000 levels deep", one(`{"method":"GET","path":"/","body":` + strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000) + `}`), []fault{{0, "/actions/0/body*", "levels deep"}}},
		{"deep where nothing is due", one(`{"method":"GET","path":"/","x":` + strings.Repeat(`{"a":`, 20_000)), []fault{{0, "/actions/0/x", "unknown"}, {0, "/actions/0/x/a*", "levels deep"}}},
		{"an unknown target", `{"target":"crn","actions":[` + get + `]}`, []fault{{-1, "/target", `unknown target "crn": expected one of crm, billing`}}},
		{"no target of several", `{"actions":[` + get + `]}`, []fault{{-1, "/target", "the target is missing: expected one of crm, billing"}}},
		{"an unknown method", one(`{"method":"FETCH","path":"/"},{"method":"TRACE","path":"/"},{"path":"/"}`), []fault{
			{0, "/actions/0/method", `unknown method "FETCH"`}, {1, "/actions/1/method", `unknown method "TRACE"`}, {2, "/actions/2/method", "missing"},
		}},
		{"a path that leaves the base", one(`{"method":"GET","path":"/../x"},{"method":"GET","path":"//evil.com/"},{"method":"GET","path":"/a/%252e%252e/b?x"}`), []fault{
			{0, "/actions/0/path", "dot segment"}, {1, "/actions/1/path", "another host"}, {2, "/actions/2/path", "dot segment"},
		}},
		{"a path that is none", one(`{"method":"GET","path":""},{"method":"GET","path":"x"},{"method":"GET"}`), []fault{
			{0, "/actions/0/path", "missing"}, {1, "/actions/1/path", "does not start with /"}, {2, "/actions/2/path", "missing"},
		}},
		{"a query that cannot be", one(`{"method":"GET","path":"/?a#b"},{"method":"GET","path":"/?a\r\nb"}`), []fault{
			{0, "/actions/0/query", "0x23"}, {1, "/actions/1/query", "0x0d"},
		}},
		{"two actions of one id", one(`{"id":"a","method":"GET","path":"/"},` + get + `,{"id":"a","method":"GET","path":"/"}`), []fault{{2, "/actions/2/id", "the actions 0 and 2 have the same id"}}},
		{"an id that another's index has", one(`{"id":"1","method":"GET","path":"/"},` + get), []fault{{1, "/actions/1/id", "the actions 0 and 1 have the same id"}}},
		{"an empty id", one(`{"id":"","method":"GET","path":"/"}`), []fault{{0, "/actions/0/id", "empty"}}},
		{"an empty list", one(""), []fault{{-1, "/actions", "there are no actions"}}},
		{"no list", `{"target":"crm"}`, []fault{{-1, "/actions", "there are no actions"}}},
		{"nothing at all", `{}`, []fault{{-1, "/actions", "there are no actions"}, {-1, "/target", "missing"}}},
		{"one too many", actions(4), []fault{{-1, "/actions", "too many actions: at most 3 are allowed"}}},
		{"a header that splits", one(`{"method":"GET","path":"/","headers":{"A":"x\r\nB: y","C":"\u0000","D\n":"x"}}`), []fault{
			{0, "/actions/0/headers/A", "0x0d"}, {0, "/actions/0/headers/C", "0x00"}, {0, "/actions/0/headers/D\n", "0x0a"},
		}},
		{"invalid base64", one(`{"method":"GET","path":"/","body_base64":"AP8"}`), []fault{{0, "/actions/0/body_base64", "not valid base64"}}},
		{"two bodies", one(`{"method":"POST","path":"/","body":1,"body_text":"x","body_base64":""}`), []fault{
			{0, "/actions/0/body_text", "body and body_text are both there"}, {0, "/actions/0/body_base64", "body and body_base64 are both there"},
		}},
		{"a body over its bound", one(`{"method":"POST","path":"/","body_text":"` + strings.Repeat("x", 51) + `"}`), []fault{{0, "/actions/0/body_text", "the body has 51 bytes: at most 50"}}},
		{"durations", `{"target":"crm","expires_in":"876000h","retention":"-1s","actions":[{"method":"GET","path":"/","timeout":"2h"},{"method":"GET","path":"/","timeout":"0s"},{"method":"GET","path":"/","timeout":"10"}]}`, []fault{
			{-1, "/expires_in", "876000h is out of range: expected more than 0 and at most 720h"},
			{-1, "/retention", "at most 720h"},
			{0, "/actions/0/timeout", "at most 1h"},
			{1, "/actions/1/timeout", "more than 0"},
			{2, "/actions/2/timeout", `"10" is not a duration`},
		}},
		{"a duration beyond all numbers", `{"target":"crm","expires_in":"99999999999h","actions":[` + get + `]}`, []fault{{-1, "/expires_in", "at most 720h"}}},
		{"retry modes", one(`{"method":"GET","path":"/","retry":"always"},{"method":"GET","path":"/","retry":""}`), []fault{{0, "/actions/0/retry", "unknown retry mode"}, {1, "/actions/1/retry", "empty"}}},
		{"a webhook that is relative", `{"target":"crm","webhook":{"url":"/hook"},"actions":[` + get + `]}`, []fault{{-1, "/webhook/url", "absolute http or https URL"}}},
		{"a webhook of another scheme", `{"target":"crm","webhook":{"url":"gopher://x/"},"actions":[` + get + `]}`, []fault{{-1, "/webhook/url", "absolute http or https URL"}}},
		{"a webhook with a password", `{"target":"crm","webhook":{"url":"https://u:p4ss@example.com/"},"actions":[` + get + `]}`, []fault{{-1, "/webhook/url", "user name or password"}}},
		{"a webhook that is too long", `{"target":"crm","webhook":{"url":"https://example.com/` + strings.Repeat("a", 2048) + `"},"actions":[` + get + `]}`, []fault{{-1, "/webhook/url", "at most 2048"}}},
		{"a webhook to this machine", `{"target":"crm","webhook":{"url":"http://LOCALHOST./"},"actions":[` + get + `]}`, []fault{{-1, "/webhook/url", webhook.ErrHost.Error()}}},
		{"a webhook to a private address", `{"target":"crm","webhook":{"url":"http://[::ffff:10.0.0.1]/"},"actions":[` + get + `]}`, []fault{{-1, "/webhook/url", webhook.ErrHost.Error()}}},
		{"a webhook with more to it", `{"target":"crm","webhook":{"url":"https://example.com/","secrets":"x"},"actions":[` + get + `]}`, []fault{{-1, "/webhook/secrets", "unknown field"}}},
		{"metadata", `{"target":"crm","metadata":{"a":1,"":"x","b":"` + strings.Repeat("x", 2049) + `"},"actions":[` + get + `]}`, []fault{
			{-1, "/metadata/a", "expected a string, found a number"}, {-1, "/metadata/", "expected 1 to 128"}, {-1, "/metadata/b", "at most 2048"},
		}},
		{"everything at once, in any order", `{"actions":[{"method":"X","path":"y"},{"method":"GET","path":"/","z":1}],"target":"crn","oops":1,`, []fault{
			{0, "/actions/0/method", "unknown method"},
			{0, "/actions/0/path", "does not start"},
			{1, "/actions/1/z", "unknown field"},
			{-1, "/target", "unknown target"},
			{-1, "/oops", "unknown field"},
			{-1, "", "ends too early"},
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			f := setup(t, small)
			w := f.do(t, call{method: "POST", path: "/batch", headers: []string{"Content-Type: application/json", "Idempotency-Key: k"}, body: row.body, bad: true})
			requireFaults(t, w, row.want)
			require.Zero(t, f.store.holds(), "a refused submission leaves nothing")
			require.NotContains(t, w.Body.String(), "p4ss")
		})
	}
}

func TestRefusedNDJSON(t *testing.T) {
	t.Parallel()
	get := `{"method":"GET","path":"/"}`
	for _, row := range []struct {
		name  string
		query string
		body  string
		want  []fault
	}{
		{"nothing", "target=crm", "\n \n", []fault{{-1, "", "there are no actions"}}},
		{"every line is looked at", "target=crm", get + "\n{\"method\":\n\n{\"method\":\"GET\",\"path\":\"x\"}", []fault{
			{1, "/method", "not valid JSON at byte 10 of the line: it ends too early"}, {2, "/path", "does not start with /"},
		}},
		{"two on a line", "target=crm", get + get, []fault{{0, "", "one action a line"}}},
		{"rubbish on a line", "target=crm", get + " x", []fault{{0, "", "one action a line"}}},
		{"a list", "target=crm", "[" + get + "]", []fault{{0, "", "expected an object, found a list"}}},
		{"one too many", "target=crm", strings.Repeat(get+"\n", 4), []fault{{-1, "", "too many actions: at most 3"}}},
		{"an unknown parameter", "target=crm&taget=x&metadata=1", get, []fault{{-1, "", `query parameter "metadata": it is not known`}, {-1, "", `query parameter "taget": it is not known`}}},
		{"a parameter twice", "target=crm&target=crm", get, []fault{{-1, "", `query parameter "target": it appears more than once`}}},
		{"blanks in front", "target=crm", get + "\n \t {\"method\":\n", []fault{{1, "/method", "not valid JSON at byte 13 of the line: it ends too early"}}},
		{"a query that is broken", "target=%zz", get, []fault{{-1, "", "percent-encoded"}, {-1, "/target", "missing"}}},
		{"options", "target=x&expires_in=1y&retention=0s&webhook=ftp://x", get, []fault{
			{-1, "", `query parameter "expires_in": "1y" is not a duration`}, {-1, "", `query parameter "retention"`}, {-1, "", `query parameter "target": unknown target`}, {-1, "", `query parameter "webhook"`},
		}},
		{"two of one id", "target=crm", `{"id":"a","method":"GET","path":"/"}` + "\n" + `{"id":"a","method":"GET","path":"/"}`, []fault{{1, "/id", "the actions 0 and 1"}}},
		{"a line without end", "target=crm", get + "\n\"" + strings.Repeat("x", envelopeSize+1000), []fault{{1, "", "the line has more than"}}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			f := setup(t, small)
			w := f.do(t, call{method: "POST", path: "/batch?" + row.query, headers: []string{"Content-Type: application/x-ndjson"}, body: row.body, bad: true})
			requireFaults(t, w, row.want)
			require.Zero(t, f.store.holds())
		})
	}
}

func TestAtMostAHundredFaultsAreListed(t *testing.T) {
	t.Parallel()
	f := setup(t)
	w := f.do(t, call{method: "POST", path: "/batch", body: strings.ReplaceAll(actions(150), `"GET"`, `"G"`), bad: true})
	p := requireProblem(t, w, http.StatusBadRequest)
	require.Len(t, p.Errors, 100)
	require.Equal(t, 50, p.More)
	require.Contains(t, p.Detail, "150 faults")
}

func TestNothingIsStagedAfterAFault(t *testing.T) {
	t.Parallel()
	staged := 0
	d := newDecoder(rules{limits: Config{}.withDefaults().Limits, targets: []string{"a"}}, func(*batch.Action) error { staged++; return nil })
	body, err := openBody(httptest.NewRequest(http.MethodPost, "/", strings.NewReader(`{"actions":[{"method":"GET","path":"/"},{"method":"?","path":"/"},{"method":"GET","path":"/"}]}`)), bodiesOf(1000))
	require.NoError(t, err)
	_, err = d.readJSON(body)
	var invalid *batch.InvalidError
	require.ErrorAs(t, err, &invalid)
	require.Equal(t, 1, staged)
}

func TestCredentialsAreNotKeptInClearText(t *testing.T) {
	t.Parallel()
	f := setup(t, func(c *Config) { c.Sealed = false })
	w := f.do(t, call{method: "POST", path: "/batch", body: `{"target":"crm","actions":[{"method":"GET","path":"/","headers":{"X-Api-Key":"t0ken","X-Other":"x"}}]}`})
	requireFaults(t, w, []fault{{0, "/actions/0/headers/X-Api-Key", "set seal.keys"}})
	require.NotContains(t, w.Body.String(), "t0ken")
	require.Zero(t, f.store.holds())
}

func TestWebhooksNeedASecret(t *testing.T) {
	t.Parallel()
	body := `{"target":"crm","webhook":{"url":"http://127.0.0.1/hook"},"actions":[{"method":"GET","path":"/"}]}`
	f := setup(t, func(c *Config) { c.Webhooks.Secret = "" })
	w := f.do(t, call{method: "POST", path: "/batch", body: body})
	requireFaults(t, w, []fault{{-1, "/webhook/url", "set webhooks.secret"}})

	f = setup(t, func(c *Config) { c.Webhooks.AllowPrivate, c.Webhooks.Ports = true, nil })
	require.Equal(t, http.StatusAccepted, f.do(t, call{method: "POST", path: "/batch", body: body}).Code)
}

func TestMediaTypesAndCodings(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		headers []string
		status  int
	}{
		{[]string{"Content-Type: application/json; charset=utf-8"}, 202},
		{[]string{"Content-Type: application/json; charset=latin1"}, 415},
		{[]string{"Content-Type: text/plain"}, 415},
		{[]string{"Content-Type: "}, 415},
		{[]string{"Content-Type: ;"}, 415},
		{[]string{"Content-Encoding: identity"}, 202},
		{[]string{"Content-Encoding: br"}, 415},
		{[]string{"Content-Encoding: gzip", "Content-Encoding: gzip"}, 415},
		{[]string{"Content-Encoding: gzip"}, 400}, // the body is not gzip
		{[]string{"Content-Encoding: zstd"}, 400},
		{[]string{"Accept: text/html"}, 406},
	} {
		f := setup(t)
		w := f.do(t, call{method: "POST", path: "/batch", headers: row.headers, body: two, bad: true})
		require.Equal(t, row.status, w.Code, "%v: %s", row.headers, w.Body)
		if row.status == 415 && strings.HasPrefix(row.headers[0], "Content-Encoding") {
			require.Equal(t, "gzip, zstd", w.Header().Get("Accept-Encoding"))
		}
		if row.status != 202 {
			requireProblem(t, w, row.status)
			require.Zero(t, f.store.holds())
		}
	}
}

func TestCompressedSubmissions(t *testing.T) {
	t.Parallel()
	for coding, compress := range map[string]func(*testing.T, string) []byte{"gzip": gzipped, "zstd": zstded} {
		t.Run(coding, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			headers := []string{"Content-Type: application/json", "Content-Encoding: " + coding, "Idempotency-Key: k"}
			w := serve(f, call{method: "POST", path: "/batch", headers: headers, body: string(compress(t, two))}.request(t))
			require.Equal(t, http.StatusAccepted, w.Code, "%s", w.Body)
			// The same content, uncompressed, is the same submission.
			w = f.do(t, call{method: "POST", path: "/batch", headers: []string{"Idempotency-Key: k"}, body: two})
			require.Equal(t, "true", w.Header().Get("Idempotency-Replayed"))

			// Without its end, the content cannot be trusted, even if it parses.
			f = setup(t)
			cut := compress(t, two)
			w = serve(f, call{method: "POST", path: "/batch", headers: headers, body: string(cut[:len(cut)-4])}.request(t))
			p := requireProblem(t, w, http.StatusBadRequest)
			require.Contains(t, p.Detail, "not valid "+coding)
			require.Zero(t, f.store.holds())

			// A bomb: a few bytes expand to a hundred times the allowed size.
			f = setup(t, func(c *Config) { c.Limits.MaxBody = 1 << 20 })
			bomb := compress(t, `{"target":"crm","actions":[`+strings.Repeat(" ", 100<<20))
			require.Less(t, len(bomb), 200<<10)
			w = serve(f, call{method: "POST", path: "/batch", headers: headers, body: string(bomb)}.request(t))
			requireProblem(t, w, http.StatusRequestEntityTooLarge)
			require.Zero(t, f.store.holds())
		})
	}

	t.Run("zstd of many lines that are alike", func(t *testing.T) {
		t.Parallel()
		f := setup(t, func(c *Config) { c.Limits.Capacity.BodyRatio = 10_000 })
		lines := strings.Repeat(`{"method":"GET","path":"/alike"}`+"\n", 50_000)
		require.Less(t, len(zstded(t, lines)), len(lines)/2000)
		w := serve(f, call{method: "POST", path: "/batch?target=crm", headers: []string{"Content-Type: application/x-ndjson", "Content-Encoding: zstd"}, body: string(zstded(t, lines))}.request(t))
		require.Equal(t, http.StatusAccepted, w.Code, "%s", w.Body)
	})

	t.Run("members without content", func(t *testing.T) {
		t.Parallel()
		f := setup(t, func(c *Config) { c.Limits.MaxBody = 1 << 20 })
		w := serve(f, call{method: "POST", path: "/batch", headers: []string{"Content-Type: application/json", "Content-Encoding: gzip"}, body: strings.Repeat(string(gzipped(t, "")), 100_000)}.request(t))
		requireProblem(t, w, http.StatusRequestEntityTooLarge)
	})

	t.Run("a window beyond what a decoder must support", func(t *testing.T) {
		t.Parallel()
		f := setup(t)
		var out bytes.Buffer
		z, err := zstd.NewWriter(&out, zstd.WithWindowSize(16<<20), zstd.WithSingleSegment(false))
		require.NoError(t, err)
		_, err = io.Copy(z, strings.NewReader(two+strings.Repeat(" ", 17<<20)))
		require.NoError(t, err)
		require.NoError(t, z.Close())
		w := serve(f, call{method: "POST", path: "/batch", headers: []string{"Content-Type: application/json", "Content-Encoding: zstd"}, body: out.String()}.request(t))
		p := requireProblem(t, w, http.StatusRequestEntityTooLarge)
		require.Contains(t, p.Detail, "window")
	})
}

func gzipped(t *testing.T, s string) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, err := io.WriteString(z, s)
	require.NoError(t, err)
	require.NoError(t, z.Close())
	return out.Bytes()
}

func zstded(t *testing.T, s string) []byte {
	t.Helper()
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out, zstd.WithWindowSize(1<<20))
	require.NoError(t, err)
	_, err = io.WriteString(z, s)
	require.NoError(t, err)
	require.NoError(t, z.Close())
	return out.Bytes()
}

// endless sends a head and then the same bytes, for ever or up to a length.
type endless struct {
	head   string
	repeat string
	left   int64
	sent   int64
}

func (e *endless) Read(p []byte) (int, error) {
	if e.left <= 0 {
		return 0, io.EOF
	}
	n := copy(p, e.head)
	e.head = e.head[n:]
	for n < len(p) {
		n += copy(p[n:], e.repeat)
	}
	e.left -= int64(n)
	e.sent += int64(n)
	return n, nil
}

func TestAGigabyteIsNeverReadInFull(t *testing.T) {
	t.Parallel()
	const gigabyte = 1 << 30
	for _, row := range []struct {
		name   string
		head   string
		repeat string
		media  string
		status int
		most   int64 // bytes that may be read before the end
	}{
		{"zeros", "", "\x00", mediaJSON, 400, 1 << 20},
		{"brackets", "", "[", mediaJSON, 400, 1 << 20},
		{"spaces", "", " ", mediaJSON, 400, 24 << 20},
		{"a string", `{"target":"`, "x", mediaJSON, 400, 24 << 20},
		{"a name", `{"`, "x", mediaJSON, 400, 24 << 20},
		{"a body", `{"target":"crm","actions":[{"method":"GET","path":"/","body":"`, "x", mediaJSON, 400, 24 << 20},
		{"many headers", `{"target":"crm","actions":[{"method":"GET","path":"/","headers":{"a":["x"`, `,"x"`, mediaJSON, 400, 24 << 20},
		{"an unknown field", `{"target":"crm","x":[1`, ",1", mediaJSON, 400, 24 << 20},
		{"actions", `{"target":"crm","actions":[{"method":"GET","path":"/"}`, `,{"method":"GET","path":"/"}`, mediaJSON, 400, 1 << 20},
		{"faults", `{"target":"crm","actions":[{}`, `,{}`, mediaJSON, 400, 1 << 20},
		{"lines", "", "{\"method\":\"GET\",\"path\":\"/\"}\n", mediaNDJSON, 400, 1 << 20},
		{"blank lines", "", strings.Repeat(" ", 99) + "\n", mediaNDJSON, 413, 33 << 20},
		{"no line", "", "x", mediaNDJSON, 400, 24 << 20},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			f := setup(t, func(c *Config) { c.Limits.MaxActions, c.Limits.MaxBody = 1000, 32<<20 })
			body := &endless{head: row.head, repeat: row.repeat, left: gigabyte}
			r := httptest.NewRequest(http.MethodPost, "/batch", body)
			if row.media == mediaNDJSON {
				r.URL.RawQuery = "target=crm"
			}
			r.Header.Set("Content-Type", row.media)
			w := serve(f, r)
			requireProblem(t, w, row.status)
			require.LessOrEqual(t, body.sent, row.most)
			require.Zero(t, f.store.holds())
			require.Less(t, w.Body.Len(), 64<<10)
		})
	}

	t.Run("announced", func(t *testing.T) {
		t.Parallel()
		f := setup(t)
		body := &endless{repeat: " ", left: gigabyte}
		r := httptest.NewRequest(http.MethodPost, "/batch", body)
		r.ContentLength = gigabyte
		r.Header.Set("Content-Type", mediaJSON)
		p := requireProblem(t, serve(f, r), http.StatusRequestEntityTooLarge)
		require.Contains(t, p.Detail, fmt.Sprint(256<<20))
		require.Zero(t, body.sent)
	})
}

func TestALargeActionDoesNotKeepTheNextOnesOut(t *testing.T) {
	t.Parallel()
	// The parser's buffer grows with the first action, and then holds many of the next
	// ones at once: these bytes must not count against any single action.
	f := setup(t, func(c *Config) { c.Limits.MaxActionBody = 1 << 10 })
	large := `{"method":"POST","path":"/","body":"` + strings.Repeat("x", envelopeSize+5000) + `"}`
	fine := strings.Repeat(`,{"method":"POST","path":"/","body_text":"`+strings.Repeat("x", 1000)+`"}`, 10_000)
	w := serve(f, call{method: "POST", path: "/batch", body: `{"target":"crm","actions":[` + large + fine + `]}`}.request(t))
	requireFaults(t, w, []fault{{0, "/actions/0/body", "at most 1024"}})
}

func TestTextThatIsNotUTF8IsRefusedByName(t *testing.T) {
	t.Parallel()
	f := setup(t)
	id := f.created(t, call{body: actions(1)})
	get := `{"method":"GET","path":"/"}`
	for _, row := range []struct{ path, says string }{
		{"/batch?target=crm&metadata.k=M%FCller", `query parameter "metadata.k"`},
		{"/batch?target=crm&metadata.k=M\xfcller", `query parameter "metadata.k"`},
		{"/batch?target=crm&metadata.M%FC=v", `query parameter "metadata.M\xfc"`},
		{"/batch?target=cr%FC", `query parameter "target"`},
		{"/batch?target=crm&webhook=https://example.com/%FC%C3", "query parameter \"webhook\""},
		{"/batch?target=crm&retention=%FC", `query parameter "retention"`},
	} {
		w := f.do(t, call{method: http.MethodPost, path: row.path, headers: []string{"Content-Type: application/x-ndjson"}, body: get, bad: true})
		p := requireProblem(t, w, http.StatusBadRequest)
		require.Len(t, p.Errors, 1, row.path)
		require.Contains(t, p.Errors[0].Detail, row.says)
		require.Contains(t, p.Errors[0].Detail, "not UTF-8")
	}
	for _, row := range []struct{ method, path string }{
		{"GET", "/batch?cursor=%FC"},
		{"GET", "/batch?limit=%FC"},
		{"GET", "/batch/" + id + "/results?outcome=%FC"},
		{"GET", "/batch/" + id + "?%FC=1"},
		{"POST", "/batch/" + id + "/retry?outcome=fail%FCd"},
	} {
		p := requireProblem(t, f.do(t, call{method: row.method, path: row.path, bad: true}), http.StatusBadRequest)
		require.Contains(t, p.Detail, "not UTF-8", row.path)
	}
}

func TestByteOrderMarksAreTakenAtTheStartOnly(t *testing.T) {
	t.Parallel()
	const mark = "\xef\xbb\xbf"
	get := `{"method":"GET","path":"/"}`
	for _, row := range []struct{ media, body, pointer, says string }{
		{mediaJSON, mark + actions(1), "", ""},
		{mediaJSON, mark + " " + actions(1), "", ""},
		{mediaNDJSON, mark + get + "\n", "", ""},
		{mediaNDJSON, mark + "\n" + get, "", ""},
		{mediaJSON, mark + mark + actions(1), "", "not valid JSON at byte 3: there is a byte order mark (U+FEFF)"},
		{mediaJSON, actions(1) + mark, "", "there is a byte order mark (U+FEFF)"},
		{mediaJSON, `{"target":` + mark + `"crm"}`, "/target", "not valid JSON at byte 10: there is a byte order mark (U+FEFF)"},
		{mediaNDJSON, get + "\n" + mark + get, "", "there is a byte order mark (U+FEFF)"},
		{mediaNDJSON, mark + "\n" + mark + get, "", "there is a byte order mark (U+FEFF)"},
		{mediaNDJSON, get + "\n\xff\xfe{\x00}\x00", "", "at byte 0 of the line: invalid character '\\xff' at start of value: text in UTF-16 has such bytes"},
		{mediaNDJSON, get + "\n\xfe\xff\x00{\x00}", "", "UTF-16"},
		{mediaNDJSON, get + "\n" + get + "\n\x00{\x00}", "", "UTF-16"},
		{mediaJSON, `{"target":` + "\xff\xfe\"\x00c" + `"crm"}`, "/target", "UTF-16"},
		{mediaJSON, actions(1) + "\xff\xfe[\x00]\x00", "", "UTF-16"},
		{mediaJSON, "\xff\xfe{\x00}\x00", "", "in UTF-16"},
		{mediaJSON, "{\x00}\x00", "", "in UTF-16"},
		{mediaJSON, "\xfe\xff\x00{\x00}", "", "in UTF-16"},
		{mediaNDJSON, "\xff\xfe{\x00}\x00", "", "in UTF-16"},
		{mediaNDJSON, "\x00{\x00}\x00\n", "", "in UTF-16"},
		{mediaJSON, "\xff\xfe\x00\x00{\x00\x00\x00}\x00\x00\x00", "", "in UTF-32"},
		{mediaJSON, mark, "", "the body is empty"},
		{mediaNDJSON, mark, "", "there are no actions"},
		{mediaJSON, mark + "{\"x\xff\":1}", "", "not valid JSON at byte 6: invalid UTF-8"},
	} {
		f := setup(t)
		path := "/batch"
		if row.media == mediaNDJSON {
			path += "?target=crm"
		}
		w := f.do(t, call{method: http.MethodPost, path: path, headers: []string{"Content-Type: " + row.media}, body: row.body, bad: true})
		if row.says == "" {
			require.Equal(t, http.StatusAccepted, w.Code, "%q: %s", row.body, w.Body)
			continue
		}
		p := requireProblem(t, w, http.StatusBadRequest)
		require.NotEmpty(t, p.Errors)
		require.Contains(t, p.Errors[0].Detail, row.says, "%q", row.body)
		require.Equal(t, row.pointer, p.Errors[0].Pointer)
	}
}

func TestJSONThatIsNestedFarTooDeepIsRefusedInFewWords(t *testing.T) {
	t.Parallel()
	for media, body := range map[string]string{
		mediaNDJSON: `{"body":` + strings.Repeat("[", 20_000),
		mediaJSON:   `{"actions":[{"body":` + strings.Repeat("[", 20_000),
	} {
		w := setup(t).do(t, call{method: http.MethodPost, path: "/batch", headers: []string{"Content-Type: " + media}, body: body, bad: true})
		p := requireProblem(t, w, http.StatusBadRequest)
		require.Contains(t, p.Errors[0].Detail, "it is nested more than 10000 levels deep: at most 100 are allowed")
		require.Less(t, w.Body.Len(), 2<<10)
	}
}
