package apikey_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/apikey"
)

// each applies an encoding to every character of a text.
func each(format string) func(string) string {
	return func(text string) string {
		var out strings.Builder
		for _, c := range []byte(text) {
			fmt.Fprintf(&out, format, c)
		}
		return out.String()
	}
}

// escapes are ways to write a key, of which a receiver decodes any two.
var escapes = map[string]func(string) string{
	"as it is":             func(s string) string { return s },
	"one percent-escape":   func(s string) string { return strings.Replace(s, "_", "%5F", 1) },
	"percent-escapes":      each("%%%02x"),
	"of IIS":               each("%%u%04X"),
	"one JSON escape":      func(s string) string { return strings.Replace(s, "_", `\u005f`, 1) },
	"JSON escapes":         each(`\u%04x`),
	"JavaScript":           each(`\x%02x`),
	"references of XML":    each("&#%d;"),
	"references of XML, x": each("&#x%06X;"),
	"one reference":        func(s string) string { return strings.Replace(s, "_", "&#95;", 1) },
}

func TestAKeyIsFoundInEveryEncoding(t *testing.T) {
	t.Parallel()
	stray := []string{"", "100%&x=", `a%zz\u00zz\&#;&#x;`, "batchd_ YmF0Y2hkX. YmF0Y2hkYmF0Y2hk ", "{\"authorization\":\"Basic ", "é&amp;\\\"%C3%A9"}
	found := func(kind, text string) {
		t.Helper()
		for _, before := range stray {
			require.True(t, apikey.InValue(before+text+"&x\"}"), "%s after %q: %s", kind, before, text)
			require.True(t, apikey.In([]byte(before+text+"&x\"}")), "%s after %q: %s", kind, before, text)
		}
	}
	key := apikey.New()
	for kind, first := range escapes {
		for kind2, second := range escapes {
			found(kind+", "+kind2, second(first(key)))
		}
		for name := range 4 {
			user := "user"[:name] + ":"
			found(kind+", in base64", base64.StdEncoding.EncodeToString([]byte(user+key+":password")))
			found(kind+", around base64", first(base64.StdEncoding.EncodeToString([]byte(user+key))))
			found(kind+", around base64 for URLs", first(base64.RawURLEncoding.EncodeToString([]byte("\xff\xfe"+user+key+"\xff\xff"))))
		}
	}
	found("one escape in base64", base64.StdEncoding.EncodeToString([]byte("user:"+strings.Replace(key, "_", "%5F", 1))))
	found("base64 in a form", url.QueryEscape("Basic "+base64.StdEncoding.EncodeToString([]byte("ÿÿ>>?:"+key))))
	found("base64 as PHP writes JSON", strings.ReplaceAll(base64.StdEncoding.EncodeToString([]byte("ÿÿ??:"+key+"ÿÿ")), "/", `\/`))
	found("base64 after base64", base64.StdEncoding.EncodeToString([]byte("user"))+base64.StdEncoding.EncodeToString([]byte(key)))
}

// A long text is decoded in parts. A key is found wherever the parts meet.
func TestAKeyIsFoundAtEveryPlace(t *testing.T) {
	t.Parallel()
	key := apikey.New()
	for _, text := range []string{key, each("%%25%02x")(key), each("&#x%06X;")(each("&#x%06X;")(key)), each(`\u%04x`)(base64.StdEncoding.EncodeToString([]byte(key)))} {
		for before := 0; before < 40_000; before += 509 {
			require.True(t, apikey.In([]byte(strings.Repeat("%2", before/2)+text+strings.Repeat("x", 20_000))), before)
		}
	}
}

func TestOtherTextIsNoKey(t *testing.T) {
	t.Parallel()
	document, err := json.Marshal(map[string]string{"a": "Zürich & <b>\"100%\"</b>\u2028", "batchd_": "%5F\\u005f", "b": strings.Repeat("batchd%5F", 5000)})
	require.NoError(t, err)
	for _, text := range []string{
		string(document), strings.Repeat("YmF0Y2hk", 1000), strings.Repeat("%62atchd_", 1000), base64.StdEncoding.EncodeToString([]byte(strings.Repeat("batchd_user ", 100))),
		strings.Repeat("&#", 1000), strings.Repeat("%", 1000), strings.Repeat(`\`, 1000), strings.Repeat("%25", 10_000),
	} {
		require.False(t, apikey.In([]byte(text)))
		require.False(t, apikey.InValue(text))
	}
}

// The search runs before the caller is known, so an attacker chooses the text.
func TestTheSearchNeedsLittleMemory(t *testing.T) {
	for _, unit := range []string{"25", "%25", "%2525", `\u005c`, "&#38;", "&#x26;#37;", "YmF0Y2hk", "%59mF0Y2hk", "batchd_", "batchd%5f", "%", `\`, "&"} {
		for _, size := range []int{64 << 10, 1 << 20} {
			text := []byte("%" + strings.Repeat(unit, size/len(unit)))
			require.False(t, apikey.In(text))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			apikey.In(text)
			runtime.ReadMemStats(&after)
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(64<<10), "%d bytes of %s", size, unit)
		}
	}
}
