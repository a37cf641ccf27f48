package queue_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/batchd/batchd/internal/redistest"
	"github.com/batchd/batchd/queue/keys"
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

func TestASweeperThatResignsLeavesItsSuccessorAlone(t *testing.T) {
	onEveryStore(t, func(t *testing.T, b *bundle) {
		_, ok, err := b.Sweeper.Sweep(b.Ctx, "w1")
		require.NoError(t, err)
		require.True(t, ok)
		// The lease ends, and another process has it, just before it is given up.
		b.DB.Client.AddHook(&foreseen{commands: []string{"del", "evalsha", "eval"}, call: func() {
			require.NoError(t, b.DB.Client.Set(b.Ctx, keys.SweeperKey, "w2", 0).Err())
		}})
		require.NoError(t, b.Sweeper.Resign(b.Ctx, "w1"))
		require.Equal(t, "w2", b.DB.Client.Get(b.Ctx, keys.SweeperKey).Val())
		require.NoError(t, b.Sweeper.Resign(b.Ctx, "w2"))
		n, err := b.DB.Client.Exists(b.Ctx, keys.SweeperKey).Result()
		require.NoError(t, err)
		require.Zero(t, n)
	})
}

// foreseen is a hook that calls a function once, before one of the commands is sent.
type foreseen struct {
	commands []string
	call     func()
	once     sync.Once
}

func (f *foreseen) DialHook(next redis.DialHook) redis.DialHook { return next }

func (f *foreseen) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (f *foreseen) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if slices.Contains(f.commands, cmd.Name()) {
			f.once.Do(f.call)
		}
		return next(ctx, cmd)
	}
}
