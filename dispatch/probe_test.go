package dispatch

import (
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
)

func TestAProbeConnectsAndSendsNothing(t *testing.T) {
	t.Parallel()
	plain, secure := httptest.NewServer(nil), httptest.NewTLSServer(nil)
	defer plain.Close()
	defer secure.Close()
	gone := httptest.NewServer(nil)
	gone.Close()
	d, err := New(Config{Targets: []batch.Target{
		{Name: "plain", BaseURL: plain.URL + "/x"},
		{Name: "untrusted", BaseURL: secure.URL},
		{Name: "gone", BaseURL: gone.URL},
		{Name: "proxied", BaseURL: gone.URL, Proxy: plain.URL},
	}})
	require.NoError(t, err)
	defer d.Close()
	require.NoError(t, d.Probe(t.Context(), "plain"))
	require.NoError(t, d.Probe(t.Context(), "proxied"))
	require.Error(t, d.Probe(t.Context(), "untrusted"))
	require.Error(t, d.Probe(t.Context(), "gone"))
	require.Error(t, d.Probe(t.Context(), "nobody"))
}
