package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/client"
	"github.com/batchd/batchd/internal/config"
)

// startConfigured starts an instance with the embedded store by the text of a configuration. Its target does not
// answer until the test ends.
func startConfigured(t *testing.T, settings string) *instance {
	t.Helper()
	ended := make(chan struct{})
	i := startBefore(t, settings, func(http.ResponseWriter, *http.Request) { <-ended })
	t.Cleanup(func() { close(ended) })
	return i
}

// startBefore starts an instance with the embedded store, by the text of a configuration, before a target.
func startBefore(t *testing.T, settings string, handler http.HandlerFunc) *instance {
	t.Helper()
	target := httptest.NewServer(handler)
	t.Cleanup(target.Close)
	file := filepath.Join(t.TempDir(), "batchd.yaml")
	require.NoError(t, os.WriteFile(file, []byte(fmt.Sprintf("targets: [{name: slow, base_url: %q}]\n%s", target.URL, settings)), 0o600))
	cfg, err := config.Load(config.Options{File: file, Set: map[string]string{"listen": "127.0.0.1:0"}})
	require.NoError(t, err)
	i, err := startInstance(t.Context(), cfg, slog.New(slog.DiscardHandler), io.Discard, roles{api: true, worker: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, i.Close()) })
	return i
}

// answer is the answer to a submission.
type answer struct {
	status     int
	retryAfter string
	body       string
}

