// Package dispatch makes one HTTP exchange with a target, and reports its
// outcome.
//
// It promises three things, whatever the target does. One attempt puts one
// request on the wire, so no action is repeated without the ledger. The
// attempt ends within the action's timeout and keeps at most as much of an
// answer as the target's configuration allows. If no answer came, the response
// says whether the request can have reached the target: a request that provably
// never left may be sent again, and an action that is not safe to repeat and
// may have arrived ends as unknown.
//
// Redirects are answers, not orders: following one would forward credentials to
// another host and could repeat a POST. There is no cookie jar, and the
// environment's proxy is not used.
//
// A target without TLS is reached by a carrier of this package (plain.go), all others by
// net/http's transport (standard.go); the setting http_client selects the latter for all.
// For both, framing.go refuses answers whose end is ambiguous.
//
// This package quotes no answer, query or header in a log or an error. But net/http's
// transport writes some messages to the standard logger of package log, and has no
// setting for that: a program that uses this package should discard the output of
// that logger.
package dispatch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

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

// Config configures a [Dispatcher].
type Config struct {
	// Targets are all targets that actions may name. Zero values in them are
	// replaced as [batch.Target.WithDefaults] says.
	Targets []batch.Target
	// Logger gets one line for each attempt, at the debug level, and warnings about targets
	// that send unexpected bytes. Defaults to none.
	Logger *slog.Logger
	// Registerer receives the metric batchd_unexpected_bytes_total. Defaults to none.
	Registerer prometheus.Registerer
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
	transport *http.Transport // whose copies make the connections; nil if the carrier is another
	suspicion *suspicion
}

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
	unexpected, err := newUnexpected(cfg.Registerer)
	if err != nil {
		return nil, err
	}
	var faults []error
	for _, configured := range cfg.Targets {
		suspected := &suspicion{target: configured.Name, log: d.log, counter: unexpected.WithLabelValues(configured.Name), lasts: suspectFor}
		t, err := newTarget(configured.WithDefaults(), suspected)
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

func newTarget(configured batch.Target, suspected *suspicion) (*target, error) {
	var faults []error
	for _, f := range configured.Validate() {
		faults = append(faults, fmt.Errorf("target %q: %s: %s", configured.Name, f.Pointer, f.Detail))
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	base, err := batch.ParseBaseURL(configured.BaseURL)
	if err != nil {
		return nil, fmt.Errorf("target %q: %w", configured.Name, err)
	}
	t := &target{Target: configured, base: base, basePath: base.EscapedPath(), suspicion: suspected}
	if configured.HTTPClient == batch.HTTPClientAuto && isPlain(base, &configured) {
		t.setCarrier(newPlainCarrier(hostPort(base), &configured, suspected, dial))
		return t, nil
	}
	if t.transport, err = newTransport(&configured, suspected); err != nil {
		return nil, fmt.Errorf("target %q: %w", configured.Name, err)
	}
	t.setCarrier(newStandardCarrier(t.transport, &configured, suspected))
	return t, nil
}

func (t *target) setCarrier(c carrier) {
	t.carrier = c
	t.suspicion.drop = c.drop
}

// dial makes a connection, and reports its progress to the exchange that waits for it.
func dial(ctx context.Context, network, addr string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: connectTimeout}
	return dialer.DialContext(dialing(ctx), network, addr) //nolint:wrapcheck // explain recognizes it by its type
}

// hostPort returns the address that a URL names.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443", "socks5": "1080"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
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

// attemptWhenReady makes an attempt whose request waits until it may be written. It also returns
// when the wait ended, because the wait does not count as part of the attempt.
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
	forbids := batch.Forbids
	if r.Call { // its headers may come from a client, its path does not
		forbids = (*batch.Target).ForbidsHeaders
	}
	if why := forbids(&t.Target, r.Action); why != "" {
		return blocked(t.Name, why)
	}
	timeout := t.Timeout
	if r.Action.Timeout > 0 {
		timeout = r.Action.Timeout
	}
	now := time.Now()
	x := &exchange{target: t, owner: r.Owner, action: r.Action, timeout: timeout, until: now.Add(timeout), whenReady: r.Ready}
	if r.Ready != nil { // the timeout begins when the request is ready
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
	defer func() { _ = res.Body.Close() }() // an error of closing does not change the result
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
