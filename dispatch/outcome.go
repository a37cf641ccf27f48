package dispatch

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/batchd/batchd/internal/batch"
)

// phase is how far an exchange got.
type phase int32

const (
	waiting    phase = iota // for one of the target's connections to be free
	resolving               // the host's name
	connecting              // TCP
	securing                // the TLS handshake
	sending                 // from here on, bytes of the request may have reached the target
	awaiting                // the whole request is written
	answering               // a first byte of the answer came
	reading                 // status and headers are in
)

// exchange is one attempt while it runs.
type exchange struct {
	target  *target
	owner   string
	action  *batch.Action
	timeout time.Duration
	until   time.Time     // the deadline that follows from it
	ahead   time.Duration // by which the ledger's clock is ahead of this process's
	phase   atomic.Int32  // other goroutines set it, too

	whenReady func(ctx context.Context) error // or nil, see [batch.Request]
	extend    func(time.Duration)             // sets the time left for the transport's exchange
	abandon   func()                          // ends it
	withheld  atomic.Bool                     // the request was not ready, so nothing is written, whatever a hook reports
	refused   atomic.Bool                     // the same of the present connection, which cannot take the request

	conn       *framedConn   // the transport's, unless it speaks HTTP/2
	unwritten  *atomic.Int64 // bytes of a long body that the transport has not read, or nil
	status     int           // once reading
	protoMajor int           // once reading
}

func (x *exchange) at() phase { return phase(x.phase.Load()) }

// advance records that the exchange has reached the phase p. A dial that goes on after
// another connection came free does not set an earlier phase.
func (x *exchange) advance(p phase) {
	for !x.withheld.Load() {
		old := x.phase.Load()
		if old >= int32(p) || x.phase.CompareAndSwap(old, int32(p)) {
			return
		}
	}
}

// over reports whether the deadline of the exchange has passed.
func (x *exchange) over() bool { return !time.Now().Before(x.until) }

// traced returns a context with which the transport reports its progress.
func (x *exchange) traced(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(context.WithValue(ctx, exchangeKey{}, x), &httptrace.ClientTrace{
		GetConn: func(string) {
			// The transport asks for a second connection only if nothing was
			// written to the first, or if its peer declared the request
			// unprocessed (RFC 9113 §8.7). It replays reads more freely.
			if !isRead(x.action.Method) {
				x.phase.Store(int32(waiting))
			}
		},
		TLSHandshakeStart: func() { x.advance(securing) },
		GotConn:           func(info httptrace.GotConnInfo) { x.gotConn(ctx, info) },
		WroteRequest: func(info httptrace.WroteRequestInfo) {
			if info.Err == nil && !x.refused.Load() {
				x.advance(awaiting)
			}
		},
		GotFirstResponseByte: func() { x.advance(answering) },
	})
}

// ready returns when the request may be written, and starts its timeout.
func (x *exchange) ready(ctx context.Context) error {
	if x.whenReady == nil {
		return nil
	}
	if err := x.whenReady(ctx); err != nil {
		return err
	}
	x.until = time.Now().Add(x.timeout)
	if x.extend != nil {
		x.extend(x.timeout)
	}
	return nil
}

// limited returns a context that ends with the exchange's time.
func (x *exchange) limited(ctx context.Context) (context.Context, context.CancelFunc) {
	if x.whenReady == nil {
		return context.WithDeadline(ctx, x.until)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(time.Until(x.until), func() { cancel(context.DeadlineExceeded) })
	x.extend = func(d time.Duration) { timer.Reset(d) }
	x.abandon = func() { cancel(context.Canceled) }
	return ctx, func() {
		timer.Stop()
		cancel(context.Canceled)
	}
}

// gotConn is called by the transport in the goroutine of its caller, before it writes to the
// connection. It looks at the context only then.
func (x *exchange) gotConn(ctx context.Context, info httptrace.GotConnInfo) {
	if !x.withheld.Load() && x.ready(ctx) == nil {
		x.conn, _ = info.Conn.(*framedConn)
		x.refused.Store(x.conn != nil && !x.conn.expect(x.action.Method, x.unwritten))
		if !x.refused.Load() {
			x.advance(sending)
		}
		return
	}
	// The transport may still write the request into its own buffer, and calls WroteRequest then.
	x.withheld.Store(true)
	x.abandon()
	if secure, ok := info.Conn.(*tls.Conn); !ok || secure.ConnectionState().NegotiatedProtocol != "h2" {
		_ = info.Conn.Close() // one of HTTP/1.1 would be written to all the same
	}
}

type exchangeKey struct{}

// dialing returns a context with which a dialer reports its progress to an exchange. Only
// exchanges that dial need it: its hooks cost more than those of traced.
func dialing(ctx context.Context) context.Context {
	x, ok := ctx.Value(exchangeKey{}).(*exchange)
	if !ok {
		return ctx
	}
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		DNSStart:     func(httptrace.DNSStartInfo) { x.advance(resolving) },
		ConnectStart: func(string, string) { x.advance(connecting) },
	})
}

