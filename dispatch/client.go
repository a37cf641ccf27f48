// Package dispatch makes one HTTP exchange with a target, and says what became
// of it.
//
// It promises three things, whatever the target does. One attempt puts one
// request on the wire, so that what is not safe to repeat is not repeated
// behind the back of the ledger. It ends within the action's timeout and keeps
// at most as much of an answer as the target's configuration allows. And where
// no answer was seen, it says whether the request can have reached the target:
// what provably never left may be sent again, and what may have arrived and is
// not safe to repeat ends as unknown.
//
// Redirects are answers, not orders: following one would forward credentials to
// another host and could repeat a POST. There is no cookie jar, and the
// environment's proxy is not used.
//
// Targets without TLS are reached by connections of its own (direct.go), all others
// by net/http's transport. Over both, framing.go refuses the answers whose end two
// readers could see in two places.
//
// Nothing here quotes an answer, a query or a header in a log or an error. But that
// transport has messages of its own for the standard logger of package log, and no
// setting for that: a program that uses this package should discard that logger's
// output.
package dispatch

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/batchd/batchd/internal/batch"
)

const (
	// connectTimeout bounds the dial and the TLS handshake, each, so that a
	// target that does not listen is noticed well before a long timeout ends.
	connectTimeout = 10 * time.Second
	// idleTimeout is short, because an idle connection that the target closes
	// at the wrong moment costs an action its answer.
	idleTimeout = 30 * time.Second
	// readyWithin is how much longer an attempt may take until its request is ready to be
	// written, because it is made ready ahead of its time.
	readyWithin = time.Second
	// maxResponseHeaders is the most bytes of headers that an answer may have,
	// those of its informational (1xx) answers included.
	maxResponseHeaders = 128 << 10
)

// Config says which targets there are.
type Config struct {
	// Targets are all targets that actions may name. Zero values in them are
	// replaced as [batch.Target.WithDefaults] says.
	Targets []batch.Target
	// Logger gets one line for each attempt, at the debug level. Defaults to none.
	Logger *slog.Logger
}

// Dispatcher makes HTTP exchanges with the configured targets. It is safe for
// concurrent use.
type Dispatcher struct {
	targets   map[string]*target
	userAgent []string // as a header's values, which requests share
	log       *slog.Logger
	drainTime time.Duration
	inflaters sync.Pool // of *inflater
}

var (
	_ batch.Dispatcher = (*Dispatcher)(nil)
	_ batch.Prober     = (*Dispatcher)(nil)
)

// target is a configured target with what is derived from it.
type target struct {
	batch.Target
	base      *url.URL
	basePath  string // escaped, without a slash at its end
	carrier   carrier
	transport *http.Transport // nil if the carrier is another
}

// carrier makes exchanges with one target.
type carrier interface {
	// roundTrip sends the request, with the body of the exchange's action, and
	// returns when the headers of the answer are there, whose body is to be closed.
	// It tells the exchange how far it is, and ends it with the context, or when its
	// time has passed.
	roundTrip(ctx context.Context, x *exchange, req *http.Request) (*http.Response, error)
	// close closes the connections that are idle.
	close()
}

// hurried is the body of an answer as carriers return it, if there is one.
type hurried interface {
	// hurry has it end within that time, whole or not.
	hurry(within time.Duration)
}

// transported is the carrier by net/http's transport.
type transported struct{ *http.Transport }

func (t transported) roundTrip(ctx context.Context, x *exchange, req *http.Request) (*http.Response, error) {
	ctx, cancel := x.limited(ctx)
	req = req.WithContext(x.traced(ctx))
	setBody(req, x.action)
	res, err := t.RoundTrip(req)
	if err != nil {
		cancel()
		if x.conn != nil { // net/http may have its own reading of half a line
			err = cmp.Or(x.conn.fault(), err)
		}
		return nil, err //nolint:wrapcheck // explain tells it by its type
	}
	res.Body = &timedBody{res.Body, cancel}
	return res, nil
}

// timedBody is the body of an answer, with which the exchange's time ends.
type timedBody struct {
	io.ReadCloser

	cancel context.CancelFunc
}

