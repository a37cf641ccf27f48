package ledger

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
)

// Alive returns the workers that are not dead: Redis had a beat of each within batch.DeadAfter, by its
// own clock. It also returns the time by that clock.
func (w *Workers) Alive(ctx context.Context) (names []string, now time.Time, err error) {
	now, err = w.db.Now(ctx)
	if err != nil {
		return nil, now, err
	}
	ctx, cancel := w.db.WithTimeout(ctx)
	defer cancel()
	names, err = w.db.Client.ZRangeByScore(ctx, keys.WorkersKey, &redis.ZRangeBy{
		Min: fmt.Sprint(now.Add(-batch.DeadAfter).UnixMilli()), Max: "+inf",
	}).Result()
	return names, now, rdb.MapError(ctx, err)
}

// Beat implements [batch.Registry]. If Redis has forgotten the worker's last beat, it may have gone
// back to an earlier state; the process then repeats its last steps.
func (w *Workers) Beat(ctx context.Context, worker string) ([]string, error) {
	last, _ := w.beats.Load(worker)
	answer, err := w.db.Run(ctx, Steps.Beat, []string{keys.WorkersKey}, worker, rdb.Millis(batch.DeadAfter), rdb.Text(last))
	if err != nil {
		return nil, fmt.Errorf("record a heartbeat: %w", err)
	}
	if len(answer) < 2 {
		return nil, rdb.ErrAnswer
	}
	w.beats.Store(worker, answer[0])
	if answer[1] == "1" {
		w.history.setBack()
	}
	return answer[2:], nil
}

// Leave implements [batch.Registry].
func (w *Workers) Leave(ctx context.Context, worker string) error {
	w.beats.Delete(worker)
	ctx, cancel := w.db.WithTimeout(ctx)
	defer cancel()
	return rdb.MapError(ctx, w.db.Client.ZRem(ctx, keys.WorkersKey, worker).Err())
}
