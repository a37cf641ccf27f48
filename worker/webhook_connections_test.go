package worker

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/webhook"
)

// What a receiver sends late or twice over a connection would otherwise answer the delivery of another owner.
func TestAConnectionToAReceiverServesOneDelivery(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	deliveries := map[string]int{}
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		deliveries[r.RemoteAddr]++
	}))
	t.Cleanup(srv.Close)
	d, err := newDeliverer(WebhookConfig{Config: webhook.Config{Secret: secret, AllowPrivate: true}})
	require.NoError(t, err)
	t.Cleanup(d.close)
	for i := range 4 {
		out, cause := d.deliver(t.Context(), &batch.Notice{MessageID: "m", Round: 1, Batch: &batch.Batch{
			ID: "b", Owner: fmt.Sprint("owner-", i%2), Status: batch.StatusCompleted, WebhookURL: srv.URL,
		}})
		require.Equal(t, http.StatusOK, out.Status, "%s %s", out.Error, cause)
	}
	require.Len(t, deliveries, 4)
}
