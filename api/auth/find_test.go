package auth_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/url"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/api/auth"
)

const findIssuer = "https://login.example.com/realms/main"

func newFinder(t *testing.T) *auth.JWT {
	t.Helper()
	j, err := auth.NewJWT(auth.JWTConfig{Issuer: findIssuer, Audience: "batchd"}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	return j
}

// unsigned returns a token without a signature.
func unsigned(claims string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + encode([]byte(claims)) + "." + encode([]byte("??>>signature"))
}

func TestATokenIsFoundInEveryEncoding(t *testing.T) {
	t.Parallel()
	j := newFinder(t)
	each := func(format string) func(string) string {
		return func(text string) string {
			var out strings.Builder
			for i := range len(text) {
				fmt.Fprintf(&out, format, text[i])
			}
			return out.String()
		}
	}
	escapes := map[string]func(string) string{
		"as it is": func(s string) string { return s }, "dots": func(s string) string { return strings.ReplaceAll(s, ".", "%2e") }, "percent": each("%%%02x"),
		"JSON": each(`\u%04x`), "XML": each("&#%d;"), "twice": func(s string) string { return strings.ReplaceAll(s, ".", "%252E") }, "query": url.QueryEscape,
		"PHP": func(s string) string { return strings.ReplaceAll(s, "/", `\/`) }, "a mail": func(s string) string { return strings.Join(strings.SplitAfter(s, "b"), "") },
	}
	for _, claims := range []string{
		`{"iss":"` + findIssuer + `","aud":"batchd"}`,
		`{"sub":"é","aud":["other","batchd"],"iss":"` + strings.ReplaceAll(findIssuer, "/", `\/`) + `"}`,
		"{\n \"aud\": \"batchd\",\n \"iss\": \"" + findIssuer + "\",\n\"x\":\"" + strings.Repeat("ü?", 1500) + "\"}",
		` {"iss":"` + findIssuer + `","aud":"batchd"}`,
	} {
		token := unsigned(claims)
		for kind, escape := range escapes {
			for _, text := range []string{
				escape(token), "Bearer " + escape(token) + " ", `{"a":1.5,"t":"` + escape(token) + `"}`, "a.b.c." + escape(token) + ".d", "xyz" + escape(token),
				"Basic " + escape(base64.StdEncoding.EncodeToString([]byte("u:"+token))), "Basic " + escape(base64.StdEncoding.EncodeToString([]byte("user:"+token+":x"))),
				"t=" + escape(base64.RawURLEncoding.EncodeToString([]byte("\xff\xfe?"+token))),
				"x1" + escape(base64.StdEncoding.EncodeToString([]byte(token))),
			} {
				require.True(t, j.In([]byte(text)), "%s: %.200s", kind, text)
			}
		}
		lines := base64.StdEncoding.EncodeToString([]byte("u:" + token))
		require.True(t, j.In([]byte(lines[:76]+"\r\n"+lines[76:])))
	}
	require.False(t, (*auth.JWT)(nil).In([]byte(unsigned(`{"iss":"`+findIssuer+`","aud":"batchd"}`))), "there is no issuer")
}

// A long text is searched in parts. A token is found wherever they meet.
func TestATokenIsFoundAtEveryPlace(t *testing.T) {
	t.Parallel()
	j := newFinder(t)
	token := unsigned(`{"iss":"` + findIssuer + `","aud":"batchd","x":"` + strings.Repeat("y", 2000) + `"}`)
	for _, text := range []string{token, strings.ReplaceAll(token, ".", "%2E"), base64.StdEncoding.EncodeToString([]byte("u:" + token))} {
		for before := 0; before < 140_000; before += 7919 {
			require.True(t, j.In([]byte(strings.Repeat("%2", before/2)+" "+text+" "+strings.Repeat("x", 20_000))), before)
			require.True(t, j.In([]byte(strings.Repeat("A", before/4*4)+text)), before)
		}
	}
}

func TestOtherTokensAreNotFound(t *testing.T) {
	t.Parallel()
	j := newFinder(t)
	for _, claims := range []string{
		`{"iss":"` + findIssuer + `","aud":"crm"}`, `{"iss":"` + findIssuer + `"}`, `{"iss":"https://other.example","aud":"batchd"}`, `{"aud":"batchd","x":"` + findIssuer + `"}`,
		`["` + findIssuer + `","batchd"]`, `{"iss":"` + findIssuer + `","aud":{"batchd":1}}`, `{"iss":"` + findIssuer + `","aud":"batchd","aud":"batchd"}`,
	} {
		token := unsigned(claims)
		require.False(t, j.In([]byte(token)), claims)
		require.False(t, j.In([]byte(base64.StdEncoding.EncodeToString([]byte("u:"+token)))), claims)
	}
	document, err := json.Marshal(map[string]string{"a": "1.2.3", "b": strings.Repeat("eyJ.", 1000), "c": strings.Repeat(".eyJpc3MiOiJodHRwczovL2xvZ2luLmV4YW1wbGUuY29tIn0", 100)})
	require.NoError(t, err)
	require.False(t, j.In(document))
}

// An attacker chooses the text.
func TestTheSearchForTokensNeedsLittleMemory(t *testing.T) {
	j := newFinder(t)
	long := base64.RawURLEncoding.EncodeToString([]byte(`{"iss":"` + strings.Repeat("x", 10_000)))
	for _, unit := range []string{".", "e", "a.e", "eyJ", ".eyJ", "." + long, long + "%2e", "%2e", "%252e", "A", "\n", base64.StdEncoding.EncodeToString([]byte(".eyJpc3Mi"))} {
		text := []byte(strings.Repeat(unit, (1<<20)/len(unit)))
		require.False(t, j.In(text))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		j.In(text)
		runtime.ReadMemStats(&after)
		most := uint64(256 << 10)
		if len(unit) > 100 {
			most = 16 << 20 // what is decoded, of which little lives at a time
		}
		require.Less(t, after.TotalAlloc-before.TotalAlloc, most, "%.20s", unit)
	}
}
