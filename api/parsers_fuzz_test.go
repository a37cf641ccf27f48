package api

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

// FuzzJSONAgreesWithEncodingJSON compares the reader of submissions with encoding/json: what it
// accepts means the same to both. encoding/json accepts more, such as a name twice.
func FuzzJSONAgreesWithEncodingJSON(f *testing.F) {
	for _, seed := range []string{
		`{"target":"a","actions":[{"method":"GET","path":"/a?b=c"}]}`, "\xef\xbb\xbf" + `{"actions":[{"method":"PUT","path":"/","body_text":"\ud83d\ude00"}],"target":"a"}`,
		`{"target":"a","actions":[{"id":"\u0061","method":"post","path":"\/x","body":{"a":[1e9,-0,null]},"headers":{"X":["a","b"]}}]}`,
		`{"target":"a","Target":"b","actions":[{"method":"GET","path":"/"}]}`, `{"target":"a","target":"b","actions":[]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		limits := DefaultLimits()
		limits.MaxActions = 10
		var staged []batch.Action
		d := newDecoder(rules{limits: limits, targets: []string{"a", "b"}, webhooks: true, checkWebhook: func(string) error { return nil }}, func(a *batch.Action) error {
			kept := *a
			kept.Body = bytes.Clone(a.Body)
			staged = append(staged, kept)
			return nil
		})
		b, err := openBody(httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(data)), bodiesOf(1<<20))
		require.NoError(t, err)
		spec, err := d.readJSON(b)
		if err != nil {
			return
		}
		var doc struct {
			Target  string `json:"target"`
			Actions []struct {
				ID       string          `json:"id"`
				Body     json.RawMessage `json:"body"`
				BodyText *string         `json:"body_text"`
			} `json:"actions"`
		}
		require.NoError(t, json.Unmarshal(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")), &doc))
		if doc.Target != "" {
			require.Equal(t, doc.Target, spec.Target)
		}
		require.Len(t, staged, len(doc.Actions))
		for i, a := range doc.Actions {
			require.Equal(t, a.ID, staged[i].ID)
			switch {
			case a.BodyText != nil:
				require.Equal(t, *a.BodyText, string(staged[i].Body))
			case len(a.Body) > 0:
				require.JSONEq(t, string(a.Body), string(staged[i].Body))
			}
		}
	})
}

func FuzzPrefer(f *testing.F) {
	for _, seed := range []string{"wait=10", `respond-async, wait="20"; foo`, "wait=99999999999999999999", "WAIT = 1 , wait=2", `x="a,wait=3\"", wait=4`, "wait", "wait=-1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		p := parsePrefer(http.Header{"Prefer": {value}})
		wait, applied := p.waitFor(0, time.Minute)
		require.GreaterOrEqual(t, wait, time.Duration(0))
		require.LessOrEqual(t, wait, time.Minute)
		if applied != "" {
			require.Regexp(t, `^(wait=[0-9]+|respond-async)$`, applied)
			again, same := parsePrefer(http.Header{"Prefer": {applied}}).waitFor(0, time.Minute)
			require.Equal(t, wait, again)
			require.Equal(t, applied, same)
		}
	})
}

func FuzzAccept(f *testing.F) {
	for _, seed := range []string{"*/*", "application/json;q=0.5, application/*", `application/json;q="1"`, "a/b;q=NaN", "application/json;q=0, */*", `text/plain;x="a,b"`, "application/json;q=1e-400"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		q := quality([]string{value}, mediaJSON)
		require.True(t, q >= 0 && q <= 1, "%v", q)
		// An element that cannot be read counts for nothing.
		require.InDelta(t, q, quality([]string{value, "\x00"}, mediaJSON), 0)
	})
}

func FuzzIdempotencyKey(f *testing.F) {
	for _, seed := range []string{"k", `"k"`, `"a\"b\\c"`, `"`, `""`, `"a"b"`, `\"`, `"\\"`, `"a\"`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		key, err := idempotencyKey(http.Header{"Idempotency-Key": {value}})
		if err != nil {
			require.Equal(t, http.StatusBadRequest, problemOf(err, batch.Quotas{}, http.Header{}, "id").Status)
			return
		}
		require.NotEmpty(t, key)
		require.LessOrEqual(t, len(key), 255)
		for _, c := range []byte(key) {
			require.True(t, c > ' ' && c <= '~')
		}
		if key[0] != '"' {
			again, err := idempotencyKey(http.Header{"Idempotency-Key": {key}})
			require.NoError(t, err)
			require.Equal(t, key, again)
		}
	})
}

