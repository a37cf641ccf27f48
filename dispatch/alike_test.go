package dispatch

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

// written returns the bytes of the request by which an action is sent.
func written(t *testing.T, target batch.Target, a batch.Action, adapt func(d *Dispatcher)) string {
	t.Helper()
	got := make(chan string, 1)
	raw := newRawTarget(t, func(w *wire) {
		var request strings.Builder
		for !strings.HasSuffix(request.String(), "\r\n\r\n"+string(a.Body)) {
			c, err := w.in.ReadByte()
			if err != nil {
				break
			}
			request.WriteByte(c)
		}
		got <- request.String()
		w.say(empty)
		w.untilGone()
	})
	target.BaseURL = strings.Replace(target.BaseURL, "http://h", raw.url, 1)
	d := newDispatcher(t, target)
	adapt(d)
	require.Equal(t, 200, do(t, d, a).Result.Status)
	return strings.ReplaceAll(<-got, strings.TrimPrefix(raw.url, "http://"), "h")
}

func TestBothCarriersWriteTheSame(t *testing.T) {
	t.Parallel()
	header := func(pairs ...string) (fields []batch.Field) {
		for pair := range slices.Chunk(pairs, 2) {
			fields = append(fields, batch.Field{Name: pair[0], Value: pair[1]})
		}
		return fields
	}
	const (
		agent = "User-Agent: me\r\n"
		rest  = "Accept-Encoding: br\r\n"
	)
	usual := header("user-agent", "me", "accept-encoding", "br")
	for name, tt := range map[string]struct {
		target batch.Target
		action batch.Action
		want   string
	}{
		"GET":     {action: batch.Action{Headers: usual}, want: "GET / HTTP/1.1\r\nHost: h\r\n" + agent + rest + "\r\n"},
		"HEAD":    {action: batch.Action{Method: "HEAD", Headers: usual}, want: "HEAD / HTTP/1.1\r\nHost: h\r\n" + agent + rest + "\r\n"},
		"OPTIONS": {action: batch.Action{Method: "OPTIONS", Headers: usual}, want: "OPTIONS / HTTP/1.1\r\nHost: h\r\n" + agent + rest + "\r\n"},
		"DELETE":  {action: batch.Action{Method: "DELETE", Headers: usual}, want: "DELETE / HTTP/1.1\r\nHost: h\r\n" + agent + rest + "\r\n"},
		"POST":    {action: batch.Action{Method: "POST", Headers: usual}, want: "POST / HTTP/1.1\r\nHost: h\r\n" + agent + "Content-Length: 0\r\n" + rest + "\r\n"},
		"PUT, empty": {
			action: batch.Action{Method: "PUT", Headers: usual, Body: []byte{}},
			want:   "PUT / HTTP/1.1\r\nHost: h\r\n" + agent + "Content-Length: 0\r\n" + rest + "\r\n",
		},
		"PATCH never": {
			action: batch.Action{Method: "PATCH", Retry: batch.RetryNever, Headers: usual},
			want:   "PATCH / HTTP/1.1\r\nHost: h\r\n" + agent + "Content-Length: 0\r\n" + rest + "\r\n",
		},
		"a body": {
			action: batch.Action{Method: "POST", Headers: usual, Body: []byte("a=b")},
			want:   "POST / HTTP/1.1\r\nHost: h\r\n" + agent + "Content-Length: 3\r\n" + rest + "\r\na=b",
		},
		"a body of GET": {
			action: batch.Action{Headers: usual, Body: []byte("a=b")},
			want:   "GET / HTTP/1.1\r\nHost: h\r\n" + agent + "Content-Length: 3\r\n" + rest + "\r\na=b",
		},
		"a body of DELETE": {
			action: batch.Action{Method: "DELETE", Headers: usual, Body: []byte("a=b")},
			want:   "DELETE / HTTP/1.1\r\nHost: h\r\n" + agent + "Content-Length: 3\r\n" + rest + "\r\na=b",
		},
		"white space around values": {
			action: batch.Action{Headers: header("User-Agent", " \tme\t ", "x-a", "  a \t b  ", "X-B", " ", "Accept-Encoding", "br ")},
			want:   "GET / HTTP/1.1\r\nHost: h\r\n" + agent + rest + "X-A: a \t b\r\nX-B: \r\n\r\n",
		},
		"other white space": {
			action: batch.Action{Headers: append(header("x-a", "\u00a0a\u00a0"), usual...)},
			want:   "GET / HTTP/1.1\r\nHost: h\r\n" + agent + rest + "X-A: \u00a0a\u00a0\r\n\r\n",
		},
		"no agent": {
			action: batch.Action{Headers: header("user-agent", "", "accept-encoding", "br")},
			want:   "GET / HTTP/1.1\r\nHost: h\r\n" + rest + "\r\n",
		},
		"an agent of white space": {
			action: batch.Action{Headers: header("user-agent", " ", "accept-encoding", "br")},
			want:   "GET / HTTP/1.1\r\nHost: h\r\n" + rest + "\r\n",
		},
		"two agents": {
			action: batch.Action{Headers: header("user-agent", "me", "User-Agent", "you", "accept-encoding", "br")},
			want:   "GET / HTTP/1.1\r\nHost: h\r\n" + agent + rest + "\r\n",
		},
		"names, order and repetition": {
			action: batch.Action{Headers: append(header("x-b", "1", "idempotency-key", "k", "ETag", "e", "x-a", "2", "X-B", "3", "X_c", "", "te", "x", "WWW-Authenticate", "w"), usual...)},
			want: "GET / HTTP/1.1\r\nHost: h\r\n" + agent + rest +
				"Etag: e\r\nWww-Authenticate: w\r\nX-A: 2\r\nX-B: 1\r\nX-B: 3\r\nX_c: \r\nidempotency-key: k\r\n\r\n",
		},
		"bytes above ASCII": {
			action: batch.Action{Headers: append(header("x-a", "Müller \u20ac"), usual...)},
			want:   "GET / HTTP/1.1\r\nHost: h\r\n" + agent + rest + "X-A: Müller \u20ac\r\n\r\n",
		},
		"a question mark":       {action: batch.Action{Path: "/p", ForceQuery: true, Headers: usual}, want: "GET /p? HTTP/1.1\r\nHost: h\r\n" + agent + rest + "\r\n"},
		"a query":               {action: batch.Action{Path: "/p", ForceQuery: true, Query: "a=%zz&b=%2f%2F+%e9&?=/;'|^&%", Headers: usual}, want: "GET /p?a=%zz&b=%2f%2F+%e9&?=/;'|^&% HTTP/1.1\r\nHost: h\r\n" + agent + rest + "\r\n"},
		"percent-encoded bytes": {action: batch.Action{Path: "/a%2Fb%2fc%23%5C%5c%E9%e9%C3%BC%3f%25%41", Headers: usual}, want: "GET /a%2Fb%2fc%23%5C%5c%E9%e9%C3%BC%3f%25%41 HTTP/1.1\r\nHost: h\r\n" + agent + rest + "\r\n"},
		"encoded control characters": {
			action: batch.Action{Path: "/a%0D%0aX:%20b%0d%0A%0d%0a%09%7f%1B%250A", Headers: usual},
			want:   "GET /a%0D%0aX:%20b%0d%0A%0d%0a%09%7f%1B%250A HTTP/1.1\r\nHost: h\r\n" + agent + rest + "\r\n",
		},
		"empty segments":   {action: batch.Action{Path: "/a//b/", Headers: usual}, want: "GET /a//b/ HTTP/1.1\r\nHost: h\r\n" + agent + rest + "\r\n"},
		"other characters": {action: batch.Action{Path: "/;,:@!$&'()*+=~[]|^`\"<>{} \u00fc", Headers: usual}, want: "GET /;,:@!$&'()*+=~[]%7C%5E%60%22%3C%3E%7B%7D%20%C3%BC HTTP/1.1\r\nHost: h\r\n" + agent + rest + "\r\n"},
		"a star":           {action: batch.Action{Method: "OPTIONS", Path: "/*", Headers: usual}, want: "OPTIONS /* HTTP/1.1\r\nHost: h\r\n" + agent + rest + "\r\n"},
		"a base": {
			target: batch.Target{BaseURL: "http://h/v%2F1%e9|/"}, action: batch.Action{Path: "/a%2f", Headers: usual},
			want: "GET /v%2F1%e9%7C/a%2f HTTP/1.1\r\nHost: h\r\n" + agent + rest + "\r\n",
		},
		"a base that ends with an encoded slash": {
			target: batch.Target{BaseURL: "http://h/v1%2F/"}, action: batch.Action{Path: "/a", Headers: usual},
			want: "GET /v1%2F/a HTTP/1.1\r\nHost: h\r\n" + agent + rest + "\r\n",
		},
		"an idempotency key": {
			target: batch.Target{IdempotencyKeyHeader: "Idempotency-Key"}, action: batch.Action{Method: "POST", Headers: usual},
			want: fmt.Sprintf("POST / HTTP/1.1\r\nHost: h\r\n%sContent-Length: 0\r\n%sidempotency-key: %s\r\n\r\n", agent, rest, idempotencyKey("b1", 7)),
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if tt.target.BaseURL == "" {
				tt.target.BaseURL = "http://h"
			}
			require.Equal(t, tt.want, written(t, tt.target, tt.action, func(*Dispatcher) {}), "directly")
			require.Equal(t, tt.want, written(t, tt.target, tt.action, func(d *Dispatcher) { overTransport(t, d) }), "by the transport")
		})
	}
}
