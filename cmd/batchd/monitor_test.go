package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/config"
)

// started starts an instance with settings, on free ports.
func started(t *testing.T, r roles, set map[string]string) *instance {
	t.Helper()
	all := map[string]string{"listen": "127.0.0.1:0", "worker.listen": "127.0.0.1:0", "target": "http://127.0.0.1:9"}
	maps.Copy(all, set)
	cfg, err := config.Load(config.Options{Set: all})
	require.NoError(t, err)
	i, err := startInstance(t.Context(), cfg, slog.New(slog.DiscardHandler), io.Discard, r)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, i.Close()) })
	return i
}

// fetch returns the status and body of a URL, as a client asks that takes the host for its name.
func fetch(t *testing.T, url, host string) (status int, body string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	require.NoError(t, err)
	r.Host, r.Close = host, true
	res, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(text)
}

func TestMetricsAndChecksHaveAListenerOfTheirOwn(t *testing.T) {
	t.Parallel()
	i := started(t, roles{api: true, worker: true}, map[string]string{"monitor.listen": "127.0.0.1:0", "auth.modes": "passthrough"})
	require.NotEmpty(t, i.MonitorURL)
	for path, contains := range map[string]string{"/healthz": "ok", "/readyz": "ok", "/metrics": "batchd_http_requests_total"} {
		if path == "/metrics" {
			fetch(t, i.URL+"/healthz", "") // so that there is something to count
		}
		status, body := fetch(t, i.MonitorURL+path, "")
		require.Equal(t, http.StatusOK, status, path)
		require.Contains(t, body, contains)
	}
	status, body := fetch(t, i.MonitorURL+"/readyz?verbose", "")
	require.Equal(t, http.StatusOK, status)
	var ready batch.Readiness
	require.NoError(t, json.Unmarshal([]byte(body), &ready))
	require.Equal(t, "ready", ready.Status)
	require.Equal(t, "store", ready.Checks[0].Name)
	for _, path := range []string{"/batch", "/openapi.yaml", "/webhook-secret"} {
		status, _ := fetch(t, i.MonitorURL+path, "")
		require.Equal(t, http.StatusNotFound, status, path)
	}
	status, _ = fetch(t, i.URL+"/metrics", "")
	require.Equal(t, http.StatusNotFound, status, "the API has none then")
	status, _ = fetch(t, i.URL+"/readyz?verbose", "")
	require.Equal(t, http.StatusUnauthorized, status)
}

func TestAPageThatGivesItsNameTheAddressOfTheMonitorReadsNothing(t *testing.T) {
	t.Parallel()
	i := started(t, roles{api: true, worker: true}, map[string]string{"monitor.listen": "127.0.0.1:0"})
	for host, want := range map[string]int{"": 200, "localhost": 200, "127.0.0.1:1": 200, "[::1]:8081": 200, "evil.example": 421, "evil.example:8081": 421, "localhost.evil.example": 421} {
		for _, path := range []string{"/metrics", "/readyz?verbose", "/readyz"} {
			status, _ := fetch(t, i.MonitorURL+path, host)
			require.Equal(t, want, status, "%s at %q", path, host)
		}
	}
}

// ask sends a text over a connection of its own, and returns the status of the answer.
func ask(t *testing.T, url, text string) (status int, open net.Conn) {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(url, "http://"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(30*time.Second)))
	_, err = io.WriteString(conn, text)
	require.NoError(t, err)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	return res.StatusCode, conn
}

func TestTheMonitorBoundsConnectionsAndHeaders(t *testing.T) {
	t.Parallel()
	i := started(t, roles{api: true, worker: true}, map[string]string{"monitor.listen": "127.0.0.1:0"})
	const head = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
	for name, header := range map[string]string{"lines": strings.Repeat("a:\r\n", 200), "bytes": "A: " + strings.Repeat("b", 9000)} {
		status, conn := ask(t, i.MonitorURL, head+header) // the header does not end
		require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, status, name)
		require.NoError(t, conn.Close())
	}
	refused := false
	for range monitorConnectionsPerAddress + 1 {
		status, _ := ask(t, i.MonitorURL, head+"\r\n")
		refused = refused || status == http.StatusTooManyRequests
	}
	require.True(t, refused)
}

// slowMetric is a metric whose value is not known before it is released.
type slowMetric struct {
	asked, release chan struct{}
}

func (slowMetric) Describe(chan<- *prometheus.Desc)   {}
func (m slowMetric) Collect(chan<- prometheus.Metric) { m.asked <- struct{}{}; <-m.release }

func TestTheMonitorAnswersSoManyScrapesAtOneTime(t *testing.T) {
	t.Parallel()
	slow := slowMetric{make(chan struct{}), make(chan struct{})}
	registry := prometheus.NewRegistry()
	require.NoError(t, registry.Register(slow))
	routes := monitor{metrics: registry, log: slog.New(slog.DiscardHandler)}.handler()
	scrape := func() int {
		w := httptest.NewRecorder()
		routes.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", http.NoBody))
		return w.Code
	}
	var scrapes sync.WaitGroup
	for range monitorScrapes {
		scrapes.Go(func() { scrape() })
		<-slow.asked
	}
	answered := make(chan int, 1)
	go func() { answered <- scrape() }()
	select {
	case status := <-answered:
		require.Equal(t, http.StatusServiceUnavailable, status)
	case <-slow.asked:
		t.Error("one more scrape is answered")
	}
	close(slow.release)
	scrapes.Wait()
}

func TestTheChecksOfTheMonitorAreSharedForASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		read := 0
		checks := sharedChecks(func(ctx context.Context) []batch.Check {
			read++
			require.NoError(t, ctx.Err(), "the checks do not depend on the client that asks first")
			return []batch.Check{{Name: strconv.Itoa(read)}}
		})
		ctx, hangUp := context.WithCancel(t.Context())
		hangUp()
		for _, want := range []string{"1", "1", "2", "2"} {
			require.Equal(t, want, checks(ctx)[0].Name)
			time.Sleep(checksFor / 2)
		}
	})
}
