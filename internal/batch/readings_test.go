package batch

import (
	"math/rand/v2"
	"path"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"golang.org/x/text/unicode/norm"
)

// adminPaths lists paths that some server reads as /admin/users, by kind.
var adminPaths = map[string][]string{
	"as written": {"/admin/users", "/admin/users/", "/ADMIN/Users", "/aDmIn/uSeRs/"},
	"slashes":    {"/admin//users", "/admin///users//", "/admin/users//", "/admin/%2fusers", "/admin%2F%2Fusers", "/admin/%252f/users"},
	"encoded": {
		"/%61dmin/users", "/%61%64%6d%69%6E/%75sers", "/admin%2Fusers", "/admin%2fusers", "/%41DMIN/users", "/admin/users%2F", "/%2Fadmin/users",
	},
	"encoded twice": {
		"/%2561dmin/users", "/%25%36%31dmin/users", "/admin%252Fusers", "/admin%252fusers", "/%2561%2564%256din/users", "/admin%25%32%46users",
		"/%25%36%31dmin%25%32%66users", "/admin/users%252F",
	},
	"backslashes": {"/admin%5Cusers", "/admin%5cusers", "/admin%255Cusers", "/admin/%5Cusers", "/%5Cadmin%5Cusers", "/admin%5C%5Cusers", "/admin%5C/users"},
	"dots at the end": {
		"/admin./users", "/admin../users", "/admin.../users", "/admin/users.", "/admin./users.", "/admin%2E/users", "/admin%252e/users", "/admin/users%2e%2E",
		"/admin./users./", "/admin...%2Fusers", "/ADMIN./users",
	},
	"blanks": {
		"/admin%20/users", "/admin /users", "/ admin/users", "/%20admin/%20users", "/admin/users%20", "/admin/users%20%20", "/admin%2520/users", "/admin%09/users",
		"/admin.%20/users", "/admin%20./users", "/admin.%20.%20/users", "/admin%20.%20./users", "/admin%C2%A0/users", "/admin%E3%80%80/users", "/admin%E2%80%83/users",
	},
	"parameters": {
		"/admin;/users", "/admin;a=b/users", "/admin;a=b;c=d/users;e", "/admin/users;jsessionid=1", "/;a/admin/users", "/admin/;/users", "/admin%3Ba/users",
		"/admin%253Ba/users", "/admin;.css/users", "/admin.;a/users", "/admin%20;a/users", "/admin;%2Fx/users", "/admin/users;%2e%2E%2fx", "/admin；a/users", "/admin%EF%BC%9Ba/users",
	},
	"full width and the like": {
		"/ａｄｍｉｎ/users", "/%EF%BD%81dmin/users", "/ＡＤＭＩＮ/ｕｓｅｒｓ", "/admin／users", "/admin%EF%BC%8Fusers", "/admin＼users", "/admin%EF%BC%BCusers", "/ⓐdmin/users",
		"/𝐚𝐝𝐦𝐢𝐧/users", "/ᵃdmin/users", "/adm%E2%85%B0n/users", "/adm%C4%B1n/users", "/ADMİN/users", "/admin/u%C5%BFers", "/admin/user%C5%BF",
		"/admin%E2%88%95users", "/admin%E2%81%84users", "/admin%25EF%25BC%258Fusers", "/%25EF%25BD%2581dmin/users", "/admin．/users", "/admin%E2%80%A4/users", "/admin¥users",
	},
	"full-width percent signs": {"/％61dmin/users", "/%EF%BC%8561dmin/users", "/admin％2Fusers", "/admin﹪2fusers", "/admin%EF%BC%852Fusers"},
	"control characters": {
		"/admin%0A/users", "/ad%0Dmin/users", "/admin%1F/users", "/admin/users%0a", "/admin/users%0D%0Ax", "/admin%7F/users", "/%08admin/users", "/admin%0B/us%0Cers",
		"/admin/users%0Aanything/else", "/admin/users%250a", "/a%C2%85dmin/users", "/admin%0a%2Fusers", "/admin%25%0a2Fusers",
	},
	"characters that are not shown": {
		"/ad%C2%ADmin/users", "/admin%E2%80%8B/users", "/%EF%BB%BFadmin/users", "/ad%E2%80%8Dmin/users", "/ad%E2%81%A0min/users", "/ad%EF%B8%8Fmin/users", "/a%CD%8Fdmin/users",
	},
	"overlong": {
		"/%C1%A1dmin/users", "/%c1%a1dmin/users", "/%E0%81%A1dmin/users", "/%F0%80%81%A1dmin/users", "/%F8%80%80%81%A1dmin/users", "/%FC%80%80%80%81%A1dmin/users",
		"/admin%C0%AFusers", "/admin%E0%80%AFusers", "/admin%F0%80%80%AFusers", "/admin%C1%9Cusers", "/admin%c1%1cusers", "/admin%C0%AE/users", "/admin%25C0%25AFusers",
		"/admin%C0%BBx/users", "/%C0%A561dmin/users", "/admin%C0%A52Fusers", "/admin%C0%A0/users",
	},
	"as IIS decodes": {"/%25u0061dmin/users", "/admin%25u002fusers", "/admin%25u2215users", "/admin%25uFF0Fusers", "/admin::$DATA/users", "/admin/users::%24INDEX_ALLOCATION", "/admin%25U005Cusers"},
	"streams and sessions": {
		"/admin:$I30:$INDEX_ALLOCATION/users", "/admin%3A%24i30%3A%24INDEX_ALLOCATION/users", "/admin/users:$I30:$INDEX_ALLOCATION", "/(S(x))/admin/users", "/admin/(S(x))/users",
		"/(A(x)F(y))/admin/users", "/%28S%28x%29%29/admin/users", "/(s(x))/admin./users",
	},
	"plus signs": {"/admin/users+", "/admin+/users", "/+admin/users", "/admin.+/users", "/admin%2B/users"},
	"bytes that are not UTF-8": {
		"/ad%FFmin/users", "/admin%FF/users", "/admin/users%80", "/%ffadmin%fe/users", "/admin%25FF/users", "/admin%FF%2Fusers", "/admin%25%FF2Fusers", "/admin%FF./users", "/adm%FF%C4%B1n/users",
	},
	"a query or a fragment": {"/admin/users%3F", "/admin/users%3Fa=b", "/admin/users%23a", "/admin/users%253Fx", "/admin/users？x", "/admin/users%EF%BC%83x"},
}