// hurry implements hurried.
func (b *timedBody) hurry(within time.Duration) { time.AfterFunc(within, b.cancel) }

// Close implements io.Closer.
func (b *timedBody) Close() error {
	defer b.cancel()
	return b.ReadCloser.Close() //nolint:wrapcheck // net/http's own
}

func (t transported) close() { t.CloseIdleConnections() }

// New returns a dispatcher for the configured targets. Its error names every
// fault of every target.
func New(cfg Config) (*Dispatcher, error) {
	d := &Dispatcher{
		targets:   make(map[string]*target, len(cfg.Targets)),
		userAgent: []string{"batchd/" + version()},
		log:       cfg.Logger,
		drainTime: drainTime,
	}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	var faults []error
	for _, configured := range cfg.Targets {
		t, err := newTarget(configured.WithDefaults())
		if err != nil {
			faults = append(faults, err)
			continue
		}
		if d.targets[t.Name] != nil {
			faults = append(faults, fmt.Errorf("target %q: there are two of that name", t.Name))
		}
		d.targets[t.Name] = t
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	return d, nil
}

func newTarget(configured batch.Target) (*target, error) {
	var faults []error
	for _, f := range configured.Validate() {
		faults = append(faults, fmt.Errorf("target %q: %s: %s", configured.Name, f.Pointer, f.Detail))
	}
	if name := configured.IdempotencyKeyHeader; disposition(http.CanonicalHeaderKey(name)) != passed {
		faults = append(faults, fmt.Errorf("target %q: /idempotency_key_header: the header %s belongs to the connection: name another", configured.Name, name))
	}
	if x := configured.Transactions; x != nil && disposition(http.CanonicalHeaderKey(x.SendAs.Header)) != passed {
		// It would be left out, and what is meant for the transaction take effect at once.
		faults = append(faults, fmt.Errorf("target %q: /transactions/send_as/header: the header %s belongs to the connection: name another", configured.Name, x.SendAs.Header))
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	base, err := batch.ParseBaseURL(configured.BaseURL)
	if err != nil {
		return nil, fmt.Errorf("target %q: %w", configured.Name, err)
	}
	t := &target{Target: configured, base: base, basePath: base.EscapedPath()}
	if directly(base, &configured) {
		t.carrier = newDirect(hostPort(base), configured.Concurrency, dial)
		return t, nil
	}
	if t.transport, err = newTransport(&configured); err != nil {
		return nil, fmt.Errorf("target %q: %w", configured.Name, err)
	}
	t.carrier = transported{t.transport}
	return t, nil
}

// dial makes a connection, and tells the exchange that waits for it.
func dial(ctx context.Context, network, addr string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: connectTimeout}
	return dialer.DialContext(dialing(ctx), network, addr) //nolint:wrapcheck // explain tells it by its type
}

// hostPort returns the address that a URL names.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443", "socks5": "1080"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// newTransport returns a transport that keeps as many connections as the target
// takes requests at once. The answer's headers have no timeout of their own:
// the attempt's deadline covers them.
func newTransport(t *batch.Target) (*http.Transport, error) {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			return follow(conn), err
		},
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(0)},
		DisableCompression:  true, // decoding is done under the body's cap
		MaxIdleConnsPerHost: t.Concurrency,
		MaxConnsPerHost:     t.Concurrency,
		IdleConnTimeout:     idleTimeout,
		// Not reached: framing has the bound, and for HTTP/2 it is that of the frames.
		MaxResponseHeaderBytes: maxResponseHeaders,
		ForceAttemptHTTP2:      true,
		// A dead HTTP/2 connection would otherwise swallow requests until the
		// kernel gives it up, which takes minutes.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 5 * time.Second},
	}
	var proxy *url.URL
	if t.Proxy != "" {
		var err error
		if proxy, err = url.Parse(t.Proxy); err != nil {
			return nil, errors.New("the proxy's URL cannot be parsed") // the cause repeats the URL, which may hold a password
		}
	}
	secure := &secureDialer{transport: transport, proxy: proxy}
	switch {
	case proxy == nil || strings.HasPrefix(t.BaseURL, "https:"):
	case proxy.Scheme == "socks5":
		// net/http could do it by itself, but over the connection whose answers are followed.
		transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := secure.socks(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return follow(conn), nil
		}
	default:
		transport.Proxy, secure.proxy = http.ProxyURL(proxy), nil
	}
	transport.DialTLSContext = secure.dial
	return transport, nil
}

