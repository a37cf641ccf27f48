package dispatch

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

// readyTimeout is the timeout of an attempt at one of the readyTargets, which a busy machine does not exceed.
const readyTimeout = 1500 * time.Millisecond

// readyTargets are servers that are reached by each carrier, and by each version of HTTP.
func readyTargets(t *testing.T, handler func(kind string) http.Handler) map[string]*Dispatcher {
	t.Helper()
	found := make(map[string]*Dispatcher)
	for _, kind := range []string{"direct", "transport", "tls", "http2"} {
		srv := httptest.NewUnstartedServer(handler(kind))
		pool := x509.NewCertPool()
		switch kind {
		case "tls":
			srv.StartTLS()
		case "http2":
			srv.EnableHTTP2 = true
			srv.StartTLS()
		default:
			srv.Start()
		}
		t.Cleanup(srv.Close)
		d, err := New(Config{Targets: []batch.Target{{Name: "crm", BaseURL: srv.URL, Timeout: readyTimeout}}})
		require.NoError(t, err)
		t.Cleanup(d.Close)
		x := d.targets["crm"]
		if kind != "direct" && x.transport == nil {
			configured := x.Target
			x.transport, err = newTransport(&configured, x.suspicion)
			require.NoError(t, err)
			x.setCarrier(newStandardCarrier(x.transport, &configured, x.suspicion))
		}
		if srv.TLS != nil {
			pool.AddCert(srv.Certificate())
			x.transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}
		}
		found[kind] = d
	}
	return found
}

func TestARequestIsWrittenWhenItIsReady(t *testing.T) {
	t.Parallel()
	all := make(map[string]*atomic.Int32)
	for kind, d := range readyTargets(t, func(kind string) http.Handler {
		seen := &atomic.Int32{}
		all[kind] = seen
		return http.HandlerFunc(func(http.ResponseWriter, *http.Request) { seen.Add(1) })
	}) {
		seen := all[kind]
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			do := func(ready func(context.Context) error) *batch.Response {
				return d.Do(t.Context(), &batch.Request{Target: "crm", Action: &batch.Action{Method: "POST", Path: "/"}, Ready: ready})
			}
			for range 2 { // over a new connection, and over the same again
				before := seen.Load()
				var at time.Time
				resp := do(func(context.Context) error {
					time.Sleep(readyTimeout + 100*time.Millisecond) // the timeout starts only now
					require.Equal(t, before, seen.Load(), "nothing was written before it was ready")
					at = time.Now()
					return nil
				})
				require.Equal(t, batch.Succeeded, resp.Result.Outcome, "%v", resp.Result.Error)
				require.Equal(t, before+1, seen.Load())
				require.False(t, resp.Result.StartedAt.Before(at), "the wait is no part of the attempt")

				resp = do(func(context.Context) error { return errors.New("too late") })
				require.True(t, resp.Unsent)
				require.Equal(t, before+1, seen.Load(), "nothing is written that is not ready")
			}
		})
	}
}

func TestTheTimeoutStartsWhenARequestIsReady(t *testing.T) {
	t.Parallel()
	end := make(chan struct{})
	found := readyTargets(t, func(string) http.Handler {
		return http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-end })
	})
	t.Cleanup(func() { close(end) }) // before the servers are closed
	for kind, d := range found {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			var at time.Time
			resp := d.Do(t.Context(), &batch.Request{Target: "crm", Action: &batch.Action{Method: "POST", Path: "/"}, Ready: func(context.Context) error {
				time.Sleep(100 * time.Millisecond)
				at = time.Now()
				return nil
			}})
			took := time.Since(at)
			require.Equal(t, batch.CodeTimeout, resp.Result.Error.Code, "%v", resp.Result.Error)
			require.Equal(t, batch.Unknown, resp.Result.Outcome)
			require.GreaterOrEqual(t, took, readyTimeout-10*time.Millisecond)
		})
	}
}
