package dispatch

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// rawTarget is a TCP server that misbehaves by script.
type rawTarget struct {
	url      string
	requests atomic.Int64 // whole requests seen
	conns    atomic.Int64
	listener net.Listener
}

// stopListening refuses further connections. Those that are open stay.
func (r *rawTarget) stopListening() { _ = r.listener.Close() }

// wire is a connection as its script sees it. A script that writes to a client
// that is gone gets an error from say, and returns.
type wire struct {
	net.Conn
	in     *bufio.Reader
	target *rawTarget
	number int64 // of the connection, from 1
}

// request reads one whole request. It is nil when the client has hung up.
func (w *wire) request() *http.Request {
	req, err := http.ReadRequest(w.in)
	if err != nil {
		return nil
	}
	if _, err := io.Copy(io.Discard, req.Body); err != nil {
		return nil
	}
	w.target.requests.Add(1)
	return req
}

func (w *wire) say(text string) bool {
	_, err := io.WriteString(w.Conn, text)
	return err == nil
}

// untilGone returns when the client has closed the connection.
func (w *wire) untilGone() { _, _ = io.Copy(io.Discard, w.in) }

// reset makes the close that follows a RST.
func (w *wire) reset() { _ = w.Conn.(*net.TCPConn).SetLinger(0) }

// newRawTarget serves every connection by the script, and closes it after.
func newRawTarget(t *testing.T, script func(w *wire)) *rawTarget {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	target := &rawTarget{url: "http://" + listener.Addr().String(), listener: listener}
	var (
		mu   sync.Mutex
		open = map[net.Conn]bool{}
		wg   sync.WaitGroup
	)
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[conn] = true
			mu.Unlock()
			number := target.conns.Add(1)
			wg.Go(func() {
				script(&wire{Conn: conn, in: bufio.NewReader(conn), target: target, number: number})
				_ = conn.Close()
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		mu.Lock()
		for conn := range open {
			_ = conn.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return target
}

// nowhere returns the URL of a port that nobody listens on.
func nowhere(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	return "http://" + listener.Addr().String()
}
