package dispatch

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

func gzipped(t *testing.T, plain string) string {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := io.WriteString(w, plain)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return out.String()
}

// serving gives the same answer to every request, and keeps the connection.
func serving(t *testing.T, answer string) *rawTarget {
	t.Helper()
	return newRawTarget(t, func(w *wire) {
		for w.request() != nil && w.say(answer) {
		}
		w.untilGone()
	})
}

func ok(headers, body string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s", headers, len(body), body)
}

func TestBodyIsCapped(t *testing.T) {
	t.Parallel()
	chunked := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, tt := range []struct {
		name, answer, want string
		truncated          bool
		conns              int64 // after three exchanges
	}{
		{"below", ok("", "1234567"), "1234567", false, 1},
		{"exact", ok("", "12345678"), "12345678", false, 1},
		{"one over", ok("", "123456789"), "12345678", true, 1},
		{"a small rest is drained", ok("", strings.Repeat("x", 32<<10)), "xxxxxxxx", true, 1},
		{"a large rest costs the connection", ok("", strings.Repeat("x", 256<<10)), "xxxxxxxx", true, 3},
		{"a rest that does not come costs the connection", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n123456789", "12345678", true, 3},
		{"a hostile length", "HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775807\r\n\r\n123456789", "12345678", true, 3},
		{"empty", ok("", ""), "", false, 1},
		{"chunks, exact", chunked + "8\r\n12345678\r\n0\r\n\r\n", "12345678", false, 1},
		{"chunks, over", chunked + "9\r\n123456789\r\n0\r\n\r\n", "12345678", true, 1},
		{"until it closes", "HTTP/1.0 200 OK\r\n\r\n123456789", "12345678", true, 3},
		{"gzip, exact", ok("Content-Encoding: gzip\r\n", gzipped(t, "12345678")), "12345678", false, 1},
		{"gzip, over", ok("Content-Encoding: x-GZIP\r\n", gzipped(t, "123456789")), "12345678", true, 1},
		{"gzip, two members", ok("Content-Encoding: gzip\r\n", gzipped(t, "1234")+gzipped(t, "5678")), "12345678", false, 1},
		{"gzip, empty", ok("Content-Encoding: gzip\r\n", gzipped(t, "")), "", false, 1},
		{"gzip, nothing at all", ok("Content-Encoding: gzip\r\n", ""), "", false, 1},
		{"gzip bomb", ok("Content-Encoding: gzip\r\n", gzipped(t, strings.Repeat("x", 32<<20))), "xxxxxxxx", true, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			target := serving(t, tt.answer)
			d := newDispatcher(t, batch.Target{BaseURL: target.url, MaxResponseBody: 8})
			if tt.conns == 1 {
				d.drainTime = time.Minute // what is to be kept is kept on a slow machine too
			}
			for range 3 {
				resp := do(t, d, batch.Action{Method: "POST"})
				require.Nil(t, resp.Result.Error)
				require.Equal(t, batch.Succeeded, resp.Result.Outcome)
				require.Equal(t, tt.want, string(resp.Result.Body))
				require.Equal(t, tt.truncated, resp.Result.Truncated)
				require.Less(t, resp.Result.Duration, 10*time.Second)
			}
			require.Equal(t, tt.conns, target.conns.Load())
		})
	}
}

func TestDecodingIsOnlyOurs(t *testing.T) {
	t.Parallel()
	plain, packed := "some text", gzipped(t, "some text")
	field := func(name, value string) batch.Field { return batch.Field{Name: name, Value: value} }
	length := field("content-length", fmt.Sprint(len(packed)))
	for _, tt := range []struct {
		name     string
		encoding string
		action   batch.Action
		body     string
		headers  []batch.Field
	}{
		{"ours", "gzip", batch.Action{}, plain, []batch.Field{field("content-type", "text/plain")}},
		{
			"the client's", "gzip",
			batch.Action{Headers: []batch.Field{field("accept-ENCODING", "gzip")}},
			packed,
			[]batch.Field{field("content-encoding", "gzip"), length, field("content-type", "text/plain")},
		},
		{
			"a range's", "gzip",
			batch.Action{Headers: []batch.Field{field("Range", "bytes=0-9")}},
			packed,
			[]batch.Field{field("content-encoding", "gzip"), length, field("content-type", "text/plain")},
		},
		{
			"another encoding", "br",
			batch.Action{},
			packed,
			[]batch.Field{field("content-encoding", "br"), length, field("content-type", "text/plain")},
		},
		{
			"two encodings", "gzip, gzip",
			batch.Action{},
			packed,
			[]batch.Field{field("content-encoding", "gzip, gzip"), length, field("content-type", "text/plain")},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			target := serving(t, ok("Content-Type: text/plain\r\nContent-Encoding: "+tt.encoding+"\r\n", packed))
			d := newDispatcher(t, batch.Target{BaseURL: target.url})
			result := do(t, d, tt.action).Result
			require.Equal(t, tt.body, string(result.Body))
			require.Equal(t, tt.headers, result.Headers)
		})
	}
}

