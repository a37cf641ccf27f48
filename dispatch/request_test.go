package dispatch

import (
	"bufio"
	"bytes"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

// requestLine returns the target of the request line as it is written.
func requestLine(t *testing.T, d *Dispatcher, a *batch.Action) string {
	t.Helper()
	req := d.newRequest(d.targets["crm"], &batch.Request{Action: a})
	var out bytes.Buffer
	if transportOnly {
		require.NoError(t, req.Write(&out))
	} else {
		out.Write(appendRequest(nil, req, len(a.Body)))
	}
	line, err := bufio.NewReader(&out).ReadString('\n')
	require.NoError(t, err)
	line = strings.TrimPrefix(line, a.Method+" ")
	return strings.TrimSuffix(line, " HTTP/1.1\r\n")
}

func TestPathReachesTheWireAsItIs(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ base, path, query, want string }{
		{"http://h", "/", "", "/"},
		{"http://h/", "/", "", "/"},
		{"http://h", "/a/b", "", "/a/b"},
		{"http://h", "/a/", "", "/a/"},
		{"http://h/v1", "/", "", "/v1/"},
		{"http://h/v1/", "/a", "", "/v1/a"},
		{"http://h/v%2F1", "/a%2Fb", "", "/v%2F1/a%2Fb"},
		{"http://h", "/a%2fb", "", "/a%2fb"},
		{"http://h", "/a%20b", "", "/a%20b"},
		{"http://h", "/a b", "", "/a%20b"},
		{"http://h", "/a+b", "", "/a+b"},
		{"http://h", "/100%25", "", "/100%25"},
		{"http://h", "/100%25 %41", "", "/100%25%20%41"},
		{"http://h", "/%E6%97%A5/日", "", "/%E6%97%A5/%E6%97%A5"},
		{"http://h", "/a;v=1/b", "", "/a;v=1/b"},
		{"http://h", "/a:b/c:d", "", "/a:b/c:d"},
		{"http://h", "/http://", "", "/http://"},
		{"http://h", "//http:/", "", ""}, // another host, to some: blocked
		{"http://h", "/a@b!$&'()*,=~_.-[x]", "", "/a@b!$&'()*,=~_.-[x]"},
		{"http://h", `/{a}|"<^` + "`>", "", "/%7Ba%7D%7C%22%3C%5E%60%3E"},
		{"http://h", "/a", "b=c&d=%2F/e?f;g", "/a?b=c&d=%2F/e?f;g"},
		{"http://h/v1", "/*", "", "/v1/*"},
		{"http://h", "/*", "", "/*"},
	} {
		t.Run(tt.base+" "+tt.path, func(t *testing.T) {
			t.Parallel()
			d := newDispatcher(t, batch.Target{BaseURL: tt.base})
			a := &batch.Action{Method: "GET", Path: tt.path, Query: tt.query}
			if tt.want == "" {
				requireErrored(t, do(t, d, *a), batch.Errored, batch.CodeBlocked)
				return
			}
			require.Empty(t, a.Validate())
			require.Equal(t, tt.want, requestLine(t, d, a))
		})
	}
}

func TestPathSurvivesTransport(t *testing.T) {
	t.Parallel()
	got := make(chan string, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got <- r.Method + " " + r.RequestURI }))
	t.Cleanup(srv.Close)
	for _, tt := range []struct {
		target batch.Target
		want   string
	}{
		{batch.Target{BaseURL: srv.URL + "/v%2F1"}, "GET /v%2F1/a%2Fb;c/%25?q=%20"},
		{batch.Target{BaseURL: "http://crm.invalid/v%2F1", Proxy: srv.URL}, "GET http://crm.invalid/v%2F1/a%2Fb;c/%25?q=%20"},
	} {
		resp := do(t, newDispatcher(t, tt.target), batch.Action{Path: "/a%2Fb;c/%25", Query: "q=%20"})
		require.Equal(t, batch.Succeeded, resp.Result.Outcome)
		require.Equal(t, tt.want, <-got)
	}
}

