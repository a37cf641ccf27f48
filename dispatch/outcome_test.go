package dispatch

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

func TestRepeatableTable(t *testing.T) {
	t.Parallel()
	safe := map[string]bool{"GET": true, "HEAD": true, "OPTIONS": true, "PUT": true, "DELETE": true, "POST": false, "PATCH": false}
	require.Len(t, safe, len(batch.Methods))
	for _, header := range []string{"", "X-Key"} {
		d := newDispatcher(t, batch.Target{BaseURL: "http://h", IdempotencyKeyHeader: header})
		for _, method := range batch.Methods {
			for _, tt := range []struct {
				mode batch.RetryMode
				want bool
			}{
				{batch.RetryAuto, safe[method] || header != ""},
				{batch.RetrySafe, true},
				{batch.RetryNever, false},
			} {
				a := &batch.Action{Method: method, Retry: tt.mode}
				require.Equal(t, tt.want, d.Repeatable("crm", a), "%s %q, header %q", method, tt.mode, header)
			}
		}
		require.False(t, d.Repeatable("other", &batch.Action{Method: "POST"}))
		require.True(t, d.Repeatable("other", &batch.Action{Method: "GET"}))
	}
}

// Every final status, by every method and retry mode, with and without a key.
func TestAnswerTable(t *testing.T) {
	t.Parallel()
	listed := map[int]bool{408: true, 425: true, 429: true, 502: true, 503: true, 504: true}
	for _, header := range []string{"", "X-Key"} {
		d := newDispatcher(t, batch.Target{BaseURL: "http://h", IdempotencyKeyHeader: header})
		for _, method := range batch.Methods {
			for _, mode := range []batch.RetryMode{batch.RetryAuto, batch.RetrySafe, batch.RetryNever} {
				a := &batch.Action{Method: method, Retry: mode}
				safe := mode == batch.RetrySafe || header != "" || method != "POST" && method != "PATCH"
				for status := 200; status < 600; status++ {
					x := &exchange{target: d.targets["crm"], action: a, status: status}
					resp := x.answered(http.Header{"Retry-After": {"3"}}, body{})

					name := fmt.Sprintf("%s %q %d header %q", method, mode, status, header)
					outcome := batch.Succeeded
					if status >= 400 {
						outcome = batch.Failed
					}
					repeat := mode != batch.RetryNever && (status == 429 || status == 503 || listed[status] && safe)
					after := time.Duration(0)
					if repeat || status == 429 || status == 503 {
						after = 3 * time.Second
					}
					require.Equal(t, outcome, resp.Result.Outcome, name)
					require.Equal(t, status, resp.Result.Status, name)
					require.Equal(t, repeat, resp.Repeat, name)
					require.Equal(t, after, resp.After, name)
					require.False(t, resp.Unsent, name)
					require.Nil(t, resp.Result.Error, name)
				}
			}
		}
	}
}

func TestEveryStatusOverTheWire(t *testing.T) {
	t.Parallel()
	target := newRawTarget(t, func(w *wire) {
		for req := w.request(); req != nil; req = w.request() {
			status, _ := strconv.Atoi(strings.TrimPrefix(req.URL.Path, "/"))
			answer := fmt.Sprintf("HTTP/1.1 %03d Whatever\r\n", status)
			switch {
			case status >= 100 && status < 200 && status != 101:
				answer += "\r\nHTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nhi"
			case status == 204 || status == 304:
				answer += "\r\n"
			default:
				answer += "Content-Length: 2\r\n\r\nhi"
			}
			if !w.say(answer) {
				return
			}
		}
	})
	d := newDispatcher(t, batch.Target{BaseURL: target.url})
	for _, method := range []string{"GET", "POST"} {
		for status := 99; status < 600; status++ {
			resp := do(t, d, batch.Action{Method: method, Path: "/" + strconv.Itoa(status)})
			switch {
			case status == 99 || status == 101:
				outcome := batch.Errored
				if method == "POST" {
					outcome = batch.Unknown
				}
				requireErrored(t, resp, outcome, batch.CodeProtocol)
			case status < 200:
				require.Equal(t, 201, resp.Result.Status, "%s %d", method, status)
			default:
				require.Equal(t, status, resp.Result.Status, "%s", method)
				require.Equal(t, status < 400, resp.Result.Outcome == batch.Succeeded)
				require.Equal(t, status >= 400, resp.Result.Outcome == batch.Failed)
			}
		}
	}
}

