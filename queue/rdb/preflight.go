package rdb

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// oldestRedis is the first version, major and minor, that has all commands that are
// used: LMOVE, and RPOP with a count.
var oldestRedis = [2]int{6, 2}

// Preflight returns the reasons why batches must not be kept in this Redis, each with what to do
// about it. There are none for the embedded store.
func (db *DB) Preflight(ctx context.Context) ([]string, error) {
	if db.Embed != nil {
		return nil, nil
	}
	ctx, cancel := db.WithTimeout(ctx)
	defer cancel()
	memory, err := db.Client.Info(ctx, "memory").Result()
	if err != nil {
		return nil, MapError(ctx, err)
	}
	var faults []string
	if policy := InfoField(memory, "maxmemory_policy"); policy != "" && policy != "noeviction" {
		faults = append(faults, "it throws keys away when it is full, and with them accepted batches: set its maxmemory-policy to noeviction")
	}
	server, err := db.Client.Info(ctx, "server").Result()
	if err != nil {
		return faults, MapError(ctx, err)
	}
	if version := InfoField(server, "redis_version"); !atLeast(version, oldestRedis) {
		faults = append(faults, fmt.Sprintf("it is version %s, and batchd needs %d.%d or later: upgrade it", version, oldestRedis[0], oldestRedis[1]))
	}
	sharding, err := db.Client.Info(ctx, "cluster").Result()
	if err != nil {
		return faults, MapError(ctx, err)
	}
	if db.Cluster == nil && InfoField(sharding, "cluster_enabled") == "1" {
		faults = append(faults, "it is a node of a cluster, which refuses what does not lie on one node: let redis.url begin with redis+cluster:// or rediss+cluster://")
	}
	return faults, nil
}

// InfoField returns a field of the answer to INFO, or the empty string if it is not there.
func InfoField(info, name string) string {
	for line := range strings.SplitSeq(info, "\r\n") {
		if value, found := strings.CutPrefix(line, name+":"); found {
			return value
		}
	}
	return ""
}

// atLeast reports whether a version such as "7.0.15" is at least that major and minor
// one. A version that cannot be read passes: a server that is compatible with Redis may
// have one of its own.
func atLeast(version string, oldest [2]int) bool {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 {
		return true
	}
	major, err := strconv.Atoi(parts[0])
	if err != nil {
		return true
	}
	minor, err := strconv.Atoi(parts[1])
	return err != nil || major > oldest[0] || major == oldest[0] && minor >= oldest[1]
}
