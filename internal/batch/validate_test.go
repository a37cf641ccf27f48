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
	} {
		require.NoError(t, ValidatePath(p), p)
	}
}

func TestPathsThatCouldLeaveTheBaseAreRefused(t *testing.T) {
	t.Parallel()
	for _, p := range []string{
		"", "items", "//evil.com/x", "/a//b", "/..", "/../x", "/a/../b", "/a/..", "/./a", "/a/.", "/%2e%2e/x", "/%2E./x", "/.%2e/x", "/a%2f..%2fb", "/..%2fx",
		"/%252e%252e/x", "/a%252f%252fb", "/a%2f%2fb", `/a\b`, "/a%5cb", "/a%255cb", "/a#b", "/a%23b", "/a?b=1", "/a\x00b", "/a%00b", "/a%0d%0ab",
		"/a\nb", "/a%7fb", "/a%zz", "/a%", "/%ff", "/..;/x", "/..;a=b/x", "/%2e%2e;/x", "https://evil.com/", "/" + strings.Repeat("a", MaxPathLength),
	} {
		require.Error(t, ValidatePath(p), p)
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
		for range 3 { // however often somebody on the way decodes it
			joined := path.Clean("/base" + p)
			if joined != "/base" && !strings.HasPrefix(joined, "/base/") {
				t.Fatalf("%q leaves the base", p)
			}
			u, err := url.Parse("http://host/base" + p)
			if err == nil && u.Host != "host" {
				t.Fatalf("%q changes the host to %q", p, u.Host)
			}
			if p, err = url.PathUnescape(p); err != nil {
				return
			}
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

	for _, raw := range []string{
		"", "api.example.com", "ftp://x", "http://", "http://:80", "http://u:hush@x", "http://x?a", "http://x/?", "http://x/#f", "http://x/../a", "http://x/%zz", "://", "http://x/a//b",
	} {
		_, err := ParseBaseURL(raw)
		require.Error(t, err, raw)
		require.NotContains(t, err.Error(), "hush")
	}
	bad := Target{
		Name: "a b", BaseURL: "x", Concurrency: -1, Timeout: -1, IdempotencyKeyHeader: "a b", MaxResponseBody: -1, Proxy: "x",
		Retry: Retry{Attempts: -1, Base: time.Hour, Max: 48 * time.Hour, Budget: -1, Statuses: []int{200}},
	}
	require.Len(t, bad.Validate(), 11)
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
