package queuetest

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// AllKeys returns all keys of all masters with their times to live.
func (b *Bundle) AllKeys() map[string]time.Duration {
	b.T.Helper()
	found := make(map[string]time.Duration)
	scan := func(ctx context.Context, c *redis.Client) error {
		keys, err := c.Keys(ctx, "*").Result()
		for _, k := range keys {
			ttl, ttlErr := c.PTTL(ctx, k).Result()
			if ttlErr != nil {
				return ttlErr
			}
			found[k] = ttl
		}
		return err
	}
	switch c := b.DB.Client.(type) {
	case *redis.ClusterClient:
		var shards []*redis.Client
		var mu sync.Mutex
		require.NoError(b.T, c.ForEachMaster(b.Ctx, func(_ context.Context, s *redis.Client) error {
			mu.Lock() // go-redis calls this for several masters at the same time
			defer mu.Unlock()
			shards = append(shards, s)
			return nil
		}))
		for _, s := range shards {
			require.NoError(b.T, scan(b.Ctx, s))
		}
	case *redis.Client:
		require.NoError(b.T, scan(b.Ctx, c))
	}
	return found
}

// Commands returns the number of commands that Redis has processed, including those of scripts.
func Commands(b *Bundle) int {
	b.T.Helper()
	info, err := b.DB.Client.Info(b.Ctx, "stats").Result()
	require.NoError(b.T, err)
	_, rest, _ := strings.Cut(info, "total_commands_processed:")
	number, _, _ := strings.Cut(rest, "\r\n")
	n, err := strconv.Atoi(number)
	require.NoError(b.T, err)
	return n
}
