package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/certs"
)

// The timeouts of a connection. They never cut a request while its bytes move fast enough.
const (
	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 64 << 10
	// stallTimeout is how long a peer may pause before it sends the next bytes of a body.
	// It is also the time over which the rate of bytes is averaged.
	stallTimeout = 30 * time.Second
)

// Server serves the API. Make one with New.
type Server struct {
	cfg  Config
	auth auth.Authenticator
	jwt  *auth.JWT // nil without the mode jwt
	// sessions is nil if the server has none.
	sessions *auth.Sessions
	metrics  *metrics
	nesting  *nesting
	// policies has the targets' settings for refusals, by name. Targets with the same
	// settings share one.
	policies map[string]*batch.Target
	handler  http.Handler
	// answerBytes is the most bytes of targets' bodies in one answer of a dialect,
	// which the server holds in memory as a whole.
	answerBytes int
	memory      *memory
	// decisions are those about the audit log, by method and route.
	decisions map[string]decision
	// certs are the certificates of TLS, or nil.
	certs *certs.Files
	polls *polls
	// streams and waits bound the event streams, and the requests that wait for the end of
	// a batch.
	streams, waits *slots
	// verifier asks targets about credentials.
	verifier *verifier

	draining  chan struct{}
	drainOnce sync.Once
}

// New returns a server of the API, or an error that lists all faults of the
// configuration.
func New(cfg Config) (*Server, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("configure the API: %w", err)
	}
	s := &Server{
		cfg: cfg, nesting: newNesting(cfg.Endpoints, cfg.BasePaths), policies: policiesOf(cfg.Targets, cfg.Policies), answerBytes: answerBytes,
		memory: newMemory(cfg.Limits.Capacity.BodyMemory), polls: newPolls(cfg.Store), draining: make(chan struct{}),
		decisions: make(map[string]decision),
	}
	most := &cfg.Limits.Capacity
	s.streams = newSlots("event streams", most.Streams, most.StreamsPerOwner)
	s.waits = newSlots("requests that wait for a batch", most.Waits, most.WaitsPerOwner)
	var err error
	if s.metrics, err = newMetrics(cfg.Metrics); err != nil {
		return nil, fmt.Errorf("register the API's metrics: %w", err)
	}
	s.verifier = newVerifier(&cfg, s.metrics.checks)
	if err := s.openCertificates(); err != nil {
		return nil, err
	}
	if s.auth, err = s.chain(); err != nil {
		return nil, fmt.Errorf("configure the API: %w", err)
	}
	engine, err := s.routes()
	if err != nil {
		return nil, fmt.Errorf("configure the API: %w", err)
	}
	s.handler = withPace(engine, pace{stallTimeout, most.BodyRate})
	return s, nil
}

// Handler returns the API's handler without a server around it.
func (s *Server) Handler() http.Handler { return s.handler }

// Run serves the API on the listener until the context ends. It then accepts no new
// connections, ends waits and event streams, and gives other requests
// Config.DrainTimeout to finish. It closes the listener. Run can be called only once. Without
// authentication, it refuses a listener that other machines reach; see [auth.Config.AllowOpenListener].
func (s *Server) Run(ctx context.Context, ln net.Listener) error {
	if err := s.cfg.Auth.CheckListener(ln.Addr().String()); err != nil {
		return errors.Join(fmt.Errorf("serve the API: %w", err), ln.Close())
	}
	s.warnPlain(ctx, ln.Addr().String())
	all := newConnections(ln, s.cfg.Limits.Capacity)
	defer all.end()
	if s.certs != nil {
		all.secure = s.certs.Config()
	}
	defer s.watchCertificates(ctx)()
	srv := &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		ErrorLog:          s.newErrorLog(),
		Protocols:         new(http.Protocols),
		// net/http would answer OPTIONS * itself.
		DisableGeneralOptionsHandler: true,
	}
	srv.Protocols.SetHTTP1(true)
	all.guard(srv)
	if s.jwt != nil {
		s.jwt.Warm() //nolint:contextcheck // the read of the issuer's keys belongs to no request
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(all) }()
	select {
	case err := <-served:
		s.drain()
		return fmt.Errorf("serve the API: %w", err)
	case <-ctx.Done():
	}
	s.drain()
	drainCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.DrainTimeout)
	defer cancel()
	err := srv.Shutdown(drainCtx)
	if err != nil {
		err = errors.Join(fmt.Errorf("drain the API: requests still ran after %s: %w", s.cfg.DrainTimeout, err), srv.Close())
	}
	if served := <-served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, fmt.Errorf("serve the API: %w", served))
	}
	return err
}

// drain ends waits and event streams.
func (s *Server) drain() { s.drainOnce.Do(func() { close(s.draining) }) }
