package dispatch

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

// portioned is a connection whose reads return a few bytes at most. It says when it is
// read from, or closed.
type portioned struct {
	*net.TCPConn

	size int
	read func()
}

func (p *portioned) Read(b []byte) (int, error) {
	p.read()
	return p.TCPConn.Read(b[:min(len(b), p.size)])
}

func (p *portioned) Close() error {
	p.read()
	return p.TCPConn.Close()
}

// inPortions returns what becomes of an action whose answer comes in portions.
func inPortions(t *testing.T, transport bool, method, answer string, size int) *batch.Response {
	t.Helper()
	more := make(chan struct{})
	var once sync.Once
	target := newRawTarget(t, func(w *wire) {
		// The first portion is read by another call than the rest, which is to wait for it.
		if w.request() == nil || !w.say(answer[:min(size, len(answer))]) {
			return
		}
		<-more
		if w.say(answer[min(size, len(answer)):]) {
			_ = w.Conn.(*net.TCPConn).CloseWrite()
			w.untilGone()
		}
	})
	d, err := New(Config{Targets: []batch.Target{{Name: "crm", BaseURL: target.url}}})
	require.NoError(t, err)
	t.Cleanup(d.Close)
	if transport {
		overTransport(t, d)
	}
	dialWith(d, func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &portioned{conn.(*net.TCPConn), size, func() { once.Do(func() { close(more) }) }}, nil
	})
	resp := do(t, d, batch.Action{Method: method, Timeout: 30 * time.Second})
	require.Equal(t, int64(1), target.requests.Load(), "one attempt is one request")
	if failure := resp.Result.Error; failure != nil && failure.Code == batch.CodeProtocol {
		failure.Message = "" // net/http may notice it first
	}
	resp.Result.StartedAt, resp.Result.Duration = time.Time{}, 0
	return resp
}

func TestBothCarriersReadTheSameInAnyPortions(t *testing.T) {
	t.Parallel()
	answers := map[string]string{
		"a length":                "HTTP/1.1 200 OK\r\nX-A: b\r\nContent-Length: 2\r\n\r\nhi",
		"chunks and trailers":     chunkedHead + "1;a=b\r\nh\r\n01\r\ni\r\n0\r\nX-A: b\r\nX-C: d\r\n\r\n",
		"line ends of LF":         "HTTP/1.1 200 OK\nContent-Length: 2\n\nhi",
		"a folded coding":         "HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
		"until the end":           "HTTP/1.1 200 OK\r\n\r\nhi",
		"until the end, 1.0":      "HTTP/1.0 404 Not Found\r\n\r\nhi",
		"no body":                 "HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n",
		"304":                     "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
		"informational answers":   "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + ok("", "hi"),
		"more behind it":          ok("", "hi") + ok("", "evil"),
		"a body that breaks off":  "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi",
		"a chunk that breaks off": chunkedHead + "9\r\nhi",
		"chunks without an end":   chunkedHead + "2\r\nhi\r\n",
		"trailers without an end": chunkedHead + "2\r\nhi\r\n0\r\nX-A: b\r\n",
		"a head that breaks off":  "HTTP/1.1 200 OK\r\nContent-Le",
		"a busy target":           "HTTP/1.1 503 Busy\r\nRetry-After: 3\r\nContent-Length: 2\r\n\r\nhi",
	}
	for name, answer := range forbiddenAnswers {
		answers["refused: "+name] = answer
	}
	for name, body := range forbiddenBodies {
		if len(body) < 1<<10 {
			answers["refused body: "+name] = chunkedHead + body
		}
	}
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, method := range []string{"POST", "GET"} {
				want := inPortions(t, false, method, answer, len(answer))
				if strings.HasPrefix(name, "refused") {
					require.NotNil(t, want.Result.Error)
					require.Equal(t, batch.CodeProtocol, want.Result.Error.Code)
				}
				for _, size := range []int{1, 3, len(answer)} {
					require.Equal(t, want, inPortions(t, false, method, answer, size), "%s directly, by %d", method, size)
					require.Equal(t, want, inPortions(t, true, method, answer, size), "%s by the transport, by %d", method, size)
				}
			}
		})
	}
}