func TestForbiddenIsNeverSent(t *testing.T) {
	t.Parallel()
	target := newRawTarget(t, func(w *wire) { w.request() })
	d := newDispatcher(t, batch.Target{BaseURL: target.url})
	for name, a := range map[string]batch.Action{
		"parent":           {Path: "/../x"},
		"encoded parent":   {Path: "/%2e%2e/x"},
		"twice encoded":    {Path: "/%252e%252e%252fx"},
		"other host":       {Path: "//evil.example/x"},
		"backslash":        {Path: `/\evil.example`},
		"line break":       {Path: "/a\r\nb"},
		"encoded NUL":      {Path: "/a%00b"},
		"relative":         {Path: "a"},
		"query in path":    {Path: "/a?b"},
		"query break":      {Query: "a\r\nHost: evil"},
		"method":           {Method: "GET /x HTTP/1.1\r\nHost: evil\r\n\r\nGET"},
		"connect":          {Method: "CONNECT"},
		"header CRLF":      {Headers: []batch.Field{{Name: "X-A", Value: "b\r\nX-Evil: 1"}}},
		"header LF":        {Headers: []batch.Field{{Name: "X-A", Value: "b\nX-Evil: 1"}}},
		"header NUL":       {Headers: []batch.Field{{Name: "X-A", Value: "b\x00"}}},
		"header name":      {Headers: []batch.Field{{Name: "X-A\r\nX-Evil", Value: "1"}}},
		"header name gap":  {Headers: []batch.Field{{Name: "Transfer-Encoding ", Value: "chunked"}}},
		"empty name":       {Headers: []batch.Field{{Name: "", Value: "1"}}},
		"unknown retry":    {Retry: "always"},
		"negative timeout": {Timeout: -1},
	} {
		resp := do(t, d, a)
		requireErrored(t, resp, batch.Errored, batch.CodeBlocked)
		require.True(t, resp.Unsent, name)
		require.False(t, resp.Repeat, name)
	}
	require.Zero(t, target.conns.Load())
}

func TestHeadersThatThePolicyRefusesAreNotSent(t *testing.T) {
	t.Parallel()
	target := newRawTarget(t, func(w *wire) {
		w.request()
		w.say("HTTP/1.1 204 No Content\r\n\r\n")
		w.untilGone()
	})
	d := newDispatcher(t, batch.Target{BaseURL: target.url, Headers: batch.HeaderPolicy{Allow: []string{"X-Real-IP"}}})
	for _, h := range []batch.Field{
		{Name: "X-Forwarded-For", Value: "::1"},
		{Name: "content_length", Value: "0"},
		{Name: "Upgrade", Value: "h2c"},
		{Name: "Connection", Value: "Authorization"},
		{Name: "X-Auth-Request-Access-Token", Value: "x"},
	} {
		for _, isCall := range []bool{false, true} {
			r := &batch.Request{Target: "crm", Call: isCall, Action: &batch.Action{Method: "GET", Path: "/", Headers: []batch.Field{h}}}
			resp := d.Do(t.Context(), r)
			requireErrored(t, resp, batch.Errored, batch.CodeBlocked)
			require.True(t, resp.Unsent, h.Name)
		}
	}
	require.Zero(t, target.conns.Load())
	require.Equal(t, 204, do(t, d, batch.Action{Headers: []batch.Field{{Name: "x-real-ip", Value: "::1"}}}).Result.Status)
}

func TestUnknownTargetIsBlocked(t *testing.T) {
	t.Parallel()
	d := newDispatcher(t, batch.Target{BaseURL: "http://h"})
	resp := d.Do(t.Context(), &batch.Request{Target: "other", Action: &batch.Action{Method: "GET", Path: "/"}})
	require.Equal(t, batch.CodeBlocked, resp.Result.Error.Code)
	require.Contains(t, resp.Result.Error.Message, `target "other": `)
	require.True(t, resp.Unsent)
	require.False(t, resp.Repeat)
}

