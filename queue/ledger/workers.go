package ledger

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
)

// Alive returns the workers that are not dead.
func (s *Workers) Alive(ctx context.Context) ([]string, error) {
	now, err := s.db.Now(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	names, err := s.db.Client.ZRangeByScore(ctx, keys.WorkersKey, &redis.ZRangeBy{
		Min: fmt.Sprint(now.Add(-batch.DeadAfter).UnixMilli()), Max: "+inf",
	}).Result()
	return names, rdb.MapError(ctx, err)
}

// Beat implements [batch.Registry].
func (s *Workers) Beat(ctx context.Context, worker string) ([]string, error) {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	last, _ := s.beats.Load(worker)
	answer, err := Steps.Beat.Run(ctx, s.db.Client, []string{keys.WorkersKey}, worker, rdb.Millis(batch.DeadAfter), rdb.Text(last)).StringSlice()
	if err != nil {
		return nil, rdb.MapError(ctx, err)
	}
	if len(answer) < 2 {
		return nil, rdb.ErrAnswer
	}
	s.beats.Store(worker, answer[0])
	if answer[1] == "1" {
		s.history.setBack()
	}
	return answer[2:], nil
}

// Leave implements [batch.Registry].
func (s *Workers) Leave(ctx context.Context, worker string) error {
	s.beats.Delete(worker)
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	return rdb.MapError(ctx, s.db.Client.ZRem(ctx, keys.WorkersKey, worker).Err())
}
