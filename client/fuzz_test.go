package client

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// FuzzEvents reads any event stream: its events do not depend on where lines end in the network.
func FuzzEvents(f *testing.F) {
	for _, seed := range []string{"event: progress\nid: 1\ndata: {\"id\":\"a\"}\n\n", ": comment\n\ndata: {\ndata: }\n\n", "data:{}\r\n\r\n", "data\n\n", "data: x\n\n", "event\ndata:{\"status\":7}\n\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		read := func(r io.Reader) (all []Update, failed bool) {
			for u, err := range readEvents(r) {
				if err != nil {
					return all, true
				}
				all = append(all, *u)
			}
			return all, false
		}
		whole, failed := read(bytes.NewReader(stream))
		slow, failedToo := read(&oneByOne{stream})
		require.Equal(t, failed, failedToo)
		require.Equal(t, whole, slow)
	})
}

type oneByOne struct{ rest []byte }

func (r *oneByOne) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:1], r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func FuzzRetryAfter(f *testing.F) {
	for _, seed := range []string{"1", "99999999999", "-1", "Mon, 30 Nov 2026 03:00:00 GMT", "1, 2", "Monday, 30-Nov-26 03:00:00 GMT, 5", "", "x", "1.5"} {
		f.Add(seed, seed)
	}
	f.Fuzz(func(t *testing.T, after, date string) {
		got := parseRetryAfter(http.Header{"Retry-After": {after}, "Date": {date}}, time.Unix(1, 0))
		require.GreaterOrEqual(t, got, time.Duration(0))
		require.LessOrEqual(t, got, 24*time.Hour)
	})
}

// FuzzProblem reads any error answer. Its message is one that a terminal shows safely.
func FuzzProblem(f *testing.F) {
	f.Add("application/problem+json", []byte(`{"title":"t","status":400,"detail":"d","errors":[{"index":1,"pointer":"/a","detail":"x"},{"detail":"y"}],"more":3}`), 400)
	f.Add("text/plain", []byte("\x1b[31mred\r\n"), 502)
	f.Add("application/json", []byte(`{"errors":7}`), 301)
	f.Fuzz(func(t *testing.T, media string, body []byte, status int) {
		p := readProblem(&http.Response{StatusCode: status, Header: http.Header{"Content-Type": {media}}, Body: io.NopCloser(bytes.NewReader(body))})
		require.Equal(t, status, p.Status)
		for _, c := range p.Error() {
			require.True(t, c == '\n' || c >= ' ' && c != 0x7f && (c < 0x80 || c >= 0xa0), "%q", p.Error())
		}
	})
}

// FuzzResult decodes any document of a result. It is written as it was read, and means the same after changes.
func FuzzResult(f *testing.F) {
	for _, seed := range []string{`{"id":"a","index":1,"outcome":"failed","headers":{"A":["b","c"],"D":"e"},"body":{"x":1},"attempts":1}`, `{"body_base64":"AP8="}`, `{"body_text":"a"}`, `{"headers":{"a":7}}`, `{"body":null}`, `{"headers":{"":[]}}`, `[]`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var r Result
		if json.Unmarshal(data, &r) != nil {
			return
		}
		same, err := r.MarshalJSON()
		require.NoError(t, err)
		require.JSONEq(t, string(data), string(same))
	})
}

// FuzzVerifyWebhook changes what was signed: nothing else verifies.
func FuzzVerifyWebhook(f *testing.F) {
	f.Add("id", "1", "v1,AAAA", []byte(`{"type":"x"}`))
	f.Add("", "", "", []byte{})
	f.Add("id", "99999999999999999999", "v1,x v1,y", []byte("x"))
	f.Fuzz(func(t *testing.T, id, at, signature string, body []byte) {
		h := http.Header{"Webhook-Id": {id}, "Webhook-Timestamp": {at}, "Webhook-Signature": {signature}}
		_, err := VerifyWebhook(h, body, "whsec_"+strings.Repeat("QUJD", 8))
		require.Error(t, err)
	})
}

func FuzzServerURL(f *testing.F) {
	for _, seed := range []string{"http://127.0.0.1:8080", "http://u:0s3cret0@h", "u:0s3cret0@h", "http://h:0s3cret0@x:y", "http://h/?0s3cret0", "http://[::1", "http://h:99999"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := parseBaseURL(raw)
		if err != nil {
			if strings.Contains(raw, "@") {
				require.NotContains(t, err.Error(), "0s3cret0")
			}
			return
		}
		require.Nil(t, u.User)
		require.NotEmpty(t, u.Hostname())
	})
}