// Close closes the connections that are idle. Attempts in flight go on.
func (d *Dispatcher) Close() {
	for _, t := range d.targets {
		t.carrier.close()
	}
}

// Do makes one attempt. It implements [batch.Dispatcher].
func (d *Dispatcher) Do(ctx context.Context, r *batch.Request) *batch.Response {
	started := time.Now()
	var resp *batch.Response
	if r.Ready == nil {
		resp = d.attempt(ctx, r)
	} else {
		resp, started = d.attemptWhenReady(ctx, r)
	}
	result := &resp.Result
	result.StartedAt, result.Duration = started, time.Since(started)
	if d.log.Enabled(ctx, slog.LevelDebug) {
		code := batch.ErrorCode("")
		if result.Error != nil {
			code = result.Error.Code
		}
		d.log.LogAttrs(ctx, slog.LevelDebug, "attempt ended",
			slog.String("target", r.Target), slog.String("batch_id", r.BatchID), slog.Int("index", r.Index),
			slog.String("outcome", result.Outcome.String()), slog.Int("status", result.Status),
			slog.String("code", string(code)), slog.Bool("repeat", resp.Repeat),
			slog.Int64("duration_ms", result.Duration.Milliseconds()))
	}
	return resp
}

// attemptWhenReady makes an attempt whose request waits until it may be written, and returns
// when the wait was over: it is no part of the attempt.
func (d *Dispatcher) attemptWhenReady(ctx context.Context, r *batch.Request) (*batch.Response, time.Time) {
	started := time.Now()
	timed := *r
	timed.Ready = func(ctx context.Context) error {
		defer func() { started = time.Now() }()
		return r.Ready(ctx)
	}
	resp := d.attempt(ctx, &timed)
	return resp, started
}

func (d *Dispatcher) attempt(ctx context.Context, r *batch.Request) *batch.Response {
	t := d.targets[r.Target]
	if t == nil {
		return blocked(r.Target, "it is not configured here: give every worker the same configuration")
	}
	if faults := r.Action.Validate(); len(faults) > 0 {
		return blocked(t.Name, faults[0].Detail)
	}
	if !r.Call {
		if why := t.Forbids(r.Action); why != "" {
			return blocked(t.Name, why)
		}
	}
	timeout := t.Timeout
	if r.Action.Timeout > 0 {
		timeout = r.Action.Timeout
	}
	now := time.Now()
	x := &exchange{target: t, action: r.Action, timeout: timeout, until: now.Add(timeout), whenReady: r.Ready}
	if r.Ready != nil { // it ends with the timeout from there on
		x.until = x.until.Add(readyWithin)
	}
	if !r.Now.IsZero() {
		x.ahead = r.Now.Sub(now)
	}
	req := d.newRequest(t, r)
	res, err := t.carrier.roundTrip(ctx, x, req)
	if err != nil {
		return x.unanswered(ctx, err)
	}
	defer func() { _ = res.Body.Close() }() // what goes wrong in closing is nothing to the result
	x.status = res.StatusCode
	x.protoMajor = res.ProtoMajor
	if x.status < http.StatusOK {
		// 101 was not asked for: Upgrade is never sent. Below 100 is no status (RFC 9110 §15).
		return x.unanswered(ctx, &answerError{batch.CodeProtocol, fmt.Sprintf("it answered with the status %d, which ends no request", x.status)})
	}
	x.advance(reading)
	body, err := d.readBody(res, t.MaxResponseBody, decodes(r.Action, req))
	if err != nil {
		return x.brokenOff(ctx, res.Header, body, err)
	}
	return x.answered(res.Header, body)
}

// version returns the version of batchd that was built, as a product version
// of RFC 9110 §10.1.5.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || !strings.HasPrefix(info.Main.Version, "v") {
		return "devel"
	}
	return info.Main.Version[1:]
}
