package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gin-gonic/gin"
)

// The timeouts of a connection. They never cut a request while its bytes move.
const (
	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 64 << 10
	// stallTimeout is how long a peer may pause before it sends the next byte of a body
	// or takes the next bytes of an answer.
	stallTimeout = 30 * time.Second
)

// Server serves the API. Make one with New.
type Server struct {
	cfg     Config
	metrics *metrics
	nesting *nesting
	handler http.Handler
	// answerBytes is the most bytes of targets' bodies in one answer of a dialect,
	// which the server holds in memory as a whole.
	answerBytes int

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
	s := &Server{cfg: cfg, nesting: newNesting(cfg.Endpoints, cfg.BasePaths), answerBytes: answerBytes, draining: make(chan struct{})}
	var err error
	if s.metrics, err = newMetrics(cfg.Metrics); err != nil {
		return nil, fmt.Errorf("register the API's metrics: %w", err)
	}
	engine, err := s.routes()
	if err != nil {
		return nil, fmt.Errorf("configure the API: %w", err)
	}
	s.handler = withStallTimeout(engine, stallTimeout)
	return s, nil
}

// routes shows the whole API on one screen.
func (s *Server) routes() (*gin.Engine, error) {
	gin.SetMode(gin.ReleaseMode)
	e := gin.New()
	e.HandleMethodNotAllowed = true
	e.RedirectTrailingSlash = false // many clients redirect a POST without its body
	e.UseEscapedPath = true         // otherwise an id with %2F would become two segments
	e.ForwardedByClientIP = false
	if err := e.SetTrustedProxies(nil); err != nil {
		return nil, err
	}
	e.Use(s.observe, s.recoverPanic, withBudget)
	e.NoRoute(s.handle(noRoute))
	e.NoMethod(s.handle(noMethod))

	get := func(g gin.IRoutes, path string, h ...gin.HandlerFunc) {
		g.GET(path, h...)
		g.HEAD(path, h...)
	}
	get(e, "/healthz", s.handle(s.health))
	get(e, "/readyz", s.handle(s.ready))
	get(e, "/metrics", gin.WrapH(s.metrics.handler()))
	get(e, "/openapi.yaml", s.handle(openAPI))

	b := e.Group("", s.authenticate)
	b.POST("/batch", s.handle(s.submit(nil)))
	get(b, "/batch", s.handle(s.list))
	get(b, "/batch/:id", s.handle(s.get))
	b.DELETE("/batch/:id", s.handle(s.erase))
	get(b, "/batch/:id/results", s.handle(s.results))
	b.GET("/batch/:id/events", s.handle(s.events))
	b.POST("/batch/:id/cancel", s.handle(s.cancel))
	b.POST("/batch/:id/retry", s.handle(s.retry))
	get(b, "/batch/:id/webhook", s.handle(s.deliveries))
	b.POST("/batch/:id/webhook/redeliver", s.handle(s.redeliver))
	for i := range s.cfg.Endpoints {
		if err := s.mount(e, b, &s.cfg.Endpoints[i]); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// Handler returns the API's handler without a server around it.
func (s *Server) Handler() http.Handler { return s.handler }

// Run serves the API on the listener until the context ends. It then accepts no new
// connections, ends waits and event streams, and gives other requests
// Config.DrainTimeout to finish. It closes the listener. Run can be called only once.
func (s *Server) Run(ctx context.Context, ln net.Listener) error {
	srv := &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelWarn),
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
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
