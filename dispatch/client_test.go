package dispatch

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

func TestOneLineAnAttemptWithoutSecrets(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Set-Cookie", "hunter2")
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, "hunter2")
	}))
	t.Cleanup(srv.Close)
	var out bytes.Buffer
	d, err := New(Config{
		Targets: []batch.Target{{Name: "crm", BaseURL: srv.URL}, {Name: "gone", BaseURL: nowhere(t)}},
		Logger:  slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	require.NoError(t, err)
	t.Cleanup(d.Close)
	for _, name := range []string{"crm", "gone"} {
		d.Do(t.Context(), &batch.Request{Target: name, BatchID: "b1", Index: 7, Action: &batch.Action{
			Method: "POST", Path: "/", Query: "token=hunter2", Body: []byte("hunter2"),
			Headers: []batch.Field{{Name: "Authorization", Value: "hunter2"}},
		}})
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	require.Len(t, lines, 2)
	require.Contains(t, lines[0], `msg="attempt ended" target=crm batch_id=b1 index=7 outcome=failed status=418 code="" repeat=false duration_ms=`)
	require.Contains(t, lines[1], `msg="attempt ended" target=gone batch_id=b1 index=7 outcome=errored status=0 code=refused repeat=true duration_ms=`)
	require.NotContains(t, out.String(), "hunter2")
}

func TestAttemptIsTimed(t *testing.T) {
	t.Parallel()
	target := serving(t, ok("", "hi"))
	before := time.Now()
	result := do(t, newDispatcher(t, batch.Target{BaseURL: target.url}), batch.Action{}).Result
	require.False(t, result.StartedAt.Before(before))
	require.Positive(t, result.Duration)
	require.LessOrEqual(t, result.Duration, time.Since(before))
	require.Empty(t, result.ID)
	require.Zero(t, result.Index)
	require.Zero(t, result.Attempts)
}

func TestActionTimeoutOverridesTheTargets(t *testing.T) {
	t.Parallel()
	target := newRawTarget(t, func(w *wire) { w.request(); w.untilGone() })
	for _, tt := range []struct{ target, action time.Duration }{
		{time.Minute, 300 * time.Millisecond},
		{300 * time.Millisecond, 0},
	} {
		d := newDispatcher(t, batch.Target{BaseURL: target.url, Timeout: tt.target})
		resp := do(t, d, batch.Action{Timeout: tt.action})
		requireErrored(t, resp, batch.Errored, batch.CodeTimeout)
		require.Equal(t, `target "crm": no answer within 300ms`, resp.Result.Error.Message)
	}
}

func TestProxyThatRefuses(t *testing.T) {
	t.Parallel()
	refusing := newRawTarget(t, func(w *wire) {
		w.request()
		w.say("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
	})
	for _, proxy := range []string{refusing.url, nowhere(t)} {
		proxy = strings.Replace(proxy, "http://", "http://user:hunter2@", 1)
		d := newDispatcher(t, batch.Target{BaseURL: "https://crm.invalid", Proxy: proxy})
		resp := do(t, d, batch.Action{Method: "POST", Query: "token=hunter2"})
		requireErrored(t, resp, batch.Errored, batch.CodeRefused)
		require.True(t, resp.Unsent)
		require.True(t, resp.Repeat)
		require.NotContains(t, resp.Result.Error.Message, "hunter2")
	}
}

func TestEnvironmentProxyIsNotUsed(t *testing.T) {
	t.Parallel()
	d := newDispatcher(t, batch.Target{BaseURL: "https://h"})
	require.Nil(t, d.targets["crm"].transport.Proxy)
}

// Pooled decoders must not mix what belongs to different answers.
func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		packed := gzip.NewWriter(w)
		_, _ = io.WriteString(packed, strings.Repeat(r.URL.Path, 100))
		_ = packed.Close()
	}))
	t.Cleanup(srv.Close)
	d := newDispatcher(t, batch.Target{BaseURL: srv.URL, Concurrency: 4})
	got := make([]string, 8*25)
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := worker; i < len(got); i += 8 {
				a := &batch.Action{Method: "POST", Path: fmt.Sprintf("/%d", i)}
				got[i] = string(d.Do(t.Context(), &batch.Request{Target: "crm", Action: a}).Result.Body)
			}
		})
	}
	wg.Wait()
	for i, body := range got {
		require.Equal(t, strings.Repeat(fmt.Sprintf("/%d", i), 100), body)
	}
}
