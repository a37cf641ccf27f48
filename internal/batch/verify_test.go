package batch

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRequestsAboutCredentialsHaveSettingsOfTheirOwn(t *testing.T) {
	t.Parallel()
	target := Target{Name: "crm", BaseURL: "http://crm.example", Concurrency: 1, Timeout: time.Minute, IdempotencyKeyHeader: "Idempotency-Key", Proxy: "http://proxy:1"}.WithDefaults()
	asked := target.ForVerify(7)
	require.Empty(t, asked.Validate())
	require.Equal(t, 7, asked.Concurrency, "as many as may be asked, whatever there may be of actions")
	require.Equal(t, 10*time.Second, asked.Timeout)
	require.Equal(t, ConnectionsNone, asked.Connections)
	require.Equal(t, int64(1), asked.MaxResponseBody)
	require.Empty(t, asked.IdempotencyKeyHeader)
	require.Equal(t, target.Proxy, asked.Proxy, "they take the same way")
	target.Timeout = time.Second
	require.Equal(t, time.Second, target.ForVerify(7).Timeout)
	require.Equal(t, 1, target.Concurrency)
}
