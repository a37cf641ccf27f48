package dispatch

import (
	"context"
	"crypto/x509"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/batchd/batchd/internal/batch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newDispatcher returns a dispatcher with one target, "crm".
func newDispatcher(tb testing.TB, crm batch.Target) *Dispatcher {
	tb.Helper()
	crm.Name = "crm"
	d, err := New(Config{Targets: []batch.Target{crm}})
	require.NoError(tb, err)
	tb.Cleanup(d.Close)
	return d
}

// trusting makes a dispatcher trust the test server's certificate.
func trusting(d *Dispatcher, srv *httptest.Server) *Dispatcher {
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	d.targets["crm"].transport.TLSClientConfig.RootCAs = roots
	return d
}

// do makes one attempt at an action of batch b1.
func do(t *testing.T, d *Dispatcher, a batch.Action) *batch.Response {
	t.Helper()
	if a.Path == "" {
		a.Path = "/"
	}
	if a.Method == "" {
		a.Method = "GET"
	}
	return d.Do(context.Background(), &batch.Request{Target: "crm", BatchID: "b1", Index: 7, Action: &a})
}

// requireErrored checks the parts of a response that has no answer.
func requireErrored(t *testing.T, resp *batch.Response, outcome batch.Outcome, code batch.ErrorCode) {
	t.Helper()
	require.NotNil(t, resp.Result.Error, "expected no answer, got status %d", resp.Result.Status)
	require.Equal(t, code, resp.Result.Error.Code, resp.Result.Error.Message)
	require.Equal(t, outcome, resp.Result.Outcome, resp.Result.Error.Message)
	require.Zero(t, resp.Result.Status)
	require.NotZero(t, resp.Result.StartedAt)
	require.Contains(t, resp.Result.Error.Message, `target "crm": `)
}