func TestRedirectIsAnAnswer(t *testing.T) {
	t.Parallel()
	for _, status := range []int{301, 302, 303, 307, 308} {
		target := newRawTarget(t, func(w *wire) {
			for w.request() != nil {
				w.say(fmt.Sprintf("HTTP/1.1 %d Elsewhere\r\nLocation: /other\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n", status))
			}
		})
		d := newDispatcher(t, batch.Target{BaseURL: target.url})
		resp := do(t, d, batch.Action{Method: "POST", Body: []byte("x")})
		require.Equal(t, batch.Succeeded, resp.Result.Outcome)
		require.Equal(t, status, resp.Result.Status)
		require.Contains(t, resp.Result.Headers, batch.Field{Name: "location", Value: "/other"})
		require.EqualValues(t, 1, target.requests.Load())
	}
}

// What is sent, and what the answer is missing, decide between errored and
// unknown. Every row is run by a GET, a POST, and a POST and a GET that must not
// be repeated.
func TestNoAnswerTable(t *testing.T) {
	t.Parallel()
	sent := func(w *wire) { w.request() }
	knowsNothing := &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("no name server")
	}}
	for _, tt := range []struct {
		name   string
		script func(w *wire) // nil: nobody listens
		base   string
		code   batch.ErrorCode
		unsent bool
		repeat bool   // also of an unsent POST
		seen   string // of a body, behind the status 200
	}{
		{name: "nobody listens", code: batch.CodeRefused, unsent: true, repeat: true},
		{name: "no such name", base: "http://crm.invalid", code: batch.CodeDNS, unsent: true, repeat: true},
		{name: "hangs up in the handshake", script: func(w *wire) { _, _ = w.in.ReadByte() }, base: "https", code: batch.CodeTLS, unsent: true, repeat: true},
		{name: "speaks HTTP to TLS", script: func(w *wire) { w.say("HTTP/1.1 400 Bad\r\n\r\n"); w.untilGone() }, base: "https", code: batch.CodeTLS, unsent: true, repeat: true},
		{name: "never shakes hands", script: func(w *wire) { w.untilGone() }, base: "https", code: batch.CodeTimeout, unsent: true, repeat: true},
		{name: "hangs up", script: sent, code: batch.CodeReset},
		{name: "resets", script: func(w *wire) { w.request(); w.reset() }, code: batch.CodeReset},
		{name: "never answers", script: func(w *wire) { w.request(); w.untilGone() }, code: batch.CodeTimeout},
		{name: "says 1xx and no more", script: func(w *wire) { w.request(); w.say("HTTP/1.1 103 Early Hints\r\n\r\n"); w.untilGone() }, code: batch.CodeTimeout},
		{name: "speaks something else", script: func(w *wire) { w.request(); w.say("220 ESMTP ready, token hunter2\r\n") }, code: batch.CodeProtocol},
		{name: "breaks off in the headers", script: func(w *wire) { w.request(); w.say("HTTP/1.1 200 OK\r\nX-A: b") }, code: batch.CodeReset},
		{name: "breaks off in the body", script: func(w *wire) { w.request(); w.say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc") }, code: batch.CodeReset, seen: "abc"},
		{name: "resets in the body", script: func(w *wire) {
			w.request()
			w.say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
			w.reset()
		}, code: batch.CodeReset, seen: "abc"},
		{name: "breaks its chunks", script: func(w *wire) {
			w.request()
			w.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nhunter2\r\n")
			w.untilGone()
		}, code: batch.CodeProtocol, seen: "abc"},
		{name: "stops in the body", script: func(w *wire) {
			w.request()
			w.say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
			w.untilGone()
		}, code: batch.CodeTimeout, seen: "abc"},
		{name: "switches protocols", script: func(w *wire) {
			w.request()
			w.say("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
			w.untilGone()
		}, code: batch.CodeProtocol},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			base := tt.base
			if tt.script != nil {
				target := newRawTarget(t, tt.script)
				base = cmp.Or(tt.base, "http") + strings.TrimPrefix(target.url, "http")
			} else if base == "" {
				base = nowhere(t)
			}
			d := newDispatcher(t, batch.Target{BaseURL: base})
			dialWith(d, func(ctx context.Context, network, addr string) (net.Conn, error) {
				return (&net.Dialer{Resolver: knowsNothing}).DialContext(dialing(ctx), network, addr)
			})
			timeout := time.Minute
			if tt.code == batch.CodeTimeout {
				timeout = 300 * time.Millisecond
			}
			for _, sub := range []struct {
				method  string
				mode    batch.RetryMode
				outcome batch.Outcome
				repeat  bool
			}{
				{"GET", batch.RetryAuto, batch.Errored, true},
				{"POST", batch.RetryAuto, batch.Unknown, false},
				{"POST", batch.RetrySafe, batch.Errored, true},
				{"PATCH", batch.RetryNever, batch.Unknown, false},
				{"GET", batch.RetryNever, batch.Unknown, false},
			} {
				if tt.unsent {
					sub.outcome, sub.repeat = batch.Errored, tt.repeat && sub.mode != batch.RetryNever
				}
				resp := do(t, d, batch.Action{
					Method: sub.method, Retry: sub.mode, Query: "token=hunter2", Timeout: timeout,
					Headers: []batch.Field{{Name: "Authorization", Value: "hunter2"}}, Body: []byte("hunter2"),
				})
				requireErrored(t, resp, sub.outcome, tt.code)
				require.Equal(t, tt.unsent, resp.Unsent)
				require.Equal(t, sub.repeat, resp.Repeat, "%s %q", sub.method, sub.mode)
				require.NotContains(t, resp.Result.Error.Message, "hunter2")
				require.Equal(t, sub.outcome == batch.Unknown, strings.Contains(resp.Result.Error.Message, "the request was sent"))
				require.Equal(t, tt.seen, string(resp.Result.Body))
				require.Equal(t, tt.seen != "", resp.Result.Status == 200)
				require.Less(t, resp.Result.Duration, timeout+20*time.Second)
			}
		})
	}
}