// otherPaths lists paths that no server reads as /admin/users.
var otherPaths = []string{
	"/", "/admin", "/admin/", "/admin/user", "/admin/users2", "/admin/users/1", "/administrator/users", "/x/admin/users", "/admin/x/users", "/admin.x/users", "/admin/users.json",
	"/.admin/users", "/admin/.users", "/admin,a/users", "/admin:a/users", "/admin=/users", "/admin%2Dusers", "/admin%25252Fusers", "/adm%C3%ADn/users", "/admin%2Fuser%C3%A9s",
	"/users/admin", "/admin-/users", "/admin%27/users", "/admin%21users", "/%61dmins/users", "/admin;a", "/;/admin",
}

// Servers differ in how they read a path. A deny rule holds for what any of them reads.
func TestADenyRuleHoldsForWhatAnyServerReads(t *testing.T) {
	t.Parallel()
	cases := len(otherPaths)
	target := &Target{Deny: []Rule{{Path: "/admin/users"}}}
	for kind, paths := range adminPaths {
		cases += len(paths)
		for _, path := range paths {
			a := &Action{Method: "GET", Path: path}
			require.True(t, Forbids(target, a) != "" || ValidatePath(path) != nil, "%s: %s", kind, path)
		}
	}
	require.Greater(t, cases, 170)
	for _, path := range otherPaths {
		require.NoError(t, ValidatePath(path), path)
		require.Empty(t, Forbids(target, &Action{Method: "GET", Path: path}), path)
	}
}

func TestDotSegmentsAreRefusedInEverySpelling(t *testing.T) {
	t.Parallel()
	for _, path := range []string{
		"/a/../admin", "/a/%2e%2e/admin", "/a/.%2E/admin", "/a/%252e%252e/admin", "/a/..;x/admin", "/a/..%3Bx/admin", "/a/..%20/admin", "/a/.%20./admin", "/a/%20../admin",
		"/a/..%5Cadmin", "/a%2F..%2Fadmin", "/a%252F%252e%252e%252Fadmin", "/a/%C0%AE%C0%AE/admin", "/a/%E0%80%AE./admin", "/a/．．/admin", "/a/‥/admin", "/a/%E2%80%A4./admin",
		"/a/.%0A./admin", "/a/%25u002e%25u002e/admin", "/a/％2e％2e/admin", "/a/.%E2%80%8B./admin", "/a/..%FF/admin", "/a/.%C2%AD./admin", "/a／..／admin", "/a%C0%AF..%C0%AFadmin",
		"/a/..%3Fx/admin", "/a/..+/admin", "/a/..::$INDEX_ALLOCATION/admin", "/a/..:$I30:$INDEX_ALLOCATION/admin", "/a/..%23/admin", "/a/%2e/admin", "/./admin", "/a/.", "/a/..", "/a%00b", "/a%C0%80b", "/a%2500b", "/a%E2%88%95..%E2%88%95admin", "/a%C1%9C..%C1%9Cadmin",
	} {
		require.Error(t, ValidatePath(path), path)
	}
	for _, path := range []string{"/a/.../b", "/a/.b", "/a/b.", "/a/..b", "/a/b..", "/a/%2e%2eb", "/.well-known/x", "/a/....", "/a/x%20..", "/a/%C3%A9.", "/a/-.-"} {
		require.NoError(t, ValidatePath(path), path)
	}
}

