package queue

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
)

const (
	// memoryShare is the part of Redis's maxmemory beyond which no new batch is
	// accepted. At the whole of it workers could not even take a task, so the
	// rest is for what was accepted to be worked off.
	memoryShare = 0.8
	// memoryEvery is how long a look at Redis's memory is good for.
	memoryEvery = time.Second
	// memoryFailed is how long a failed look is good for.
	memoryFailed = 250 * time.Millisecond
	// memoryRetryAfter is what a client is told then.
	memoryRetryAfter = 10 * time.Second
)

// memory remembers the last look at Redis's memory.
type memory struct {
	mu       sync.Mutex
	at       time.Time
	share    float64
	failedAt time.Time
	failed   error
}

// spare reports, as an error, that Redis has too little memory left for a new batch.
func (s *Store) spare(ctx context.Context) error {
	s.memory.mu.Lock()
	defer s.memory.mu.Unlock()
	if time.Since(s.memory.failedAt) < memoryFailed {
		return s.memory.failed
	}
	if time.Since(s.memory.at) >= memoryEvery {
		// Other submissions wait for this look and use its answer, a failure too: one look after
		// the other would keep them too long.
		ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), s.timeout/2, errSlow)
		defer cancel()
		share, err := s.memoryUsed(ctx)
		if err != nil {
			s.memory.failedAt, s.memory.failed = time.Now(), err
			return err
		}
		s.memory.at, s.memory.share = time.Now(), share
	}
	if s.memory.share < memoryShare {
		return nil
	}
	return &batch.UnavailableError{
		RetryAfter: memoryRetryAfter, Err: fmt.Errorf("redis uses %.0f%% of its maxmemory: new batches wait until there is less than %.0f%%", 100*s.memory.share, 100*memoryShare),
	}
}

// memoryUsed returns the used part of maxmemory, that of the fullest shard.
func (s *Store) memoryUsed(ctx context.Context) (float64, error) {
	if s.embed != nil {
		return 0, nil
	}
	ctx, cancel := s.withTimeout(ctx)
	defer cancel()
	var mu sync.Mutex
	fullest := 0.0
	look := func(ctx context.Context, c redis.Cmdable) error {
		info, err := c.Info(ctx, "memory").Result()
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		fullest = max(fullest, usedShare(info))
		return nil
	}
	var err error
	if cluster, ok := s.rdb.(*redis.ClusterClient); ok {
		err = cluster.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error { return look(ctx, c) })
	} else {
		err = look(ctx, s.rdb)
	}
	return fullest, mapError(ctx, err)
}

// usedShare reads used_memory and maxmemory; the share is 0 without a maxmemory.
func usedShare(info string) float64 {
	var used, most float64
	for line := range strings.SplitSeq(info, "\r\n") {
		name, value, _ := strings.Cut(line, ":")
		switch name {
		case "used_memory":
			used = float64(atoi(value))
		case "maxmemory":
			most = float64(atoi(value))
		}
	}
	if most == 0 {
		return 0
	}
	return used / most
}