func TestAnswersWithoutABody(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ method, answer string }{
		{"HEAD", "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 12345\r\n\r\n"},
		{"GET", "HTTP/1.1 204 No Content\r\nContent-Encoding: gzip\r\n\r\n"},
		{"GET", "HTTP/1.1 304 Not Modified\r\nContent-Encoding: gzip\r\nContent-Length: 12345\r\n\r\n"},
	} {
		target := serving(t, tt.answer)
		d := newDispatcher(t, batch.Target{BaseURL: target.url})
		for range 2 {
			result := do(t, d, batch.Action{Method: tt.method}).Result
			require.Nil(t, result.Error)
			require.Empty(t, result.Body)
			require.False(t, result.Truncated)
			require.Contains(t, result.Headers, batch.Field{Name: "content-encoding", Value: "gzip"})
		}
		require.EqualValues(t, 1, target.conns.Load())
	}
}

func TestResultHeadersAreEndToEnd(t *testing.T) {
	t.Parallel()
	target := serving(t, ok("X-B: 2\r\nx-a: z\r\nX-A: a\r\nDate: Sat, 21 Nov 2026 12:00:00 GMT\r\nSet-Cookie: s=1\r\nSet-Cookie: r=2\r\n"+
		"Connection: keep-alive, X-Hop\r\nConnection: x-hop2\r\nX-Hop: 1\r\nX-Hop2: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\n"+
		"Proxy-Connection: x\r\nUpgrade: h2c\r\nTe: x\r\nTrailer: X-T\r\nX-Latin: caf\xe9\r\n", "{}"))
	d := newDispatcher(t, batch.Target{BaseURL: target.url})
	require.Equal(t, []batch.Field{
		{Name: "content-length", Value: "2"},
		{Name: "date", Value: "Sat, 21 Nov 2026 12:00:00 GMT"},
		{Name: "set-cookie", Value: "s=1"},
		{Name: "set-cookie", Value: "r=2"},
		{Name: "x-a", Value: "z"},
		{Name: "x-a", Value: "a"},
		{Name: "x-b", Value: "2"},
		{Name: "x-latin", Value: "caf\u00e9"},
	}, do(t, d, batch.Action{}).Result.Headers)
}

