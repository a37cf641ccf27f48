package dispatch

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

// A target that answers before it is asked is read like any other.
func TestWhatATargetSaysFirstIsChecked(t *testing.T) {
	t.Parallel()
	check := func(t *testing.T, answer string, want batch.Response) {
		t.Helper()
		everyWay(t, func(t *testing.T, reach func(t *testing.T, script func(w *wire)) (*rawTarget, *Dispatcher)) {
			t.Helper()
			for range 5 { // whether it is read before the request is sent is chance
				target, d := reach(t, func(w *wire) {
					if w.say(answer) {
						w.untilGone()
					}
				})
				resp := do(t, d, batch.Action{Method: "POST", Timeout: 10 * time.Second})
				require.Equal(t, want.Result.Outcome, resp.Result.Outcome)
				require.Equal(t, want.Result.Status, resp.Result.Status)
				require.Equal(t, string(want.Result.Body), string(resp.Result.Body))
				if want.Result.Error != nil {
					require.NotNil(t, resp.Result.Error)
					require.Equal(t, want.Result.Error.Code, resp.Result.Error.Code, resp.Result.Error.Message)
				} else {
					require.Nil(t, resp.Result.Error)
				}
				require.Equal(t, int64(1), target.conns.Load())
				d.Close()
			}
		})
	}
	refused := batch.Response{Result: batch.Result{Outcome: batch.Unknown, Error: &batch.Failure{Code: batch.CodeProtocol}}}
	for name, answer := range map[string]string{
		"a length beside chunks": forbiddenAnswers["a length beside chunks"],
		"HTTP/1.0 with chunks":   forbiddenAnswers["HTTP/1.0 with chunks"],
		"a greeting":             "220 ready\r\n",
		"a body":                 "hi\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			check(t, answer, refused)
		})
	}
	t.Run("an answer", func(t *testing.T) {
		t.Parallel()
		check(t, ok("", "hi"), batch.Response{Result: batch.Result{Outcome: batch.Succeeded, Status: 200, Body: []byte("hi")}})
	})
}

// What comes before the first request waits for it, and is followed as its answer.
func TestWhatComesBeforeTheFirstRequestWaitsForIt(t *testing.T) {
	t.Parallel()
	for _, answer := range []string{ok("", "hi"), forbiddenAnswers["a length beside chunks"]} {
		here, there := net.Pipe()
		c := follow(here)
		go func() {
			_, _ = io.WriteString(there, answer)
			_, _ = io.Copy(io.Discard, there)
		}()
		type read struct {
			n   int
			err error
		}
		done := make(chan read, 1)
		go func() {
			n, err := c.Read(make([]byte, len(answer)))
			done <- read{n, err}
		}()
		untilEarly(t, c)
		require.Empty(t, done, "it was handed out before the request")
		c.(*framedConn).expect(http.MethodPost, false)
		_, err := c.Write([]byte("POST"))
		require.NoError(t, err)
		if got := <-done; answer == ok("", "hi") {
			require.Equal(t, len(answer), got.n)
			require.NoError(t, got.err)
		} else {
			require.Less(t, got.n, strings.Index(answer, "\r\n\r\n")+4, "not the end of the head")
			require.Error(t, c.(*framedConn).fault())
		}
		require.NoError(t, c.Close())
		require.NoError(t, there.Close())
	}
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

// What a target says to a connection that waits for a request, such as that it gives it
// up, is not the answer to one.
func TestAFarewellBeforeTheFirstRequestIsNotItsAnswer(t *testing.T) {
	t.Parallel()
	here, there := net.Pipe()
	c := follow(here)
	done := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 1<<10))
		done <- err
	}()
	_, err := io.WriteString(there, "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
	require.NoError(t, err)
	untilEarly(t, c)
	c.(*framedConn).expect(http.MethodPost, true)
	n, err := c.Write([]byte("POST"))
	require.Zero(t, n, "the transport takes another connection")
	require.Error(t, err)
	require.Error(t, <-done)
	require.NoError(t, c.Close())
	require.NoError(t, there.Close())
}

// A connection that gets no request can be closed.
func TestAConnectionThatIsClosedWaitsForNoRequest(t *testing.T) {
	t.Parallel()
	here, there := net.Pipe()
	c := follow(here)
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