func TestCertificateErrorsAreFinal(t *testing.T) {
	t.Parallel()
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	_, port, err := net.SplitHostPort(srv.Listener.Addr().String())
	require.NoError(t, err)

	unknownRoot := newDispatcher(t, batch.Target{BaseURL: srv.URL})
	wrongName := trusting(newDispatcher(t, batch.Target{BaseURL: "https://localhost:" + port}), srv)
	for _, d := range []*Dispatcher{unknownRoot, wrongName} {
		resp := do(t, d, batch.Action{Method: "GET"})
		requireErrored(t, resp, batch.Errored, batch.CodeTLS)
		require.Contains(t, resp.Result.Error.Message, "certificate")
		require.True(t, resp.Unsent)
		require.False(t, resp.Repeat)
	}
}

// With TLS 1.3 a client learns only after its first bytes that its certificate
// was missed.
func TestAlertAfterTheHandshakeIsTLS(t *testing.T) {
	t.Parallel()
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	d := trusting(newDispatcher(t, batch.Target{BaseURL: srv.URL}), srv)
	resp := do(t, d, batch.Action{Method: "POST"})
	requireErrored(t, resp, batch.Unknown, batch.CodeTLS)
}

func TestHTTP2(t *testing.T) {
	t.Parallel()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/hang":
			<-r.Context().Done()
		case "/abort":
			panic(http.ErrAbortHandler)
		case "/cut":
			w.Header().Set("Content-Length", "9")
			_, _ = w.Write([]byte("abc"))
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		case "/endless":
			for block := make([]byte, 1<<10); ; {
				if _, err := w.Write(block); err != nil {
					return
				}
			}
		default:
			_, _ = fmt.Fprintf(w, "%s %d %s", r.Proto, r.ContentLength, r.Header["Idempotency-Key"])
		}
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	d := trusting(newDispatcher(t, batch.Target{BaseURL: srv.URL, MaxResponseBody: 4 << 10}), srv)

	key := []batch.Field{{Name: "Idempotency-Key", Value: "k"}}
	resp := do(t, d, batch.Action{Method: "POST", Body: []byte("abc"), Headers: key})
	require.Equal(t, "HTTP/2.0 3 [k]", string(resp.Result.Body))
	resp = do(t, d, batch.Action{Method: "GET"})
	require.Equal(t, "HTTP/2.0 0 []", string(resp.Result.Body))
	resp = do(t, d, batch.Action{Method: "GET", Retry: batch.RetryNever})
	require.Equal(t, 200, resp.Result.Status)

	requireErrored(t, do(t, d, batch.Action{Method: "POST", Path: "/abort"}), batch.Unknown, batch.CodeReset)
	requireErrored(t, do(t, d, batch.Action{Method: "POST", Path: "/cut"}), batch.Unknown, batch.CodeReset)
	requireErrored(t, do(t, d, batch.Action{Method: "POST", Path: "/hang", Timeout: 300 * time.Millisecond}), batch.Unknown, batch.CodeTimeout)
	requireErrored(t, do(t, d, batch.Action{Method: "GET", Path: "/hang", Timeout: 300 * time.Millisecond}), batch.Errored, batch.CodeTimeout)
	resp = do(t, d, batch.Action{Method: "GET", Path: "/endless"})
	require.True(t, resp.Result.Truncated)
	require.Len(t, resp.Result.Body, 4<<10)
}

