package dispatch

import (
	"context"
	"fmt"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

// warm answers the first request of the first connection and keeps it alive, and
// does on the second what then says. Every later connection is answered, which a
// replay would be seen by.
func warm(then func(w *wire)) func(w *wire) {
	const answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	return func(w *wire) {
		if w.number > 1 {
			for w.request() != nil {
				w.say(answer)
			}
			return
		}
		w.request()
		w.say(answer)
		then(w)
	}
}

func closeAfterRequest(w *wire) { w.request() }

func resetAfterRequest(w *wire) {
	w.request()
	w.reset()
}

// net/http sends a request with an Idempotency-Key again if a kept-alive
// connection breaks, and a GET too.
func TestOneAttemptIsOneRequest(t *testing.T) {
	t.Parallel()
	keys := map[string][]batch.Field{
		"no key":     nil,
		"key":        {{Name: "Idempotency-Key", Value: "k"}},
		"lower case": {{Name: "idempotency-key", Value: "k"}},
		"x key":      {{Name: "X-IDEMPOTENCY-KEY", Value: "k"}},
	}
	bodies := map[string][]byte{"nil": nil, "empty": {}, "some": []byte("abc")}
	for _, action := range []batch.Action{
		{Method: "POST"},
		{Method: "PATCH"},
		{Method: "PUT"},
		{Method: "DELETE"},
		{Method: "POST", Retry: batch.RetrySafe},
		{Method: "POST", Retry: batch.RetryNever},
		{Method: "GET", Retry: batch.RetryNever},
		{Method: "HEAD", Retry: batch.RetryNever},
		{Method: "OPTIONS", Retry: batch.RetryNever},
	} {
		for keyName, headers := range keys {
			for bodyName, body := range bodies {
				for ending, then := range map[string]func(*wire){"close": closeAfterRequest, "reset": resetAfterRequest} {
					t.Run(fmt.Sprint(action.Method, action.Retry, "/", keyName, "/", bodyName, "/", ending), func(t *testing.T) {
						t.Parallel()
						target := newRawTarget(t, warm(then))
						d := newDispatcher(t, batch.Target{BaseURL: target.url, Concurrency: 1})
						require.Equal(t, 200, do(t, d, batch.Action{}).Result.Status)

						a := action
						a.Headers, a.Body = headers, body
						resp := do(t, d, a)
						require.EqualValues(t, 2, target.requests.Load(), "expected the first request and this one, once")
						require.EqualValues(t, 1, target.conns.Load())
						require.NotNil(t, resp.Result.Error)
						require.Equal(t, batch.CodeReset, resp.Result.Error.Code)
						require.False(t, resp.Unsent)
						require.Equal(t, d.Repeatable("crm", &a), resp.Repeat)
						require.Equal(t, d.Repeatable("crm", &a), resp.Result.Outcome == batch.Errored)
					})
				}
			}
		}
	}
}

// The configured header does not make the transport repeat either: attempts are
// the ledger's.
func TestConfiguredKeyIsNotReplayed(t *testing.T) {
	t.Parallel()
	for _, header := range []string{"Idempotency-Key", "X-Idempotency-Key", "X-Other"} {
		target := newRawTarget(t, warm(closeAfterRequest))
		d := newDispatcher(t, batch.Target{BaseURL: target.url, Concurrency: 1, IdempotencyKeyHeader: header})
		require.Equal(t, 200, do(t, d, batch.Action{}).Result.Status)
		resp := do(t, d, batch.Action{Method: "POST"})
		require.EqualValues(t, 2, target.requests.Load(), header)
		requireErrored(t, resp, batch.Errored, batch.CodeReset)
		require.True(t, resp.Repeat)
	}
}

// dyingIdle returns a target, and a dispatcher whose first connection to it is idle, and
// over which nothing can be written any more, as when the host is gone without a word.
func dyingIdle(t *testing.T) (*rawTarget, *Dispatcher) {
	t.Helper()
	end := make(chan struct{})
	target := newRawTarget(t, warm(func(*wire) { <-end }))
	t.Cleanup(func() { close(end) })
	d := newDispatcher(t, batch.Target{BaseURL: target.url, Concurrency: 1})
	var first net.Conn
	dialWith(d, func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if first == nil {
			first = conn
		}
		return conn, err
	})
	require.Equal(t, 200, do(t, d, batch.Action{}).Result.Status)
	require.NoError(t, first.(*net.TCPConn).CloseWrite())
	return target, d
}

func TestNothingWrittenGoesOverAnotherConnection(t *testing.T) {
	t.Parallel()
	for name, body := range map[string][]byte{"empty": nil, "some": []byte("abc")} {
		target, d := dyingIdle(t)
		resp := do(t, d, batch.Action{Method: "POST", Body: body})
		require.Equal(t, 200, resp.Result.Status, name)
		require.EqualValues(t, 2, target.requests.Load(), name)
		require.EqualValues(t, 2, target.conns.Load(), name)
	}
}

func TestNothingWrittenAndNoOtherConnectionIsUnsent(t *testing.T) {
	t.Parallel()
	target, d := dyingIdle(t)
	target.stopListening()
	resp := do(t, d, batch.Action{Method: "POST", Body: []byte("abc")})
	requireErrored(t, resp, batch.Errored, batch.CodeRefused)
	require.True(t, resp.Unsent)
	require.True(t, resp.Repeat)
}

// A read that was written, and that the transport then wants to replay where
// nobody listens any more, has been sent nevertheless.
func TestReplayedReadWasSent(t *testing.T) {
	t.Parallel()
	target := newRawTarget(t, warm(func(w *wire) {
		w.request()
		w.target.stopListening()
	}))
	d := newDispatcher(t, batch.Target{BaseURL: target.url, Concurrency: 1})
	require.Equal(t, 200, do(t, d, batch.Action{}).Result.Status)
	resp := do(t, d, batch.Action{Method: "GET"})
	require.EqualValues(t, 2, target.requests.Load())
	require.Equal(t, batch.Errored, resp.Result.Outcome)
	require.False(t, resp.Unsent)
	require.True(t, resp.Repeat)
}
