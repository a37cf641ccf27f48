package main

import (
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"testing"

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