func TestInterruption(t *testing.T) {
	t.Parallel()
	run := func(ctx context.Context, url, method string) *batch.Response {
		d := newDispatcher(t, batch.Target{BaseURL: url})
		return d.Do(ctx, &batch.Request{Target: "crm", Action: &batch.Action{Method: method, Path: "/"}})
	}

	t.Run("before it is sent", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("drained for an upgrade"))
		resp := run(ctx, nowhere(t), "POST")
		requireErrored(t, resp, batch.Errored, batch.CodeInterrupted)
		require.Contains(t, resp.Result.Error.Message, "before the request was sent: drained for an upgrade")
		require.True(t, resp.Unsent)
		require.True(t, resp.Repeat)
	})
	for method, outcome := range map[string]batch.Outcome{"POST": batch.Unknown, "GET": batch.Errored} {
		for name, answer := range map[string]string{"no answer": "", "half an answer": "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"} {
			t.Run(method+", "+name, func(t *testing.T) {
				t.Parallel()
				ctx, cancel := context.WithCancelCause(t.Context())
				target := newRawTarget(t, func(w *wire) {
					w.request()
					w.say(answer)
					cancel(context.DeadlineExceeded) // the caller's, not the attempt's
					w.untilGone()
				})
				resp := run(ctx, target.url, method)
				requireErrored(t, resp, outcome, batch.CodeInterrupted)
				require.False(t, resp.Unsent)
				require.Equal(t, outcome == batch.Errored, resp.Repeat)
			})
		}
	}
}

// What can't be brought about over a loopback.
func TestExplanations(t *testing.T) {
	t.Parallel()
	lost := &net.OpError{Op: "read", Net: "tcp", Err: syscall.ETIMEDOUT}
	dial := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.EHOSTUNREACH}
	slow := &net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded}
	d := newDispatcher(t, batch.Target{BaseURL: "http://h"})
	for _, tt := range []struct {
		at      phase
		err     error
		code    batch.ErrorCode
		message string
	}{
		{connecting, dial, batch.CodeRefused, "no connection could be made: dial tcp: no route to host"},
		{connecting, slow, batch.CodeTimeout, "no connection could be made within 10s"},
		{connecting, syscall.ETIMEDOUT, batch.CodeTimeout, "no connection could be made within 10s"},
		{securing, os.ErrDeadlineExceeded, batch.CodeTimeout, "the TLS handshake did not end within 10s"},
		{resolving, &net.DNSError{Err: "i/o timeout\n", Name: "crm", IsTimeout: true}, batch.CodeDNS, `the name "crm" did not resolve: i/o timeout `},
		// The clock of connections may be a moment ahead.
		{awaiting, &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}, batch.CodeTimeout, "no answer within 1m0s"},
		// The connection was lost under an answer that the attempt still had time for.
		{awaiting, lost, batch.CodeReset, "the connection broke before an answer came"},
		{reading, lost, batch.CodeReset, "the connection broke before the answer (status 200) was whole"},
		{awaiting, errors.New("http2: client connection lost"), batch.CodeReset, "the connection broke before an answer came"},
		{connecting, errors.New(strings.Repeat("é", 1000)), batch.CodeRefused, "no connection could be made: " + strings.Repeat("é", 150) + "…"},
	} {
		x := &exchange{target: d.targets["crm"], action: &batch.Action{Method: "GET"}, timeout: time.Minute, until: time.Now().Add(time.Minute), status: 200, protoMajor: 1}
		code, message := x.explain(t.Context(), tt.at, tt.err)
		require.Equal(t, tt.code, code, message)
		require.Contains(t, message, tt.message)
	}
}

func TestWaitingForAConnectionIsUnsent(t *testing.T) {
	t.Parallel()
	arrived := make(chan struct{})
	target := newRawTarget(t, func(w *wire) {
		w.request()
		close(arrived)
		w.untilGone()
	})
	d := newDispatcher(t, batch.Target{BaseURL: target.url, Concurrency: 1})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.Do(ctx, &batch.Request{Target: "crm", Action: &batch.Action{Method: "GET", Path: "/"}})
	}()
	<-arrived
	resp := do(t, d, batch.Action{Method: "POST", Timeout: 50 * time.Millisecond})
	cancel()
	<-done
	requireErrored(t, resp, batch.Errored, batch.CodeTimeout)
	require.Contains(t, resp.Result.Error.Message, "none of its 1 connections")
	require.True(t, resp.Unsent)
	require.True(t, resp.Repeat)
}
