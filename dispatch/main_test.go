package dispatch

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/batchd/batchd/internal/batch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(bothWays{m}) }

// bothWays runs all tests twice: as targets are reached, and with net/http's transport
// also where it could be done without.
type bothWays struct{ *testing.M }

func (b bothWays) Run() int {
	code := b.M.Run()
	transportOnly = true
	fmt.Println("again, over net/http's transport:")
	return max(code, b.M.Run())
}

var transportOnly bool

// newDispatcher returns a dispatcher with one target, "crm", which accepts bodies of all
// methods unless it lists some.
func newDispatcher(tb testing.TB, crm batch.Target) *Dispatcher {
	tb.Helper()
	crm.Name = "crm"
	if crm.AllowBody == nil {
		crm.AllowBody = []string{"GET", "HEAD", "DELETE", "OPTIONS"}
	}
	d, err := New(Config{Targets: []batch.Target{crm}})
	require.NoError(tb, err)
	if transportOnly {
		overTransport(tb, d)
	}
	tb.Cleanup(d.Close)
	return d
}

// overTransport makes a dispatcher use net/http's transport.
func overTransport(tb testing.TB, d *Dispatcher) {
	tb.Helper()
	t := d.targets["crm"]
	if t.transport != nil {
		return
	}
	var err error
	t.transport, err = newTransport(&t.Target, t.suspicion)
	require.NoError(tb, err)
	t.setCarrier(newStandardCarrier(t.transport, &t.Target, t.suspicion))
}

// dialWith makes a dispatcher dial otherwise.
func dialWith(d *Dispatcher, dial func(ctx context.Context, network, addr string) (net.Conn, error)) {
	t := d.targets["crm"]
	if t.transport != nil {
		t.transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			return follow(conn, t.suspicion), err
		}
		return
	}
	t.carrier.(*plainCarrier).dial = dial
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
	if resp.Result.Status != 0 {
		require.True(t, resp.Result.Truncated, "a status beside an error is that of an answer that broke off")
	}
	require.NotZero(t, resp.Result.StartedAt)
	require.Contains(t, resp.Result.Error.Message, `target "crm": `)
}

// unexpected returns how many connections were closed because of unexpected bytes.
func unexpected(tb testing.TB, d *Dispatcher) int {
	tb.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(d.targets["crm"].suspicion.counter)
	families, err := registry.Gather()
	require.NoError(tb, err)
	return int(families[0].GetMetric()[0].GetCounter().GetValue())
}
