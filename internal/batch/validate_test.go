package batch

import (
	"net/url"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPathsThatStayBelowTheBaseAreAccepted(t *testing.T) {
	t.Parallel()
	for _, p := range []string{
		"/", "/items", "/items/", "/items/1", "/a:b/c", "/a%20b", "/a%2Fb", "/über", "/%C3%BC", "/a;v=1/b", "/...", "/.well-known/x",
		"/a..b", "/100%25", "/100%2525", "/a+b", "/a@b", "/%25zz",
		"/projects/group%2Fname/issues", "/bucket/a%2Fb%2fc", "/C%23", "/a%5Cb", "/a%5cb", "/M%FCller", "/%E9", "/%ff%FE", "/%3F", "/%2F", "/%2Fa", "/a%2F", "/a//b", "/a/",
		"/a%2f%2fb", "/a%255cb", "/a%252f%252fb", "/sites/https%3A%2F%2Fexample.com%2F", "/a%25252e%25252e", "/...", "/..a", "/a..", "/%2e%2e%2e", "/a%2e%2eb", "/.%2ea",
		"/a%3B..", "/%25", "/%2525", "/a%25", "/a;..", "/a=..", "/｡｡", "/．．a",
		"/a%09b", "/a%0Ab", "/a%0d%0ab", "/a%7Fb", "/a%1b", "/a%250ab", "/a%257f", "/%0A", "/..%0aa",
	} {
		require.NoError(t, ValidatePath(p), p)
	}
}

func TestPathsThatCouldLeaveTheBaseAreRefused(t *testing.T) {
	t.Parallel()
	for _, p := range []string{
		"", "items", "//evil.com/x", "/..", "/../x", "/a/../b", "/a/..", "/./a", "/a/.", "/%2e%2e/x", "/%2E./x", "/.%2e/x", "/a%2f..%2fb", "/..%2fx",
		"/%252e%252e/x", `/a\b`, "/a#b", "/a?b=1", "/a\x00b", "/a%00b", "/a\xffb", "/a%2500b", "/a\tb", "/a\x7fb", "/..%00",
		"/..%0a", "/..%0d%0a/x", "/.%09./x", "/%7F../x", "/.%0a", "/..%250a/x", "/.%2509./x", "/%0a%C0%ae.",
		"/..%2fx", "/..%2F", "/a%2f..", "/..%5c", "/..%5Cx", "/a%5c..%5cb", "/a%5c%2e%2e", "/%2e%2e%5c", "/..%255cx", "/a%255c..", "/%252e%252e%252fx", "/.%252e%2fx", "/%25%32%65./x",
		"/..%3b/x", "/..%253b/x", "/..%3Fx", "/..%23x", "/..%20/x", "/%20../x", "/a/..%3B..%2F", "/x%25zz/%252e%252e/y", "/%c0%ae%c0%ae/x", "/%c0%ae.%c0%afx", "/..%c0%afx", "/..%c1%9cx",
		"/..%c0%2fx", "/..%c1%1cx", "/..%25c1%251cx", "/%c0%2e%c0%2e/x", "/.%80./x", "/..%ff/x", "/a%2F..%E9%2Fx", "/.%c0%01%ae/x",
		"/%e0%80%ae%e0%80%ae/x", "/．．/x", "/%ef%bc%8e%ef%bc%8e/x", "/..%ef%bc%8fx", "/‥/x", "/%2e", "/%252e/x", "/..//x", "/a//../b", "/.;a/x", "/..;%2f..",
		"/a\nb", "/a%zz", "/a%", "/a%2", "/..;/x", "/..;a=b/x", "/%2e%2e;/x", "https://evil.com/", "/" + strings.Repeat("a", MaxPathLength),
	} {
		require.Error(t, ValidatePath(p), p)
	}
}

// A path may be a URL with a password, and a parameter may be a session.
func TestAFaultOfAPathDoesNotRepeatIt(t *testing.T) {
	t.Parallel()
	for _, p := range []string{
		"https://u:s3cret@example.com/", "s3cret", "//u:s3cret@example.com", "/a?t=s3cret", "/a#s3cret", `/a\s3cret`, "/%zzs3cret", "/s3cret\x00", "/s3cret%00", "/s3cret/..",
		"/..;jsessionid=s3cret/", "/.;s3cret", "/%2e%2e;s3cret/x", "/..%3fs3cret", "/s3cret\xff", "/" + strings.Repeat("s3cret", 2000),
	} {
		err := ValidatePath(p)
		require.Error(t, err, p)
		require.NotContains(t, err.Error(), "s3c", p)
	}
}

func FuzzAnAcceptedPathCannotLeaveTheBase(f *testing.F) {
	for _, p := range []string{"/a", "/../x", "/%2e%2e/x", "/%252e/x", "/a;b/..;/", "//x", "/%"} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p string) {
		if ValidatePath(p) != nil {
			return
		}
		for range 3 { // servers may decode it several times
			for _, read := range []string{p, strings.ReplaceAll(p, `\`, "/")} {
				joined := path.Clean("/base" + read)
				if joined != "/base" && !strings.HasPrefix(joined, "/base/") {
					t.Fatalf("%q leaves the base", p)
				}
			}
			u, err := url.Parse("http://host/base" + p)
			if err == nil && u.Host != "host" {
				t.Fatalf("%q changes the host to %q", p, u.Host)
			}
			p = unescape(p)
		}
	})
}

func TestEveryFaultOfAnActionIsReportedWithItsPointer(t *testing.T) {
	t.Parallel()
	good := Action{ID: "a", Method: "POST", Path: "/x", Query: "a=b%20c", Headers: []Field{{"X-A", "ü \t"}}, Timeout: time.Second, Retry: RetrySafe}
	require.Empty(t, good.Validate())
	bad := Action{
		ID: strings.Repeat("i", MaxIDLength+1), Method: "TRACE", Path: "/..", Query: "a b",
		Headers: []Field{{"X-A", "a\r\nb"}, {"X/B", "v"}, {"", "v"}, {"X-C", "\x00"}, {"X-D", strings.Repeat("v", MaxHeaderLength)}},
		Timeout: -1, Retry: "sometimes",
	}
	pointers := make([]string, 0, 11)
	for _, f := range bad.Validate() {
		pointers = append(pointers, f.Pointer)
		require.NotContains(t, f.Detail, "\n", "a detail quotes what it shows")
		require.Less(t, len(f.Detail), 200)
	}
	require.Equal(t, []string{
		"/id", "/method", "/path", "/query", "/headers/X-A", "/headers/X~1B", "/headers/", "/headers/X-C", "/headers/X-D", "/timeout", "/retry",
	}, pointers)
	many := good
	many.Headers = make([]Field, MaxHeaderCount+1)
	require.Len(t, many.Validate(), 1)
	for _, method := range []string{"", "get", "CONNECT", "TRACE", "GET ", "PROPFIND"} {
		a := good
		a.Method = method
		require.Len(t, a.Validate(), 1, method)
	}
}

func TestTargetsAreChecked(t *testing.T) {
	t.Parallel()
	good := Target{Name: "crm", BaseURL: "https://api.example.com:8443/v1/"}.WithDefaults()
	require.Empty(t, good.Validate())
	require.Equal(t, 64, good.Concurrency)
	u, err := ParseBaseURL(good.BaseURL)
	require.NoError(t, err)
	require.Equal(t, "https://api.example.com:8443/v1", u.String())

	for raw, path := range map[string]string{
		"http://x": "", "http://x/": "", "http://x/a%2F": "/a%2F", "http://x/a%2F/": "/a%2F", "http://x/a%2fb": "/a%2fb", "http://x/%e9": "/%e9", "http://x/ü": "/%C3%BC", "http://x/a//b/": "/a//b",
	} {
		u, err := ParseBaseURL(raw)
		require.NoError(t, err, raw)
		require.Equal(t, path, u.EscapedPath(), raw)
	}

	for _, raw := range []string{
		"", "api.example.com", "ftp://x", "http://", "http://:80", "http://u:hush@x", "http://x?a", "http://x/?", "http://x/#f", "http://x/../a", "http://x/%zz", "://", "http://x//a", "http://x/%2e%2e", "http://x/%252e%252e",
	} {
		_, err := ParseBaseURL(raw)
		require.Error(t, err, raw)
		require.NotContains(t, err.Error(), "hush")
	}
	bad := Target{
		Name: "a b", BaseURL: "x", Concurrency: -1, Burst: 1, Timeout: -1, IdempotencyKeyHeader: "a b", MaxResponseBody: -1, Proxy: "x",
		Retry: Retry{Attempts: -1, Base: time.Hour, Max: 48 * time.Hour, Budget: -1, Statuses: []int{200}},
	}
	require.Len(t, bad.Validate(), 15)
}

func TestNamesOfCredentials(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"Authorization", "proxy-authorization", "Cookie", "X-API-KEY", "X-USER-KEY", "Private-Token", "X-Amz-Security-Token", "Apikey"} {
		require.True(t, IsCredential(name), name)
	}
	for _, name := range []string{"Accept", "Content-Type", "Idempotency-Key", "If-Match", "X-Request-Id"} {
		require.False(t, IsCredential(name), name)
	}
	require.Len(t, (&Action{ID: "a\x1b[31m", Method: "GET", Path: "/"}).Validate(), 1)
}

// The full check also accepts every path that the fast check accepts.
func FuzzPlainPaths(f *testing.F) {
	for _, path := range []string{"/", "//", "/a", "/a/b-c_1/Z9", "/a.b", "/a%2e", "/é", "", "a", "/a//b", "/" + strings.Repeat("a", MaxPathLength)} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		if plainPath(path) {
			require.NoError(t, inspectPath(path))
		}
	})
}

func TestConnectionBasedAuthenticationIsRefused(t *testing.T) {
	t.Parallel()
	check := func(name, value string) []Fault {
		a := Action{Method: "POST", Path: "/", Headers: []Field{{Name: "X-A", Value: "1"}, {Name: name, Value: value}}}
		return a.Validate()
	}
	for _, value := range []string{"NTLM", "ntlm TlRMTVNTUAAB", "Negotiate YII", "nEgOtIaTe\tYII", " \tNegotiate YII", "NTLM,x", "Negotiate=", "NTLM\u00a0x"} {
		for _, name := range []string{"Authorization", "authorization", "AUTHORIZATION"} {
			faults := check(name, value)
			require.Len(t, faults, 1, "%s: %s", name, value)
			require.Equal(t, "/headers/"+name, faults[0].Pointer)
			require.Contains(t, faults[0].Detail, "authenticates a connection and not a request")
			require.NotContains(t, faults[0].Detail, "YII", "a credential is not repeated")
		}
	}
	for _, value := range []string{"Bearer NTLM", "Basic Negotiate", "NTLMv2 x", "Negotiated x", "", " "} {
		require.Empty(t, check("Authorization", value), value)
	}
	require.Empty(t, check("X-Authorization", "NTLM x"))
	undo := Action{Method: "POST", Path: "/", Group: "g", Undo: &Action{Method: "DELETE", Path: "/", Headers: []Field{{Name: "Authorization", Value: "NTLM x"}}}}
	require.Equal(t, "/undo/headers/Authorization", undo.Validate()[0].Pointer)
}

func TestBodiesThatATargetMustAllow(t *testing.T) {
	t.Parallel()
	for _, method := range Methods {
		a := &Action{Method: method, Path: "/", Body: []byte("x")}
		needs := method == "GET" || method == "HEAD" || method == "DELETE" || method == "OPTIONS"
		target := Target{Name: "crm", BaseURL: "http://x"}.WithDefaults()
		require.Equal(t, needs, Forbids(&target, a) != "", method)
		if needs {
			require.Contains(t, Forbids(&target, a), "its setting allow_body does not list "+method)
		}
		target.AllowBody = []string{method}
		require.Empty(t, Forbids(&target, a), method)
		require.Equal(t, needs, len(target.Validate()) == 0, "a method that needs no consent is a mistake: %s", method)
		target.AllowBody = nil
		a.Body = []byte{}
		require.Empty(t, Forbids(&target, a), "an empty body is none: %s", method)
	}
	require.Len(t, Target{Name: "crm", BaseURL: "http://x", Connections: "mine", AllowBody: []string{"get", ""}}.WithDefaults().Validate(), 3)
}
