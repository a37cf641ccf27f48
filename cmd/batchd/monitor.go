package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/batchd/batchd/api"
	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue"
)

// monitor serves health and metrics on a listener of their own, without authentication: at monitor.listen
// beside an API, and at worker.listen of a worker without one.
type monitor struct {
	store   *queue.Store
	checks  func(context.Context) []batch.Check // those behind readiness
	metrics *prometheus.Registry
	log     *slog.Logger
}

func (m monitor) run(ctx context.Context, listener net.Listener) error {
	if !isLoopback(listener.Addr().String()) {
		m.log.InfoContext(ctx, "metrics and checks are open to every client that reaches their listener", "listen", listener.Addr().String())
	}
	routes := onlyOwnHosts(listener, m.handler())
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			api.SetSecurityHeaders(w.Header(), false)
			routes.ServeHTTP(w, r)
		}),
		DisableGeneralOptionsHandler: true,
		ReadHeaderTimeout:            5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second,
		ErrorLog: slog.NewLogLogger(m.log.Handler(), slog.LevelWarn),
	}
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		stopped <- server.Shutdown(grace)
	})
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve health and metrics: %w", err)
	}
	return <-stopped
}

func (m monitor) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { m.say(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		status, text := http.StatusOK, "ok"
		ready := batch.Readiness{Status: "ready"}
		if err := m.store.Ping(r.Context()); err != nil {
			status, text, ready.Status = http.StatusServiceUnavailable, "redis does not answer", "unavailable"
		}
		if !r.URL.Query().Has("verbose") {
			m.say(w, status, text)
			return
		}
		ready.Checks = m.checks(r.Context())
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		if err := json.NewEncoder(w).Encode(ready); err != nil {
			m.log.DebugContext(r.Context(), "answer not delivered", "error", err)
		}
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.metrics, promhttp.HandlerOpts{}))
	return mux
}

func (m monitor) say(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	if _, err := fmt.Fprintln(w, text); err != nil {
		m.log.Debug("answer not delivered", "error", err)
	}
}

// onlyOwnHosts refuses requests to a loopback listener whose Host is neither localhost nor an address: a web page can
// give a name of its own the address of the listener, and would read its answers with the browser of its user.
func onlyOwnHosts(listener net.Listener, next http.Handler) http.Handler {
	if !isLoopback(listener.Addr().String()) {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err != nil && !strings.EqualFold(host, "localhost") {
			http.Error(w, "the Host is not a name of this listener: use its address or localhost", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// isLoopback reports whether only this machine reaches an address, ip:port.
func isLoopback(address string) bool {
	at, err := netip.ParseAddrPort(address)
	return err == nil && at.Addr().Unmap().IsLoopback()
}
