package queue_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/redistest"
)

// A server that refuses writes still serves those who read batches.
func TestAStoreThatRefusesWritesCanBeReached(t *testing.T) {
	t.Parallel()
	for name, refuse := range map[string]func(t *testing.T) (url, reply string){
		"read-only replica": func(t *testing.T) (string, string) {
			t.Helper()
			replica := redistest.Start(t, "--replicaof", "127.0.0.1", redistest.FreePort(t))
			return replica.URL(), "READONLY"
		},
		"at maxmemory": func(t *testing.T) (string, string) {
			t.Helper()
			return redistest.Start(t, "--maxmemory", "1").URL(), "OOM"
		},
		"no disk to write to": func(t *testing.T) (string, string) {
			t.Helper()
			dir := filepath.Join(t.TempDir(), "data")
			require.NoError(t, os.Mkdir(dir, 0o700))
			server := redistest.Start(t, "--dir", dir, "--save", "3600 1")
			require.NoError(t, os.RemoveAll(dir))
			_, err := server.Command("BGSAVE")
			require.NoError(t, err)
			require.Eventually(t, func() bool {
				_, err := server.Command("PING")
				return err != nil
			}, 20*time.Second, 5*time.Millisecond)
			return server.URL(), "MISCONF"
		},
		"no replica to write to": func(t *testing.T) (string, string) {
			t.Helper()
			return redistest.Start(t, "--min-replicas-to-write", "1").URL(), "NOREPLICAS"
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, reply := refuse(t)
			b := open(t, url)
			require.ErrorContains(t, b.DB.Client.Set(b.Ctx, "key", "value", 0).Err(), reply)
			require.NoError(t, b.Ping(b.Ctx))
		})
	}
}