// Whatever a target does, an attempt ends within its timeout plus a second.
func TestHostileTargetsAreBounded(t *testing.T) {
	t.Parallel()
	forever := func(w *wire, text string) {
		for w.say(text) {
		}
	}
	slowly := func(w *wire, text string) {
		for w.say(text) {
			timer := time.NewTimer(50 * time.Millisecond)
			<-timer.C
		}
	}
	const chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, tt := range []struct {
		name   string
		script func(w *wire)
		code   batch.ErrorCode // empty: truncated
	}{
		{"status line, byte by byte", func(w *wire) { w.say("HTTP/1.1 200 "); slowly(w, "O") }, batch.CodeTimeout},
		{"headers, byte by byte", func(w *wire) { w.say("HTTP/1.1 200 OK\r\nX-A: "); slowly(w, "a") }, batch.CodeTimeout},
		{"body, byte by byte", func(w *wire) { w.say("HTTP/1.1 200 OK\r\n\r\n"); slowly(w, "a") }, batch.CodeTimeout},
		{"endless body", func(w *wire) { w.say("HTTP/1.1 200 OK\r\n\r\n"); forever(w, strings.Repeat("a", 4096)) }, ""},
		{"endless chunks", func(w *wire) { w.say(chunks); forever(w, "4\r\nabcd\r\n") }, ""},
		{"endless chunk extension", func(w *wire) { w.say(chunks + "4;"); forever(w, strings.Repeat("a", 4096)) }, batch.CodeProtocol},
		{"endless trailers", func(w *wire) { w.say(chunks + "0\r\n"); forever(w, "X-A: "+strings.Repeat("a", 1000)+"\r\n") }, batch.CodeProtocol},
		{"endless informational answers", func(w *wire) { forever(w, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n") }, batch.CodeProtocol},
		{"slow informational answers", func(w *wire) { slowly(w, "HTTP/1.1 102 Processing\r\n\r\n") }, batch.CodeTimeout},
		{"endless headers", func(w *wire) { w.say("HTTP/1.1 200 OK\r\n"); forever(w, "X-A: "+strings.Repeat("a", 1000)+"\r\n") }, batch.CodeProtocol},
		{"endless status line", func(w *wire) { w.say("HTTP/1.1 200 "); forever(w, strings.Repeat("a", 4096)) }, batch.CodeProtocol},
		{"gzip that decodes to nothing", func(w *wire) {
			w.say("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n")
			forever(w, strings.Repeat("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00", 200))
		}, ""},
		{"gzip with an endless name", func(w *wire) {
			w.say("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8b\x08\x08\x00\x00\x00\x00\x00\xff")
			forever(w, strings.Repeat("a", 4096))
		}, ""},
		{"gzip, byte by byte", func(w *wire) {
			w.say("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff\x01\xff\xff\x00\x00")
			slowly(w, "a")
		}, batch.CodeTimeout},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			target := newRawTarget(t, func(w *wire) {
				w.request()
				tt.script(w)
			})
			timeout := time.Minute // where a bound on size ends the attempt
			if tt.code == batch.CodeTimeout {
				timeout = 300 * time.Millisecond
			}
			d := newDispatcher(t, batch.Target{BaseURL: target.url, Timeout: timeout, MaxResponseBody: 64 << 10})
			start := time.Now()
			resp := do(t, d, batch.Action{Method: "POST"})
			require.Less(t, time.Since(start), timeout+20*time.Second)
			if tt.code == "" {
				require.Nil(t, resp.Result.Error)
				require.True(t, resp.Result.Truncated)
				require.Len(t, resp.Result.Body, 64<<10)
				require.Equal(t, strings.HasPrefix(tt.name, "gzip"), resp.Result.Undecoded)
				return
			}
			requireErrored(t, resp, batch.Unknown, tt.code)
			require.False(t, resp.Repeat)
		})
	}
}

// A target that does not read fills the buffers between.
func TestTargetThatDoesNotRead(t *testing.T) {
	t.Parallel()
	done := make(chan struct{})
	target := newRawTarget(t, func(*wire) { <-done })
	t.Cleanup(func() { close(done) })
	d := newDispatcher(t, batch.Target{BaseURL: target.url, Timeout: 300 * time.Millisecond})
	resp := do(t, d, batch.Action{Method: "POST", Body: make([]byte, 32<<20)})
	requireErrored(t, resp, batch.Unknown, batch.CodeTimeout)
	require.Contains(t, resp.Result.Error.Message, "did not take the whole request within 300ms")
	require.Less(t, resp.Result.Duration, 20*time.Second)
}

func TestReadCapped(t *testing.T) {
	t.Parallel()
	errBroken := errors.New("broken")
	for _, limit := range []int64{1, 7, 1 << 10, firstBuffer - 1, firstBuffer, firstBuffer + 1, 300 << 10} {
		for _, delta := range []int64{-1, 0, 1, 5000} {
			for _, announced := range []int64{-1, 0, limit + delta, math.MaxInt64} {
				size := limit + delta
				text := strings.Repeat("x", int(size))
				for name, r := range map[string]io.Reader{
					"whole":    strings.NewReader(text),
					"with EOF": iotest.DataErrReader(strings.NewReader(text)),
					"halves":   iotest.HalfReader(strings.NewReader(text)),
				} {
					kept, truncated, err := readCapped(r, limit, announced)
					require.NoError(t, err)
					require.Equal(t, delta > 0, truncated, "%s: %d of %d", name, size, limit)
					require.Len(t, kept, int(min(size, limit)))
				}
				if delta <= 0 {
					kept, _, err := readCapped(io.MultiReader(strings.NewReader(text), iotest.ErrReader(errBroken)), limit, announced)
					require.ErrorIs(t, err, errBroken)
					require.Len(t, kept, int(size))
				}
			}
		}
	}
}

// A length is a claim. Only what arrives is given memory.
func TestHostileLengthTakesNoMemory(t *testing.T) {
	t.Parallel()
	kept, _, err := readCapped(strings.NewReader("abc"), 256<<20, 256<<20)
	require.NoError(t, err)
	require.LessOrEqual(t, cap(kept), firstBuffer+1)
}
