package batch

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func denies(r *Rule, method, path string) bool { return r.Denies(method, Readings(path)) }

// Many frameworks take the method from the query.
func TestADenyRuleHoldsForTheMethodInTheQuery(t *testing.T) {
	t.Parallel()
	target := &Target{Deny: []Rule{{Method: "DELETE", Path: "/items/**"}}}
	for query, denied := range map[string]bool{
		"_method=DELETE": true, "a=1&_method=delete": true, "%5Fmethod=DE%4CETE": true, "X-HTTP-Method-Override=DELETE": true, "x_http_method_override=delete&b": true,
		"$httpMethod=DELETE": true, "a;_method=DELETE": true, "_method=PUT&_method=DELETE": true, "X-Method-Override=Delete": true, "": false, "_method=PUT": false,
		"method=DELETE": false, "a=_method&DELETE": false, "action=DELETE": false, "_method=": false,
	} {
		require.Equal(t, denied, Forbids(target, &Action{Method: "POST", Path: "/items/1", Query: query}) != "", query)
		require.Empty(t, Forbids(target, &Action{Method: "POST", Path: "/other", Query: query}), query)
	}
}

func TestADenyRuleHoldsForEverySpelling(t *testing.T) {
	t.Parallel()
	attachments := &Rule{Method: "POST", Path: "/attachments/**"}
	for _, p := range []string{
		"/attachments", "/attachments/", "/attachments/1", "/Attachments/1/2", "/%61ttachments/1", "/%2561ttachments", "/attachments;x=1/2", "/attachments%2F1", "/;a/attachments",
		"/attachments%5C1", "/attachments%255c1", "/attachments%3Fx", "/attachments%23x", "/attachments%20/1", "/%252Fattachments", "/attachments//1",
		"/%2561ttachments/%25zz", "/%25%36%31ttachments",
	} {
		require.True(t, denies(attachments, "POST", p), p)
	}
	require.False(t, denies(attachments, "GET", "/attachments/1"))
	require.False(t, denies(attachments, "POST", "/attachments2/1"))
	require.False(t, denies(attachments, "POST", "/a/attachments/1"))
	one := &Rule{Path: "/v1/*/batch"}
	require.True(t, denies(one, "PUT", "/v1/x/BATCH/"))
	require.False(t, denies(one, "PUT", "/v1/batch"))
	require.False(t, denies(one, "PUT", "/v1/x/y/batch"))
	require.True(t, denies(&Rule{Method: "*", Path: "/**"}, "GET", "/"))
}

// A server may decode before it splits a path, after it, or not at all.
func TestADenyRuleMatchesAPathAsItIsWrittenAndDecoded(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		pattern, path string
		want          bool
	}{
		{"/files/*", "/files/a%2Fb", true},
		{"/files/*/b", "/files/a%2Fb", true},
		{"/files/*", "/files/a%252Fb", true},
		{"/files/*/b", "/files/a%252Fb", true},
		{"/files/*/b", "/files/a%5Cb", true},
		{"/files/*", "/files/a%5Cb", true},
		{"/files/*/secret", "/files/a%2Fb/secret", true},
		{"/files/*/secret", "/%66iles/a%2Fb/secret", true},
		{"/files/*/secret", "/files/a%3Fb/secret", true},
		{"/files/*/secret", "/files/a%2Fb/other", false},
		{"/files/*", "/files/a/b", false},
		{"/projects/group%2Fname", "/projects/group%2Fname", true},
		{"/projects/group%2Fname", "/projects/group%2fNAME", true},
		{"/projects/group%2Fname", "/projects/%67roup%2Fname", true},
		{"/projects/group%2Fname", "/projects/group/name", true},
		{"/projects/group/name", "/projects/group%2Fname", true},
		{"/projects/group%2Fname", "/projects/group", false},
		{"/über", "/%C3%BCber", true},
		{"/über", "/%C3%9CBER", true},
		{"/caf%E9", "/caf%e9", true},
		{"/caf%E9", "/CAF%E9", true},
		{"/caf%E9", "/caf%25E9", true},
		{"/caf%E9", "/caf%E8", false},
		{"/caf%E9", "/caf%EF%BF%BD", false},
		{"/CAF%C3%89", "/caf%C3%A9", true},
		{"/x/**", "/X%E9", true},
		{"/x/**", "/X/%E9", true},
		{"/admin/**", "/admin%C0%AFusers", true},
		{"/admin/**", "/admin%25C0%25AFusers", true},
		{"/admin/**", "/admin%E0%80%AFusers", true},
		{"/admin/**", "/admin%C1%9Cusers", true},
		{"/admin/**", "/admin／users", true},
		{"/admin/**", "/admin%EF%BC%8Fusers", true},
		{"/admin/**", "/admin＼users", true},
		{"/admin/**", "/x／../admin", false},
		{"/admin/users", "/admin／users;a=b", true},
		{"/admin/users", "/admin／users%3Fa", true},
		{"/*/config.json", "/a%2Fb/config%EF%BC%8Ejson", true},
		{"/config.json", "/config．json", true},
		{"/config.json", "/config%C0%AEjson", true},
		{"/admin／users", "/admin／users", true},
		{"/admin", "/admin%0A", true},
		{"/admin", "/ad%09min", true},
		{"/admin/**", "/admin%7F/users", true},
		{"/a/%2A", "/a/*", true},
		{"/a/%2A", "/a/b", false},
		{"/a;v=1", "/a;v=1", true},
		{"/a;v=1", "/a;v=2", false},
		{"/a//b/", "/a/b", true},
	} {
		require.Equal(t, tt.want, denies(&Rule{Path: tt.pattern}, "GET", tt.path), "%s %s", tt.pattern, tt.path)
	}
}