// Repeatable reports whether the action may be sent again although an earlier
// request may have reached the target. It implements [batch.Dispatcher].
func (d *Dispatcher) Repeatable(name string, a *batch.Action) bool {
	t := d.targets[name]
	return repeatable(a, t != nil && t.IdempotencyKeyHeader != "")
}

func repeatable(a *batch.Action, keyed bool) bool {
	switch a.Retry {
	case batch.RetryNever:
		return false
	case batch.RetrySafe:
		return true
	case batch.RetryAuto:
	}
	switch a.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPut, http.MethodDelete:
		return true
	}
	return keyed
}

func (x *exchange) repeatable() bool {
	return repeatable(x.action, x.target.IdempotencyKeyHeader != "")
}

// answered returns the response for a whole answer.
func (x *exchange) answered(header http.Header, b body) *batch.Response {
	resp := &batch.Response{
		Result: batch.Result{
			Outcome:   batch.Succeeded,
			Status:    x.status,
			Headers:   resultHeaders(header, b.decoded),
			Body:      b.bytes,
			Truncated: b.truncated,
			Undecoded: b.undecoded,
		},
		Repeat: x.askedAgain(),
	}
	if x.status >= http.StatusBadRequest {
		resp.Result.Outcome = batch.Failed
	}
	now := time.Now().Add(x.ahead)
	if resp.Repeat || busy(x.status) {
		resp.After = retryAfter(header, now)
	}
	if resp.After == 0 { // Retry-After is the more precise one
		resp.After = quotaAfter(header, now)
	}
	return resp
}

// busy reports whether a status means that the target did nothing and asks for
// another attempt later.
func busy(status int) bool {
	return status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable
}

// askedAgain reports whether policy allows another attempt after an answer with
// that status. 429 and 503 mean that the target did nothing.
func (x *exchange) askedAgain() bool {
	switch {
	case x.action.Retry == batch.RetryNever:
		return false
	case busy(x.status):
		return true
	}
	return slices.Contains(x.target.Retry.Statuses, x.status) && x.repeatable()
}

// brokenOff returns the response if status and headers were read, but not all of the
// body. The part that was read is kept, and the policy for the status applies. A status
// of 400 or more is a sufficient answer. With a lower one the rest of the body may matter: the
// action is sent again if that is safe; otherwise its outcome is unknown, with a status
// that shows that the action probably took effect.
func (x *exchange) brokenOff(ctx context.Context, header http.Header, b body, err error) *batch.Response {
	code, message := x.explain(ctx, reading, err)
	resp := x.answered(header, b)
	resp.Result.Truncated = true
	interrupted := code == batch.CodeInterrupted && x.repeatable()
	switch {
	case x.status >= http.StatusBadRequest && !interrupted:
		return resp
	case x.repeatable():
		resp.Result.Outcome, resp.Repeat = batch.Errored, true
	default:
		resp.Result.Outcome = batch.Unknown
		message += "; the request was sent, and is not safe to send again"
	}
	resp.Result.Error = &batch.Failure{Code: code, Message: fmt.Sprintf("target %q: %s", x.target.Name, message)}
	return resp
}

// unanswered returns the response if no status was read.
func (x *exchange) unanswered(ctx context.Context, err error) *batch.Response {
	p := x.at()
	code, message := x.explain(ctx, p, err)
	resp := &batch.Response{Unsent: p < sending}
	switch {
	case resp.Unsent:
		resp.Result.Outcome = batch.Errored
		resp.Repeat = x.action.Retry != batch.RetryNever && !isCertificate(err)
	case x.repeatable():
		resp.Result.Outcome = batch.Errored
		resp.Repeat = true
	default:
		resp.Result.Outcome = batch.Unknown
		message += "; the request was sent and its answer not seen, so whether it took effect is not known"
	}
	resp.Result.Error = &batch.Failure{Code: code, Message: fmt.Sprintf("target %q: %s", x.target.Name, message)}
	return resp
}