func TestHeadersOnTheWire(t *testing.T) {
	t.Parallel()
	header := func(pairs ...string) (fields []batch.Field) {
		for pair := range slices.Chunk(pairs, 2) {
			fields = append(fields, batch.Field{Name: pair[0], Value: pair[1]})
		}
		return fields
	}
	agent := "batchd/" + version()
	for _, tt := range []struct {
		name   string
		target batch.Target
		action batch.Action
		want   http.Header
	}{
		{
			name: "defaults",
			want: http.Header{"User-Agent": {agent}, "Accept-Encoding": {"gzip"}},
		},
		{
			name: "own values win, order and repetition are kept",
			action: batch.Action{Headers: header("x-a", "1", "USER-AGENT", "mine", "X-A", "2", "accept-encoding", "br",
				"authorization", "Bearer x", "cookie", "a=b", "content-type", "text/x")},
			want: http.Header{
				"User-Agent": {"mine"}, "Accept-Encoding": {"br"}, "X-A": {"1", "2"},
				"Authorization": {"Bearer x"}, "Cookie": {"a=b"}, "Content-Type": {"text/x"},
			},
		},
		{
			name: "hop-by-hop, in any case",
			action: batch.Action{Headers: header("connection", "close, , TE", "CONNECTION", "keep-alive", "Keep-Alive", "1",
				"proxy-connection", "x", "Proxy-authenticate", "x", "proxy-authorization", "x", "te", "trailers", "TrAiLeR", "x",
				"transfer-encoding", "chunked", "TRANSFER-ENCODING", "chunked", "x-end", "1")},
			want: http.Header{"User-Agent": {agent}, "Accept-Encoding": {"gzip"}, "X-End": {"1"}},
		},
		{
			name: "framing is ours",
			action: batch.Action{
				Method: "POST", Body: []byte("abc"),
				Headers: header("host", "evil.example", "content-length", "999", "EXPECT", "100-continue"),
			},
			want: http.Header{"User-Agent": {agent}, "Accept-Encoding": {"gzip"}, "Content-Length": {"3"}},
		},
		{
			name:   "empty POST says so",
			action: batch.Action{Method: "POST"},
			want:   http.Header{"User-Agent": {agent}, "Accept-Encoding": {"gzip"}, "Content-Length": {"0"}},
		},
		{
			name:   "a read that must not be repeated still has no body",
			action: batch.Action{Retry: batch.RetryNever},
			want:   http.Header{"User-Agent": {agent}, "Accept-Encoding": {"gzip"}},
		},
		{
			name:   "no compression of a range",
			action: batch.Action{Headers: header("Range", "bytes=0-1")},
			want:   http.Header{"User-Agent": {agent}, "Range": {"bytes=0-1"}},
		},
		{
			name:   "no compression of HEAD",
			action: batch.Action{Method: "HEAD"},
			want:   http.Header{"User-Agent": {agent}},
		},
		{
			name:   "idempotency key of the target",
			target: batch.Target{IdempotencyKeyHeader: "idempotency-key"},
			want:   http.Header{"User-Agent": {agent}, "Accept-Encoding": {"gzip"}, "Idempotency-Key": {idempotencyKey("b1", 7)}},
		},
		{
			name:   "idempotency key of the client",
			target: batch.Target{IdempotencyKeyHeader: "X-Request-Key"},
			action: batch.Action{Headers: header("x-request-key", "mine")},
			want:   http.Header{"User-Agent": {agent}, "Accept-Encoding": {"gzip"}, "X-Request-Key": {"mine"}},
		},
		{
			name:   "the client's key where the target has none",
			action: batch.Action{Method: "GET", Headers: header("Idempotency-Key", "mine", "x-idempotency-key", "too")},
			want:   http.Header{"User-Agent": {agent}, "Accept-Encoding": {"gzip"}, "Idempotency-Key": {"mine"}, "X-Idempotency-Key": {"too"}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			seen := make(chan *http.Request, 1)
			target := newRawTarget(t, func(w *wire) {
				seen <- w.request()
				w.say("HTTP/1.1 204 No Content\r\n\r\n")
				w.untilGone()
			})
			tt.target.BaseURL = target.url
			require.Equal(t, 204, do(t, newDispatcher(t, tt.target), tt.action).Result.Status)
			got := <-seen
			require.Equal(t, tt.want, got.Header)
			require.Equal(t, strings.TrimPrefix(target.url, "http://"), got.Host)
			require.Empty(t, got.TransferEncoding)
		})
	}
}

