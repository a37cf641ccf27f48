package dispatch

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

// What a target sends before it is asked is no answer (RFC 9112 §9.2). If it is noticed before a
// byte of the request is written, nothing is sent.
func TestWhatATargetSaysBeforeItIsAskedIsNoAnswer(t *testing.T) {
	t.Parallel()
	for name, early := range map[string]string{
		"an answer":              ok("", "hi"),
		"that it is busy":        "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbusy",
		"a length beside chunks": forbiddenAnswers["a length beside chunks"],
		"a greeting":             "220 ready\r\n",
		"a line end":             "\r\n",
		"a byte":                 "H",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			everyWay(t, func(t *testing.T, reach func(t *testing.T, script func(w *wire)) (*rawTarget, *Dispatcher)) {
				t.Helper()
				said, read := make(chan bool, 1), make(chan int64, 1)
				_, d := reach(t, func(w *wire) {
					w.say(early)
					said <- true
					n, _ := io.Copy(io.Discard, w.in)
					read <- n
				})
				for tries := 0; ; tries++ {
					before := unexpected(t, d)
					ctx, cancel := context.WithCancel(t.Context())
					resp := d.Do(ctx, &batch.Request{
						Target: "crm", Action: &batch.Action{Method: "POST", Path: "/", Timeout: 10 * time.Second},
						Ready: func(context.Context) error {
							<-said
							time.Sleep(time.Duration(tries) * time.Millisecond) // another goroutine may have to notice it
							time.AfterFunc(100*time.Millisecond, cancel)        // a line end is no answer either
							return nil
						},
					})
					cancel()
					if unexpected(t, d) == before { // it was noticed after the request
						d.targets["crm"].suspicion.drop() // the connection may be idle by now
						<-read
						continue
					}
					requireErrored(t, resp, batch.Errored, batch.CodeProtocol)
					require.Contains(t, resp.Result.Error.Message, "it sent bytes before it was asked")
					require.True(t, resp.Unsent)
					require.True(t, resp.Repeat)
					require.Zero(t, <-read, "nothing is sent over it, and it is closed")
					require.True(t, d.targets["crm"].suspicion.active())
					return
				}
			})
		})
	}
}

// What comes before the first request is held back, and is not its answer.
func TestWhatComesBeforeTheFirstRequestIsHeldBack(t *testing.T) {
	t.Parallel()
	here, there := net.Pipe()
	c := follow(here, nil)
	go func() {
		_, _ = io.WriteString(there, ok("", "hi"))
		_, _ = io.Copy(io.Discard, there)
	}()
	done := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 1<<10))
		done <- err
	}()
	untilEarly(t, c)
	require.Empty(t, done, "it was handed out")
	require.False(t, c.(*framedConn).expect(http.MethodPost, nil))
	n, err := c.Write([]byte("POST"))
	require.Zero(t, n)
	require.Error(t, err)
	require.ErrorIs(t, <-done, errEarly)
	require.NoError(t, c.Close())
	require.NoError(t, there.Close())
}

// untilEarly returns when something has come before the first request.
func untilEarly(t *testing.T, c net.Conn) {
	t.Helper()
	framed := c.(*framedConn)
	require.Eventually(t, func() bool {
		framed.mu.Lock()
		defer framed.mu.Unlock()
		return framed.early
	}, 30*time.Second, time.Millisecond)
}

// A connection that gets no request can be closed.
func TestAConnectionThatIsClosedWaitsForNoRequest(t *testing.T) {
	t.Parallel()
	here, there := net.Pipe()
	c := follow(here, nil)
	done := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 9))
		done <- err
	}()
	_, err := io.WriteString(there, "220 ready")
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.Error(t, <-done)
	require.NoError(t, there.Close())
}