// blocked returns the response to an action that is never sent.
func blocked(target, detail string) *batch.Response {
	return &batch.Response{
		Result: batch.Result{
			Outcome: batch.Errored,
			Error:   &batch.Failure{Code: batch.CodeBlocked, Message: fmt.Sprintf("target %q: not sent: %s", target, detail)},
		},
		Unsent: true,
	}
}

// explain returns the code of an error and a message for people. Errors of a dial
// or a handshake name addresses and certificates, and are quoted. Later errors may
// contain bytes of the target, and are not quoted.
func (x *exchange) explain(ctx context.Context, p phase, err error) (batch.ErrorCode, string) {
	if cause := context.Cause(ctx); cause != nil {
		return batch.CodeInterrupted, interrupted(p, cause)
	}
	if x.over() || p >= sending && errors.Is(err, os.ErrDeadlineExceeded) { // it may come a moment early
		return batch.CodeTimeout, x.late(p, x.timeout)
	}
	if failed, ok := errors.AsType[*answerError](err); ok {
		return failed.code, failed.message
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return batch.CodeDNS, fmt.Sprintf("the name %q did not resolve: %s", dns.Name, quote(dns.Err))
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() && p < sending {
		return batch.CodeTimeout, x.late(p, min(x.timeout, connectTimeout))
	}
	switch {
	case isCertificate(err):
		return batch.CodeTLS, "its certificate is not trusted: " + quote(err.Error())
	case p == securing || isAlert(err):
		return batch.CodeTLS, "the TLS handshake failed: " + quote(err.Error())
	case p < sending:
		return batch.CodeRefused, "no connection could be made: " + quote(err.Error())
	case p == reading && (isBroken(err) || x.protoMajor > 1):
		return batch.CodeReset, fmt.Sprintf("the connection broke before the answer (status %d) was whole", x.status)
	case p == reading:
		return batch.CodeProtocol, fmt.Sprintf("the body of its answer (status %d) breaks the rules of HTTP", x.status)
	case p == answering && !isBroken(err):
		return batch.CodeProtocol, fmt.Sprintf("its answer is not HTTP, or its headers are over %d KiB", maxResponseHeaders>>10)
	}
	return batch.CodeReset, "the connection broke before an answer came"
}

// late describes what did not happen in time.
func (x *exchange) late(p phase, within time.Duration) string {
	switch p {
	case waiting:
		return fmt.Sprintf("none of its %d connections came free within %s", x.target.Concurrency, within)
	case resolving:
		return fmt.Sprintf("the name %q did not resolve within %s", x.target.base.Hostname(), within)
	case connecting:
		return fmt.Sprintf("no connection could be made within %s: check that it runs and can be reached from here", within)
	case securing:
		return fmt.Sprintf("the TLS handshake did not end within %s", within)
	case sending:
		return fmt.Sprintf("it did not take the whole request within %s", within)
	case reading:
		return fmt.Sprintf("the answer (status %d) was not whole within %s", x.status, within)
	case awaiting, answering:
	}
	return fmt.Sprintf("no answer within %s", within)
}

// interrupted describes an attempt that the caller ended, with the cause if there is one.
func interrupted(p phase, cause error) string {
	message := "the worker stopped before an answer came"
	if p < sending {
		message = "the worker stopped before the request was sent"
	}
	if !errors.Is(cause, context.Canceled) {
		message += ": " + quote(cause.Error())
	}
	return message
}

// isCertificate reports whether the target's certificate is not valid, which another attempt does not
// change.
func isCertificate(err error) bool {
	_, ok := errors.AsType[*tls.CertificateVerificationError](err)
	return ok
}

// isAlert reports whether a TLS alert ended the connection. With TLS 1.3 some
// refusals of a handshake arrive only after the client has begun to send.
func isAlert(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error" // crypto/tls has no type for it outside of QUIC
}

// isBroken reports whether a connection ended early. Otherwise it carried
// something invalid.
func isBroken(err error) bool {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) {
		return true
	}
	if _, ok := errors.AsType[syscall.Errno](err); ok {
		return true
	}
	_, ok := errors.AsType[*net.OpError](err)
	return ok
}

// quote makes the text of an error fit for a message: short, and on one line.
func quote(text string) string {
	const most = 300
	if len(text) > most {
		text = text[:most] + "…"
	}
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, ""))
}