func TestIdempotencyKeyIsTheActionsOwn(t *testing.T) {
	t.Parallel()
	// Another version of batchd may make the next attempt: the key never changes.
	require.Equal(t, "7608a11ee35d3bbad54c299f2a7182e2", idempotencyKey("b1", 7))
	seen := map[string]bool{}
	for _, key := range []string{idempotencyKey("b1", 7), idempotencyKey("b1", 8), idempotencyKey("b17", 0), idempotencyKey("b1", 70), idempotencyKey("b2", 7)} {
		require.False(t, seen[key])
		seen[key] = true
	}
}

func TestNewNamesEveryFault(t *testing.T) {
	t.Parallel()
	_, err := New(Config{Targets: []batch.Target{
		{Name: "a", BaseURL: "ftp://user:hunter2@h"},
		{Name: "b", BaseURL: "http://h", IdempotencyKeyHeader: "transfer-encoding"},
		{Name: "c", BaseURL: "http://h"},
		{Name: "c", BaseURL: "http://h"},
		{Name: "d", BaseURL: "http://h", Proxy: "::user:hunter2@"},
	}})
	for _, want := range []string{`target "a": /base_url`, `target "b": /idempotency_key_header`, `target "c": there are two`, `target "d": /proxy`} {
		require.ErrorContains(t, err, want)
	}
	require.NotContains(t, err.Error(), "hunter2")
}

func FuzzURLStaysInTheBase(f *testing.F) {
	for _, path := range []string{"/", "/a%2Fb", "/%25", "//evil/x", "/../x", "/a b", "/日", "/\x80", "/:@h/", "/a;b=c", "/%2e%2e", "/[::1]"} {
		f.Add("/v%2F1", path, "a=b")
	}
	f.Fuzz(func(t *testing.T, basePath, path, query string) {
		const host = "api.example:8080"
		if _, err := batch.ParseBaseURL("http://" + host + "/" + basePath); err != nil {
			basePath = "v1"
		}
		base, err := batch.ParseBaseURL("http://" + host + "/" + basePath)
		require.NoError(t, err)
		if base.Host != host {
			return // the fuzzer wrote another authority into the base, which is its owner's right
		}
		tg := &target{base: base, basePath: base.EscapedPath()}
		a := &batch.Action{Method: "GET", Path: path, Query: query}
		if len(a.Validate()) > 0 {
			return
		}
		u := tg.url(a)
		wire := u.RequestURI()
		want := tg.basePath + batch.EscapePath(path)
		if query != "" {
			want += "?" + query
		}
		require.Equal(t, want, wire)
		require.Equal(t, batch.EscapePath(path), batch.EscapePath(batch.EscapePath(path)))

		// What a server makes of it.
		read, err := url.ParseRequestURI(wire)
		require.NoError(t, err)
		require.Empty(t, read.Host)
		require.True(t, strings.HasPrefix(read.EscapedPath(), tg.basePath+"/"), "%q leaves %q", read.EscapedPath(), tg.basePath)
		again, err := url.Parse(u.String())
		require.NoError(t, err)
		require.Equal(t, host, again.Host)
		require.Equal(t, query, again.RawQuery)
	})
}