func FuzzParameters(f *testing.F) {
	for _, seed := range []string{"cursor=YQ&limit=1", "cursor=%zz", "a;b", "cursor=YQ==", "%ff=1", "limit=+1", "cursor=", "a=1&a=2"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		values, err := parseQuery(raw)
		if err != nil {
			require.Equal(t, http.StatusBadRequest, problemOf(err, batch.Quotas{}, http.Header{}, "id").Status)
			return
		}
		again, err := url.ParseQuery(values.Encode())
		require.NoError(t, err)
		require.Equal(t, values, again)
		if n, err := integer(values, "limit", 7, 1, 9); err == nil {
			require.True(t, n >= 1 && n <= 9)
		}
		cursor, err := decodeCursor(values)
		if err != nil || cursor == "" {
			return
		}
		require.True(t, isPlainName(cursor, 64))
		again.Set("cursor", base64.RawURLEncoding.EncodeToString([]byte(cursor)))
		same, err := decodeCursor(again)
		require.NoError(t, err)
		require.Equal(t, cursor, same)
	})
}

// FuzzOrigins compares the guard of browsers with net/url: an origin that counts as the server's own
// names its host and its port.
func FuzzOrigins(f *testing.F) {
	for _, seed := range []string{
		"http://127.0.0.1:8080", "http://localhost:8080", "null", "http://127.0.0.1:8080.evil.example", "http://evil.example#@127.0.0.1:8080", "http://[::ffff:127.0.0.1]:8080", "http://127.0.0.1:8080/", "HTTP://127.0.0.1:8080", "http://127.0.0.1.:8080",
		"http://u@127.0.0.1:8080", "http://2130706433:8080", "http://127.0.0.1:08080", "http://127.0.0.1:",
	} {
		f.Add(seed)
	}
	at := parseHost("127.0.0.1:8080")
	f.Fuzz(func(t *testing.T, origin string) {
		if !isSameOrigin(origin, at, false, false) {
			return
		}
		u, err := url.Parse(origin)
		require.NoError(t, err)
		require.Equal(t, "http", u.Scheme)
		require.Nil(t, u.User)
		require.Equal(t, "8080", u.Port())
		ip := net.ParseIP(parseHost(u.Host).host)
		require.NotNil(t, ip)
		require.True(t, ip.Equal(net.IPv4(127, 0, 0, 1)))
		require.Empty(t, u.Path+u.RawQuery+u.Fragment)
	})
}

// FuzzCompressedBodies gives the decompressors any bytes, also those of whole compressed texts. A body never
// unfolds beyond its bounds, and what was compressed comes back.
func FuzzCompressedBodies(f *testing.F) {
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	_, _ = w.Write(bytes.Repeat([]byte("a"), 100_000))
	_ = w.Close()
	enc, err := zstd.NewWriter(nil)
	require.NoError(f, err)
	f.Add([]byte("text"), 0)
	f.Add(zipped.Bytes(), 1)
	f.Add(enc.EncodeAll(bytes.Repeat([]byte("ab"), 100_000), nil), 2)
	f.Add([]byte{0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4}, 2)
	f.Fuzz(func(t *testing.T, data []byte, coding int) {
		const most = 1 << 20
		read := func(content []byte, coding string) ([]byte, error) {
			r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(content))
			r.Header.Set("Content-Encoding", coding)
			limits := bodiesOf(most)
			b, err := openBody(r, limits)
			if err != nil {
				return nil, err
			}
			defer b.Close()
			return io.ReadAll(b)
		}
		name := []string{"", "gzip", "zstd"}[uint(coding)%3]
		got, err := read(data, name)
		if err != nil {
			var refused *requestError
			require.True(t, errors.As(err, &refused) || errors.As(err, new(*batch.LimitedError)), "%v", err)
		}
		require.LessOrEqual(t, len(got), most)
		if len(data) > most {
			return
		}
		packed := data
		switch name {
		case "gzip":
			var out bytes.Buffer
			w := gzip.NewWriter(&out)
			_, _ = w.Write(data)
			_ = w.Close()
			packed = out.Bytes()
		case "zstd":
			packed = enc.EncodeAll(data, nil)
		}
		if int64(len(data)) > 100*int64(len(packed)) {
			return
		}
		back, err := read(packed, name)
		require.NoError(t, err)
		require.True(t, bytes.Equal(data, back))
	})
}
