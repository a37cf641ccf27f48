package api

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// running serves the fixture on its own port. Stop ends it and returns the result of
// Run.
func (f *fixture) running(t *testing.T) (addr string, stop func() error) {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() { result <- f.Run(ctx, ln) }()
	t.Cleanup(cancel)
	return ln.Addr().String(), func() error {
		cancel()
		return <-result
	}
}

// stalling returns the API with another stall timeout.
func (f *fixture) stalling(t *testing.T, timeout time.Duration) http.Handler {
	t.Helper()
	engine, err := f.routes()
	require.NoError(t, err)
	return withPace(engine, pace{timeout, 100})
}

func dial(t *testing.T, addr, text string) net.Conn {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	_, err = io.WriteString(conn, text)
	require.NoError(t, err)
	return conn
}

func TestAnUploadThatIsCutLeavesNothing(t *testing.T) {
	t.Parallel()
	lines := strings.Repeat("{\"method\":\"GET\",\"path\":\"/a\"}\n", 100)
	for name, request := range map[string]string{
		// The line that is cut is complete by itself: only the length shows that the
		// body is not.
		"by length": "POST /batch?target=crm HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\nContent-Length: 100000\r\n\r\n" + lines,
		"in chunks": "POST /batch?target=crm HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\nb54\r\n" + lines[:0xb54-28] + lines[:28] + "\r\n",
		"JSON":      "POST /batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n" + two,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			addr, stop := f.running(t)
			conn := dial(t, addr, request)
			require.Eventually(t, func() bool { return f.store.holds() == 1 }, 30*time.Second, time.Millisecond, "the upload has begun")
			require.NoError(t, conn.(*net.TCPConn).CloseWrite())
			answer, err := io.ReadAll(conn)
			require.NoError(t, err)
			require.Contains(t, string(answer), "HTTP/1.1 400 ")
			require.Contains(t, string(answer), "the body ended before it was complete")
			require.NoError(t, stop())
			require.Zero(t, f.store.holds())
		})
	}
}

func TestAnUploadThatStallsIsCut(t *testing.T) {
	t.Parallel()
	f := setup(t)
	srv := httptest.NewServer(f.stalling(t, 100*time.Millisecond))
	defer srv.Close()
	head := "POST /batch?target=crm HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\nContent-Length: 100000\r\n\r\n"
	conn := dial(t, srv.Listener.Addr().String(), head+"{\"method\":\"GET\",\"path\":\"/a\"}\n")
	answer, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Contains(t, string(answer), "HTTP/1.1 408 ")
	require.Contains(t, string(answer), "Connection: close")
	require.Zero(t, f.store.holds())

	// A body that no handler reads does not block the connection either.
	conn = dial(t, srv.Listener.Addr().String(), "POST /nope HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
	answer, err = io.ReadAll(conn)
	require.NoError(t, err)
	require.Contains(t, string(answer), "HTTP/1.1 404 ")
}

func TestASlowUploadIsNotCut(t *testing.T) {
	t.Parallel()
	f := setup(t)
	const timeout = 1500 * time.Millisecond
	srv := httptest.NewServer(f.stalling(t, timeout))
	defer srv.Close()
	start := time.Now()
	reader, writer := io.Pipe()
	go func() {
		defer writer.Close()
		tick := time.NewTicker(timeout / 8)
		defer tick.Stop()
		for range 16 {
			_, _ = io.WriteString(writer, "{\"method\":\"GET\",\"path\":\"/a\"}\n")
			<-tick.C
		}
	}()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL+"/batch?target=crm", reader)
	require.NoError(t, err)
	r.Header.Set("Content-Type", mediaNDJSON)
	// The wait is longer than the timeout: if a deadline were left behind, it would
	// pass and look like a client that hung up.
	r.Header.Set("Prefer", "wait=2")
	res, err := srv.Client().Do(r)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, http.StatusAccepted, res.StatusCode)
	require.Greater(t, time.Since(start), timeout)
	require.NotContains(t, f.log.String(), "wait for a batch failed")
}

func TestReadingPastTheEndLeavesNoDeadline(t *testing.T) {
	t.Parallel()
	const timeout = 100 * time.Millisecond
	srv := httptest.NewServer(withPace(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for range 2 {
			_, _ = io.Copy(io.Discard, r.Body)
		}
		select {
		case <-r.Context().Done(): // as if the client had hung up
			w.WriteHeader(http.StatusTeapot)
		case <-time.After(5 * timeout):
		}
	}), pace{timeout, 100}))
	defer srv.Close()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL, strings.NewReader("x"))
	require.NoError(t, err)
	res, err := srv.Client().Do(r)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, http.StatusOK, res.StatusCode)
}

