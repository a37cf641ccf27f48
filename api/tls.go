package api

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/batchd/batchd/internal/certs"
	"github.com/batchd/batchd/internal/setting"
)

// ServerConfig configures the listener of the API.
type ServerConfig struct {
	// TLS configures TLS. Defaults to plain HTTP.
	TLS certs.Server `yaml:"tls"`
	// CORS lets pages of other origins use the API. Defaults to none.
	CORS CORS `yaml:"cors"`
}

// WithDefaults returns the settings with zero values replaced.
func (c ServerConfig) WithDefaults() ServerConfig {
	c.TLS = c.TLS.WithDefaults()
	return c
}

// Check reports the faults of the settings.
func (c ServerConfig) Check(check *setting.Checker) {
	c.TLS.Check(check.In("tls"))
	c.CORS.Check(check.In("cors"))
}

// Scheme returns the scheme of the API's URLs.
func (c ServerConfig) Scheme() string {
	if c.TLS.Enabled() {
		return "https"
	}
	return "http"
}

// watchCertificates reads the files of the certificates again when they change, until the context ends. The
// caller calls stop and thereby waits for the end.
func (s *Server) watchCertificates(ctx context.Context) (stop func()) {
	if s.certs == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { s.certs.Watch(ctx) })
	return func() {
		cancel()
		watch.Wait()
	}
}

// warnPlain logs that credentials cross a network in clear text.
func (s *Server) warnPlain(ctx context.Context, address string) {
	if warning := s.cfg.Auth.PlainListener(address); warning != "" && s.certs == nil {
		s.cfg.Logger.WarnContext(ctx, "credentials are not encrypted", "address", address, "reason", warning)
	}
}

// errorLog is where net/http reports faults of connections. Any client can cause failed handshakes, so it counts
// them, and logs only some.
type errorLog struct {
	server *Server

	mu sync.Mutex
	// window is the beginning of the minute in which handshakes failed.
	window             time.Time
	logged, suppressed int
}

const (
	handshakeFault = "http: TLS handshake error"
	// mostFaults is how many failed handshakes are logged in a minute.
	mostFaults = 10
)

func (s *Server) newErrorLog() *log.Logger { return log.New(&errorLog{server: s}, "", 0) }

// Write implements [io.Writer].
func (l *errorLog) Write(line []byte) (int, error) {
	text := strings.TrimSuffix(string(line), "\n")
	logger := l.server.cfg.Logger
	if !strings.HasPrefix(text, handshakeFault) {
		logger.Warn("a connection failed", "reason", text)
		return len(line), nil
	}
	l.server.metrics.handshakes.Inc()
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); now.Sub(l.window) >= time.Minute {
		l.window, l.logged = now, 0
	}
	if l.logged == mostFaults {
		l.suppressed++
		return len(line), nil
	}
	var more []any
	if l.suppressed > 0 {
		more = []any{slog.Int("suppressed", l.suppressed)}
	}
	l.logged, l.suppressed = l.logged+1, 0
	logger.Warn("a TLS handshake failed", append(more, slog.String("reason", text))...)
	return len(line), nil
}

// openCertificates reads the files of the certificates, if there are any.
func (s *Server) openCertificates() error {
	if !s.cfg.Server.TLS.Enabled() {
		return nil
	}
	var err error
	if s.certs, err = certs.Open(s.cfg.Server.TLS, s.cfg.Logger); err != nil {
		return fmt.Errorf("open the certificates of server.tls: %w", err)
	}
	return s.metrics.showCertificate(s.certs.NotAfter)
}
