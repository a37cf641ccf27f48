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
	"sync"
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

// The bounds of the listener. Its clients are few: Prometheus, probes of an orchestrator, and people.
const (
	monitorConnections           = 512
	monitorConnectionsPerAddress = 32
	monitorHeaderBytes           = 8 << 10
	// monitorMemory is the budget of which an eighth is for long headers.
	monitorMemory = 8 << 20
	// monitorScrapes is how many scrapes are answered at one time: each answer is in memory as a whole.
	monitorScrapes = 4
	// checksFor is how long the checks of /readyz?verbose are shown again, without asking Redis.
	checksFor = time.Second
)

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
		MaxHeaderBytes:               monitorHeaderBytes,
		ReadHeaderTimeout:            5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second,
		ErrorLog: slog.NewLogLogger(m.log.Handler(), slog.LevelWarn),
	}
	guarded, end := api.Guard(server, listener, api.Capacity{
		BodyMemory: monitorMemory, Connections: monitorConnections, ConnectionsPerAddress: monitorConnectionsPerAddress,
	})
	defer end()
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		stopped <- server.Shutdown(grace)
	})
	defer stop()
	if err := server.Serve(guarded); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve health and metrics: %w", err)
	}
	return <-stopped
}

func (m monitor) handler() http.Handler {
	checks := sharedChecks(m.checks)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { m.say(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		status, text := http.StatusOK, "ok"
		ready := batch.Readiness{Status: "ready"}
		if err := m.store.Ping(r.Context()); err != nil {
			status, text, ready.Status = http.StatusServiceUnavailable, "redis does not answer", "unavailable"
		}
		if !isVerbose(r.URL.RawQuery) {
			m.say(w, status, text)
			return
		}
		ready.Checks = checks(r.Context())
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		if err := json.NewEncoder(w).Encode(ready); err != nil {
			m.log.DebugContext(r.Context(), "answer not delivered", "error", err)
		}
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.metrics, promhttp.HandlerOpts{MaxRequestsInFlight: monitorScrapes}))
	return mux
}

// isVerbose reports whether a query has the parameter verbose. It does not store the other ones.
func isVerbose(query string) bool {
	for parameter := range strings.SplitSeq(query, "&") {
		if name, _, _ := strings.Cut(parameter, "="); name == "verbose" {
			return true
		}
	}
	return false
}

// sharedChecks returns a function that reads the checks at most once in checksFor, for all who ask.
func sharedChecks(read func(context.Context) []batch.Check) func(context.Context) []batch.Check {
	var (
		mu   sync.Mutex
		last []batch.Check
		at   time.Time
	)
	return func(ctx context.Context) []batch.Check {
		mu.Lock()
		defer mu.Unlock()
		if at.IsZero() || time.Since(at) >= checksFor {
			last = read(context.WithoutCancel(ctx)) // the one who asks first may hang up
			at = time.Now()
		}
		return last
	}
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
