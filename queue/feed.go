package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/crash"
)

// throttledKey lists the batches whose actions are handed out as their owners'
// limits allow.
const throttledKey = "batchd:throttled"

// Feed implements [batch.Sweeper].
func (s *Store) Feed(ctx context.Context) (waiting int, err error) {
	ids, err := s.throttled(ctx)
	if err != nil {
		return 0, err
	}
	var faults []error
	for _, id := range ids {
		// One batch that cannot be fed keeps no other waiting.
		if err := s.feed(ctx, id); err != nil {
			faults = append(faults, fmt.Errorf("feed batch %s: %w", id, err))
		}
		if len(faults) > sweepFaults {
			break
		}
	}
	return len(ids), errors.Join(faults...)
}

func (s *Store) throttled(ctx context.Context) ([]string, error) {
	ctx, cancel := s.within(ctx)
	defer cancel()
	ids, err := s.rdb.ZRangeByLex(ctx, throttledKey, &redis.ZRangeBy{Min: "-", Max: "+"}).Result()
	return ids, mapError(ctx, err)
}

// feed hands out as many of a batch's actions as its owner's limit admits now.
func (s *Store) feed(ctx context.Context, id string) error {
	m, err := s.meta(ctx, id)
	if err != nil {
		return err
	}
	f := fanOut{id: id, route: routeOf(m), from: int(atoi(m["enqueued"])), total: int(atoi(m["total"]))}
	var limit batch.Limit
	if len(m) == 0 {
		staged, err := s.staged(ctx, []string{id})
		if err != nil || staged[id] {
			return err // it is about to be committed
		}
	}
	switch {
	case len(m) == 0, m["ending"] != "", f.from >= f.total:
		return s.dismiss(ctx, id)
	}
	if err := json.Unmarshal([]byte(m["throttle"]), &limit); err != nil {
		return fmt.Errorf("read the limit: %w", err)
	}
	given, err := s.admit(ctx, m["owner"], id, f.total-f.from, limit, true)
	if err != nil || given.admitted == 0 {
		return err
	}
	crash.At(crash.Fed)
	f.total = f.from + given.admitted
	return s.fanOut(ctx, f)
}

// dismiss takes a batch off the list.
func (s *Store) dismiss(ctx context.Context, id string) error {
	ctx, cancel := s.within(ctx)
	defer cancel()
	return mapError(ctx, s.rdb.ZRem(ctx, throttledKey, id).Err())
}