func TestAnAllowRuleHoldsForThePathAsItIsWritten(t *testing.T) {
	t.Parallel()
	items := &Rule{Method: "GET", Path: "/items/*"}
	for _, p := range []string{"/items/1", "/items/%31", "/items/a%2Fb", "/items/C%23", "/items/%E9"} {
		require.True(t, items.Allows("GET", p), p)
	}
	for _, p := range []string{"/items", "/items/", "/Items/1", "/items/1/2", "/items%2F1/2", "/items%2F1", "/%69tems/1", "//items/1"} {
		require.False(t, items.Allows("GET", p), p)
	}
	for pattern, path := range map[string]string{
		"/projects/group%2Fname/**": "/projects/group%2Fname/issues", "/über/*": "/%C3%BCber/x", "/%C3%BCber/*": "/über/x", "/a b": "/a%20b", "/": "/", "/a/": "/a/", "/**": "/",
	} {
		require.True(t, (&Rule{Path: pattern}).Allows("GET", path), pattern)
	}
	require.False(t, (&Rule{Path: "/projects/group/name"}).Allows("GET", "/projects/group%2Fname"))
}

func TestAnEncodedSlashIsDataUnlessThereAreAllowRules(t *testing.T) {
	t.Parallel()
	base := Target{Name: "crm", BaseURL: "http://h"}
	allowing := base
	allowing.Allow = []Rule{{Path: "/projects/*"}}
	data := allowing
	data.EncodedSlash = EncodedSlashData
	refusing := base
	refusing.EncodedSlash = EncodedSlashRefuse
	for path, encoded := range map[string]bool{
		"/projects/a": false, "/projects/a%20b": false, "/projects/%25": false, "/projects/%E9": false, "/projects/a%23b": false, "/projects/a%2Fb": true, "/projects/a%2fb": true,
		"/projects/a%5Cb": true, "/projects/a%252Fb": true, "/projects/a%255cb": true, "/projects/a%c0%afb": true, "/projects/a%25zz%252fb": true, "/projects/a%25252Fb": false,
	} {
		require.Equal(t, encoded, EncodesSlash(path), path)
		for name, tt := range map[string]struct {
			target Target
			sent   bool
		}{"default": {base, true}, "allow": {allowing, !encoded}, "data": {data, true}, "refuse": {refusing, !encoded}} {
			target := tt.target.WithDefaults()
			require.Empty(t, target.Validate())
			why := Forbids(&target, &Action{Method: "GET", Path: path})
			require.Equal(t, tt.sent, why == "", "%s %s: %s", name, path, why)
			if !tt.sent {
				require.Contains(t, why, "encoded_slash")
			}
		}
	}
	require.NotEmpty(t, Forbids(&data, &Action{Method: "GET", Path: "/others/1"}))
	bad := base
	bad.EncodedSlash = "keep"
	require.Equal(t, []Fault{{Index: -1, Pointer: "/encoded_slash", Detail: `unknown value "keep": expected data or refuse`}}, bad.WithDefaults().Validate())
}

func TestRates(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Rate{
		"1500/min": {1500, time.Minute}, "10/s": {10, time.Second}, "100/15m": {100, 15 * time.Minute}, "5/hour": {5, time.Hour},
	} {
		got, err := ParseRate(text)
		require.NoError(t, err)
		require.Equal(t, want, got)
		again, err := ParseRate(got.String())
		require.NoError(t, err)
		require.Equal(t, want, again)
	}
	for _, text := range []string{"", "10", "/s", "0/s", "-1/s", "10/", "10/fortnight", "x/s", "10/1ms", "10/48h"} {
		_, err := ParseRate(text)
		require.Error(t, err, text)
	}
}