func TestAReaderThatStallsIsCut(t *testing.T) {
	t.Parallel()
	f := setup(t)
	id := f.completed(t, 5000, 10_000)
	ended := make(chan struct{})
	handler := f.stalling(t, 100*time.Millisecond)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		handler.ServeHTTP(w, r)
	}))
	defer srv.Close()
	dial(t, srv.Listener.Addr().String(), "GET /batch/"+id+"/results HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\n\r\n")
	select {
	case <-ended: // although the client reads nothing
	case <-time.After(10 * time.Second):
		require.Fail(t, "the answer still hangs")
	}
}

func TestRunDrains(t *testing.T) {
	t.Parallel()
	f := setup(t)
	addr, stop := f.running(t)
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()

	waited := make(chan int, 1)
	go func() {
		r, _ := http.NewRequestWithContext(context.Background(), http.MethodPost, "http://"+addr+"/batch", strings.NewReader(two))
		r.Header.Set("Content-Type", mediaJSON)
		r.Header.Set("Prefer", "wait=60")
		res, err := client.Do(r)
		if err != nil {
			waited <- 0
			return
		}
		_ = res.Body.Close()
		waited <- res.StatusCode
	}()
	require.Eventually(t, func() bool { return f.store.watching() == 1 }, 30*time.Second, time.Millisecond)

	stream := dial(t, addr, "GET /batch/batch-1/events HTTP/1.1\r\nHost: x\r\n\r\n")
	lines := bufio.NewScanner(stream)
	for lines.Scan() && lines.Text() != "event: progress" {
		continue
	}
	// A request whose head never arrives does not block the server either.
	dial(t, addr, "GET /batch HTTP/1.1\r\n")

	start := time.Now()
	require.NoError(t, stop())
	require.Less(t, time.Since(start), 15*time.Second)
	require.Equal(t, http.StatusAccepted, <-waited)
	var last string
	for lines.Scan() {
		if lines.Text() != "" {
			last = lines.Text()
		}
	}
	require.NoError(t, lines.Err())
	require.Equal(t, "0", last, "the stream ended properly")
	_, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
	require.Error(t, err)
}

func TestRunDoesNotWaitForEver(t *testing.T) {
	t.Parallel()
	f := setup(t, func(c *Config) { c.DrainTimeout = 100 * time.Millisecond })
	addr, stop := f.running(t)
	dial(t, addr, "POST /batch?target=crm HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\nContent-Length: 1000\r\n\r\n{\"method\":\"GET\",\"path\":\"/a\"}\n")
	require.Eventually(t, func() bool { return f.store.holds() == 1 }, 30*time.Second, time.Millisecond)
	require.ErrorContains(t, stop(), "requests still ran after 100ms")
	require.Eventually(t, func() bool { return f.store.holds() == 0 }, 30*time.Second, time.Millisecond, "the upload was dropped")
}

func TestRunReturnsWhatServingFailedWith(t *testing.T) {
	t.Parallel()
	f := setup(t)
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, ln.Close())
	require.ErrorIs(t, f.Run(t.Context(), ln), net.ErrClosed)
}

// A small body that no handler reads does not cost the connection, and one that has not
// come is never taken for the next request.
func TestAConnectionIsReusedOnlyAfterTheWholeBody(t *testing.T) {
	t.Parallel()
	f := setup(t)
	addr, stop := f.running(t)
	conn := dial(t, addr, "POST /batch/nope/cancel HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
	answers := bufio.NewReader(conn)
	for _, status := range []int{http.StatusNotFound, http.StatusOK} {
		res, err := http.ReadResponse(answers, nil)
		require.NoError(t, err)
		require.Equal(t, status, res.StatusCode)
		require.False(t, res.Close)
		_, err = io.Copy(io.Discard, res.Body)
		require.NoError(t, err)
	}
	conn = dial(t, addr, "POST /batch/nope/cancel HTTP/1.1\r\nHost: x\r\nContent-Length: 200\r\n\r\n")
	answers = bufio.NewReader(conn)
	res, err := http.ReadResponse(answers, nil)
	require.NoError(t, err)
	require.True(t, res.Close)
	_, err = io.Copy(io.Discard, res.Body)
	require.NoError(t, err)
	_, err = io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	_, err = answers.ReadByte()
	require.ErrorIs(t, err, io.EOF, "no second answer")
	require.NoError(t, stop())
}
