package api

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// pipes is a listener without a network, for a bubble.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func newPipes() *pipes { return &pipes{make(chan net.Conn), make(chan struct{})} }

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Close() error   { close(l.closed); return nil }
func (l *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (l *pipes) dial() net.Conn {
	client, server := net.Pipe()
	l.conns <- server
	return client
}

// paced runs a client of the API in a bubble.
func paced(t *testing.T, client func(t *testing.T, f *fixture, conn net.Conn)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := setup(t)
		ln := newPipes()
		srv := &http.Server{Handler: f.Handler(), ReadHeaderTimeout: time.Hour}
		done := make(chan error, 1)
		go func() { done <- srv.Serve(ln) }()
		conn := ln.dial()
		client(t, f, conn)
		require.NoError(t, conn.Close())
		require.NoError(t, srv.Close())
		<-done
		synctest.Wait()
		require.Zero(t, f.memory.inUse())
	})
}

const uploadHead = "POST /batch?target=crm HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\nContent-Length: 100000\r\n\r\n"

func TestAClientThatSendsHardlyAnythingIsCut(t *testing.T) {
	t.Parallel()
	for every, bytes := range map[time.Duration]int{29 * time.Second: 1, time.Second: 200, 10 * time.Millisecond: 1} {
		paced(t, func(t *testing.T, f *fixture, conn net.Conn) {
			t.Helper()
			start := time.Now()
			_, err := io.WriteString(conn, uploadHead)
			require.NoError(t, err)
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				for {
					time.Sleep(every)
					if _, err := io.WriteString(conn, strings.Repeat(" ", bytes)); err != nil {
						return
					}
				}
			}()
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			require.NoError(t, err)
			require.Equal(t, http.StatusRequestTimeout, res.StatusCode)
			require.True(t, res.Close)
			require.LessOrEqual(t, time.Since(start), 5*time.Minute, "%d bytes every %s", bytes, every)
			require.GreaterOrEqual(t, time.Since(start), 30*time.Second)
			require.NoError(t, conn.Close())
			<-ended
		})
	}
}

// Bytes that came in time make up for a pause of less than the window.
func TestAClientThatPausesIsNotCut(t *testing.T) {
	t.Parallel()
	paced(t, func(t *testing.T, f *fixture, conn net.Conn) {
		t.Helper()
		line := `{"method":"GET","path":"/a"}`
		body := line + strings.Repeat(" ", 100_000-len(line))
		_, err := io.WriteString(conn, uploadHead)
		require.NoError(t, err)
		for len(body) > 0 {
			time.Sleep(29 * time.Second)
			n := min(10_000, len(body))
			_, err := io.WriteString(conn, body[:n])
			require.NoError(t, err)
			body = body[n:]
		}
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err)
		require.Equal(t, http.StatusAccepted, res.StatusCode)
	})
}

func TestAClientThatTakesHardlyAnythingIsCut(t *testing.T) {
	t.Parallel()
	paced(t, func(t *testing.T, f *fixture, conn net.Conn) {
		t.Helper()
		id := f.completed(t, 500, 10_000)
		start := time.Now()
		_, err := io.WriteString(conn, "GET /batch/"+id+"/results HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\n\r\n")
		require.NoError(t, err)
		one := make([]byte, 1000)
		for err == nil {
			time.Sleep(25 * time.Second)
			_, err = conn.Read(one)
		}
		require.Less(t, time.Since(start), 20*time.Minute)
	})
}
