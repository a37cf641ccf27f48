package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/rdb"
)

const (
	// memoryShare is the part of Redis's maxmemory beyond which no new batch is
	// accepted. At the whole of it workers could not even take a task, so the
	// rest is for what was accepted to be worked off.
	memoryShare = 0.8
	// resultRoom is about how much the result of an action takes that waits, in bytes, if its
	// answer is small.
	resultRoom = 600
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
		ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), s.db.Timeout/2, rdb.ErrSlow)
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
		RetryAfter: memoryRetryAfter, Err: fmt.Errorf("redis uses %.0f%% of its maxmemory, with room for the results of the actions that wait: new batches are accepted again below %.0f%%", 100*s.memory.share, 100*memoryShare),
	}
}

// memoryUsed returns the used part of maxmemory, that of the fullest shard. The results of actions that
// wait for their tasks will need room, so it counts as used.
func (s *Store) memoryUsed(ctx context.Context) (float64, error) {
	if s.db.Embed != nil {
		return 0, nil
	}
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	var mu sync.Mutex
	var servers []memoryOf
	look := func(ctx context.Context, c redis.Cmdable) error {
		info, err := c.Info(ctx, "memory").Result()
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		servers = append(servers, readMemory(info))
		return nil
	}
	var err error
	if cluster, ok := s.db.Client.(*redis.ClusterClient); ok {
		err = cluster.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error { return look(ctx, c) })
	} else {
		err = look(ctx, s.db.Client)
	}
	if err != nil {
		return 0, rdb.MapError(ctx, err)
	}
	if !slices.ContainsFunc(servers, func(m memoryOf) bool { return m.most > 0 }) {
		return 0, nil
	}
	waiting, err := s.waitingEverywhere(ctx)
	if err != nil {
		return 0, err
	}
	fullest := 0.0
	for _, m := range servers {
		if m.most > 0 {
			fullest = max(fullest, (m.used+float64(waiting*resultRoom/len(servers)))/m.most)
		}
	}
	return fullest, nil
}

// waitingEverywhere returns the number of actions that wait for their tasks.
func (s *Store) waitingEverywhere(ctx context.Context) (int, error) {
	queues, err := s.taskQueues(ctx)
	if err != nil || len(queues) == 0 {
		return 0, err
	}
	pipe := s.db.Client.Pipeline()
	counts := make([]*redis.StringCmd, len(queues))
	for i, queue := range queues {
		counts[i] = pipe.Get(ctx, fairPrefix(queue)+"n")
	}
	s.db.Send(ctx, pipe)
	waiting := 0
	for _, count := range counts {
		if err := count.Err(); err != nil && !errors.Is(err, redis.Nil) {
			return 0, fmt.Errorf("count waiting actions: %w", rdb.MapError(ctx, err))
		}
		waiting += int(rdb.Atoi(count.Val()))
	}
	return waiting, nil
}

// memoryOf is the memory of a server, in bytes; most is 0 without a maxmemory.
type memoryOf struct{ used, most float64 }

// readMemory reads used_memory and maxmemory.
func readMemory(info string) (m memoryOf) {
	for line := range strings.SplitSeq(info, "\r\n") {
		name, value, _ := strings.Cut(line, ":")
		switch name {
		case "used_memory":
			m.used = float64(rdb.Atoi(value))
		case "maxmemory":
			m.most = float64(rdb.Atoi(value))
		}
	}
	return m
}