// An attacker chooses the path, so the work for one is bounded.
func TestThePathWithTheMostReadingsIsCheap(t *testing.T) {
	t.Parallel()
	unit := "/%25%43%30%25%61%66;%5C%25%63%31%0a%EF%BC%8Fa.%20%3Fx"
	for _, n := range []int{1, 8, MaxPathLength / len(unit)} {
		all := Readings(strings.Repeat(unit, n))
		size := 0
		for _, read := range all {
			for _, segment := range read {
				size += len(segment)
			}
		}
		require.LessOrEqual(t, size, maxReading+MaxPathLength)
	}
	require.True(t, (&Rule{Path: "/x"}).Denies("GET", nil), "too many readings")
	for _, expanding := range []string{"%ef%b7%ba", "%25ef%25b7%25ba", "%EF%B7%BB", "%E3%8C%96", "\ufdfa", "a%20%FF%ef%b7%ba"} {
		path := "/" + strings.Repeat(expanding, (MaxPathLength-1)/len(expanding))
		require.LessOrEqual(t, len(fold(unescape(unescape(path)))), MaxPathLength+256, "fold stops")
		require.Error(t, ValidatePath(path), expanding)
		require.Nil(t, Readings(path), expanding)
	}
	require.NoError(t, ValidatePath("/\ufdfa/%ef%b7%ba"), "one is no attack")
	require.NotNil(t, Readings("/"+strings.Repeat("%D0%96", 1300)), "a long path of other letters is no attack")
	require.NotNil(t, Readings("/"+strings.Repeat("a%20b/", 1300)))
}

// lenientSteps are what servers and proxies do to a path on the way, each of them perhaps
// never and perhaps in any order.
var lenientSteps = []func(string) string{
	func(s string) string { return strings.ReplaceAll(s, `\`, "/") },
	norm.NFKC.String,
	strings.ToLower,
	valid,
	func(s string) string { return strings.ToLower(strings.ToUpper(s)) },
	func(s string) string {
		return strings.Map(func(r rune) rune {
			if r < 0x20 || r == 0x7f {
				return -1
			}
			return r
		}, strings.ToValidUTF8(s, "\ufffd"))
	},
	strings.NewReplacer("\xc0\xaf", "/", "\xe0\x80\xaf", "/", "\xc0\xae", ".", "\xc1\xa1", "a", "\xc1\x9c", `\`, "\xe0\x81\xa1", "a").Replace,
	func(s string) string { s, _, _ = strings.Cut(s, "?"); return s },
	func(s string) string { s, _, _ = strings.Cut(s, "#"); return s },
	func(s string) string { s, _, _ = strings.Cut(s, "\n"); return s },
	eachSegment(func(s string) string { s, _, _ = strings.Cut(s, ";"); return s }),
	eachSegment(func(s string) string { return strings.TrimRight(s, ". ") }),
	eachSegment(strings.TrimSpace),
	func(s string) string {
		for strings.Contains(s, "//") {
			s = strings.ReplaceAll(s, "//", "/")
		}
		return s
	},
}

// eachSegment applies f to all segments that are not dot segments.
func eachSegment(f func(string) string) func(string) string {
	return func(s string) string {
		segments := strings.Split(s, "/")
		for i, segment := range segments {
			if segment != "." && segment != ".." {
				segments[i] = f(segment)
			}
		}
		return strings.Join(segments, "/")
	}
}

// lenientRead returns a path as one server might read it: lots decide what it does.
func lenientRead(s string, lots *rand.Rand) string {
	decodings := lots.IntN(3)
	for range 8 {
		if decodings > 0 && lots.IntN(3) == 0 {
			s, decodings = unescape(s), decodings-1
			continue
		}
		s = lenientSteps[lots.IntN(len(lenientSteps))](s)
	}
	return strings.ToLower(path.Clean("/" + s))
}

func FuzzNoServerReadsADeniedPath(f *testing.F) {
	seed := uint64(0)
	for _, paths := range adminPaths {
		for _, path := range paths {
			seed++
			f.Add(path, seed)
		}
	}
	for _, path := range otherPaths {
		f.Add(path, seed)
	}
	target := &Target{Deny: []Rule{{Path: "/admin/users/**"}, {Path: "/secret"}}}
	f.Fuzz(func(t *testing.T, path string, seed uint64) {
		if !utf8.ValidString(path) || ValidatePath(path) != nil || Forbids(target, &Action{Method: "GET", Path: path}) != "" {
			return
		}
		lots := rand.New(rand.NewPCG(seed, 0))
		for range 50 {
			read := lenientRead(path, lots)
			if read == "/secret" || read == "/admin/users" || strings.HasPrefix(read, "/admin/users/") {
				t.Fatalf("%q is sent, and a server reads it as %q", path, read)
			}
		}
	})
}