// submitMany submits batches at the same time, each with its credential, from a loopback address. Each round has idempotency
// keys of its own.
func submitMany(t *testing.T, url, from string, credentials []string, round int) (answers []answer) {
	t.Helper()
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		return dialer.DialContext(ctx, network, address)
	}}}
	defer client.CloseIdleConnections()
	answers = make([]answer, len(credentials))
	var all sync.WaitGroup
	for i, credential := range credentials {
		all.Go(func() {
			for answers[i].status == 0 || answers[i].status == http.StatusServiceUnavailable || answers[i].status == http.StatusConflict {
				var err error // on a busy machine, the store may take too long: then the same submission comes again
				if answers[i], err = submitOnce(t.Context(), client, url, credential, fmt.Sprintf("%d.%d", round, i)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	return answers
}

func submitOnce(ctx context.Context, client *http.Client, url, credential, key string) (answer, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/batch", strings.NewReader(`{"actions":[{"method":"GET","path":"/a"}]}`))
	if err != nil {
		return answer{}, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+credential)
	r.Header.Set("Idempotency-Key", key)
	resp, err := client.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header.Get("Retry-After"), string(body)}, err
}

// requireAccepted requires that at most n submissions were accepted, that all others were refused by a quota, and that
// there is room for n in all. On a busy machine, a submission for which the store took too long holds its place for a
// moment, so more have to come.
func requireAccepted(t *testing.T, n int, answers []answer, detail string, more func(i int) answer) {
	t.Helper()
	accepted := 0
	count := func(a answer) {
		if a.status == http.StatusAccepted {
			accepted++
			return
		}
		require.Equal(t, http.StatusTooManyRequests, a.status, "%s", a.body)
		require.NotEmpty(t, a.retryAfter)
		require.Contains(t, a.body, detail)
	}
	for _, a := range answers {
		count(a)
	}
	require.LessOrEqual(t, accepted, n)
	for i := 0; accepted < n && i < 100; i++ {
		time.Sleep(100 * time.Millisecond)
		count(more(i))
	}
	require.Equal(t, n, accepted)
	if detail != "" {
		require.Equal(t, http.StatusTooManyRequests, more(100).status)
	}
}

func each(n int, format string) (all []string) {
	for i := range n {
		all = append(all, fmt.Sprintf(format, i))
	}
	return all
}

func TestAnOwnerAtItsQuotaIsRefusedAndOthersGoOn(t *testing.T) {
	t.Parallel()
	i := startConfigured(t, "auth: {modes: [passthrough]}\nquotas: {open_batches: 10}\nworker: {drain: 1s}\n")
	requireAccepted(t, 10, submitMany(t, i.URL, "127.0.0.1", slices.Repeat([]string{"alice"}, 50), -1), "your open batches are 10, and the quota quotas.open_batches is 10", func(n int) answer {
		return submitMany(t, i.URL, "127.0.0.1", []string{"alice"}, n)[0]
	})
	requireAccepted(t, 5, submitMany(t, i.URL, "127.0.0.1", each(5, "bob%d"), -1), "", nil)
}

func TestInventedCredentialsDoNotEvadeQuotas(t *testing.T) {
	t.Parallel()
	i := startConfigured(t, "auth: {modes: [passthrough]}\nquotas: {per_address: {open_batches: 10}}\nworker: {drain: 1s}\n")
	requireAccepted(t, 10, submitMany(t, i.URL, "127.0.0.1", each(50, "invented%d"), -1), "your address's open batches are 10, and the quota quotas.per_address.open_batches is 10", func(n int) answer {
		return submitMany(t, i.URL, "127.0.0.1", []string{fmt.Sprintf("another%d", n)}, n)[0]
	})
	requireAccepted(t, 10, submitMany(t, i.URL, "127.0.0.2", slices.Repeat([]string{"same"}, 50), -1), "your address's open batches are 10", func(n int) answer {
		return submitMany(t, i.URL, "127.0.0.2", []string{"same"}, n)[0]
	})
}

// An owner must not fill Redis with the answers to a small submission.
func TestAnswersDoNotExceedTheQuotaOfStoredBytesAndOthersGoOn(t *testing.T) {
	t.Parallel()
	const quota, n = 1 << 20, 40
	i := startBefore(t, "auth: {modes: [passthrough]}\nquotas: {stored_bytes: 1MiB}\n", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, strings.Repeat("x", 128<<10))
	})
	c, err := client.New(i.URL, client.WithBearer("alice"))
	require.NoError(t, err)
	actions := make([]client.Action, n)
	for k := range actions {
		actions[k] = client.Action{Method: http.MethodGet, Path: "/a"}
	}
	b, err := c.Submit(t.Context(), actions, client.Options{})
	require.NoError(t, err)
	requireAccepted(t, 5, submitMany(t, i.URL, "127.0.0.1", each(5, "bob%d"), -1), "", nil)
	b, err = c.Wait(t.Context(), b.ID)
	require.NoError(t, err)
	require.Equal(t, n, b.Counts.Succeeded)
	bytes, without := 0, 0
	for r, err := range c.Results(t.Context(), b.ID, client.Filter{}) {
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, r.Status)
		bytes += len(r.Body)
		if r.TruncatedBy != "" {
			require.Equal(t, "stored_bytes", r.TruncatedBy)
			require.Empty(t, r.Body)
			without++
		}
	}
	require.LessOrEqual(t, bytes, quota)
	require.GreaterOrEqual(t, bytes, quota*3/4, "most of the quota is used")
	require.Positive(t, without)
	requireAccepted(t, 5, submitMany(t, i.URL, "127.0.0.1", each(5, "carol%d"), -1), "", nil)
}

// The command line must not hide that bodies are missing.
func TestCommandsSayThatResultsLackTheirBodies(t *testing.T) {
	t.Parallel()
	i := startBefore(t, "auth: {modes: [passthrough]}\nquotas: {stored_bytes: 100KiB}\n", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, strings.Repeat("x", 128<<10))
	})
	const warning = "warning: 1 result lacks its body, because the quota stored_bytes had no room for it"
	at := []string{"--server", i.URL, "--header", "Authorization: Bearer alice"}
	actions := file(t, "a.ndjson", `{"method":"GET","path":"/a"}`+"\n")
	got := batchd(t, "", append([]string{"submit", actions, "--wait"}, at...)...)
	require.Zero(t, got.code)
	require.Contains(t, got.stderr, warning)
	id := strings.TrimSpace(got.stdout)
	for format, mark := range map[string]string{"csv": ",stored_bytes,", "table": "left out: no room in the quota stored_bytes", "ndjson": `"truncated_by":"stored_bytes"`} {
		got := batchd(t, "", append([]string{"results", id, "--format", format}, at...)...)
		require.Zero(t, got.code)
		require.Contains(t, got.stdout, mark)
		require.Contains(t, got.stderr, warning)
	}
}
