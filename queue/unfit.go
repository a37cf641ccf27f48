package queue

import (
	"context"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Unfit returns what about Redis does not suit, each with what to do about it.
func (s *Store) Unfit(ctx context.Context) ([]string, error) {
	if s.embed != nil {
		return nil, nil
	}
	ctx, cancel := s.within(ctx)
	defer cancel()
	memory, err := s.rdb.Info(ctx, "memory").Result()
	if err != nil {
		return nil, mapError(ctx, err)
	}
	var faults []string
	if _, policy, found := strings.Cut(memory, "maxmemory_policy:"); found && !strings.HasPrefix(policy, "noeviction") {
		faults = append(faults, "it throws keys away when it is full, and with them accepted batches: set its maxmemory-policy to noeviction")
	}
	sharding, err := s.rdb.Info(ctx, "cluster").Result()
	if err != nil {
		return faults, mapError(ctx, err)
	}
	if _, cluster := s.rdb.(*redis.ClusterClient); !cluster && strings.Contains(sharding, "cluster_enabled:1") {
		faults = append(faults, "it is a node of a cluster, which refuses what does not lie on one node: let redis.url begin with redis+cluster:// or rediss+cluster://")
	}
	return faults, nil
}
