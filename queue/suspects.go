package queue

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// suspectsEvery is how often the sweeper looks for queues with tasks that nobody runs.
const suspectsEvery = 10 * time.Second

// suspects returns the queues that have tasks whose leases have run out, from time to time,
// and none otherwise: their workers died, or were not answered. While work may have been
// lost, these are all queues.
func (s *Store) suspects(ctx context.Context) ([]string, error) {
	if time.Since(s.suspected) < suspectsEvery {
		return nil, nil
	}
	queues, err := s.taskQueues(ctx)
	if err != nil || len(queues) == 0 {
		return nil, err
	}
	if s.schedule.alerted() {
		s.suspected = time.Now()
		return queues, nil
	}
	now, err := s.db.Now(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	pipe := s.db.Client.Pipeline()
	counts := make([]*redis.IntCmd, len(queues))
	for i, queue := range queues {
		counts[i] = pipe.ZCount(ctx, asynqPrefix(queue)+"lease", "-inf", "("+strconv.FormatInt(now.Unix(), 10))
	}
	s.db.Send(ctx, pipe)
	var found []string
	for i, count := range counts {
		if count.Err() == nil && count.Val() > 0 {
			found = append(found, queues[i])
		}
	}
	s.suspected = time.Now()
	return found, nil
}

// taskQueues returns the queues of actions that there are.
func (s *Store) taskQueues(ctx context.Context) ([]string, error) {
	all, err := s.db.Members(ctx, asynqQueues)
	if err != nil {
		return nil, fmt.Errorf("list the queues: %w", err)
	}
	queues := all[:0]
	for _, queue := range all {
		if queue != WebhookQueue {
			queues = append(queues, queue)
		}
	}
	return queues, nil
}
