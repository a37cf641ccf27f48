package rdb

import (
	"context"
	"sync"

	"github.com/redis/go-redis/v9"
)

// Memory is the memory of one server, in bytes. Most is 0 without a maxmemory.
type Memory struct{ Used, Most float64 }

// Memory returns the memory of every master. For the embedded store it returns none.
func (db *DB) Memory(ctx context.Context) ([]Memory, error) {
	if db.Embed != nil {
		return nil, nil
	}
	ctx, cancel := db.WithTimeout(ctx)
	defer cancel()
	var mu sync.Mutex
	var servers []Memory
	err := db.forEachMaster(ctx, func(ctx context.Context, c redis.Cmdable) error {
		info, err := c.Info(ctx, "memory").Result()
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		servers = append(servers, readMemory(info))
		return nil
	})
	if err != nil {
		return nil, MapError(ctx, err)
	}
	return servers, nil
}

// forEachMaster calls a function for every master of a cluster at the same time, or for the one server.
func (db *DB) forEachMaster(ctx context.Context, do func(ctx context.Context, c redis.Cmdable) error) error {
	if db.Cluster != nil {
		return db.Cluster.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error { return do(ctx, c) })
	}
	return do(ctx, db.Client)
}

// readMemory reads used_memory and maxmemory from the answer to INFO.
func readMemory(info string) Memory {
	return Memory{Used: float64(Atoi(InfoField(info, "used_memory"))), Most: float64(Atoi(InfoField(info, "maxmemory")))}
}
