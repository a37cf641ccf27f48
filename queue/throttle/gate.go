package throttle

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
)

// Hold implements [batch.Gate].
func (s *Gate) Hold(ctx context.Context, target string, d time.Duration) error {
	if _, err := s.db.Run(ctx, Steps.Hold, []string{keys.GateKey(target)}, target, d.Microseconds(), keys.HoldChannel); err != nil {
		return fmt.Errorf("hold target %s: %w", target, err)
	}
	return nil
}

// Holds implements [batch.Gate].
func (s *Gate) Holds(f func(target string, d time.Duration)) (stop func()) {
	return s.pubsub.Listen(keys.HoldChannel, func(message string) {
		micros, target, ok := strings.Cut(message, " ")
		if ok {
			f(target, time.Duration(rdb.Atoi(micros))*time.Microsecond)
		}
	})
}

// Trip implements [batch.Gate]. The queues are paused after the circuit is
// noted, and an open circuit pauses them anew, so that a crash in between leaves
// no queue paused that nobody knows of.
func (s *Gate) Trip(ctx context.Context, target string) (bool, error) {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	added, err := s.db.Client.SAdd(ctx, keys.TrippedKey, target).Result()
	if err != nil {
		return false, rdb.MapError(ctx, err)
	}
	return added == 1, s.tasks.EachLane(ctx, target, s.tasks.Inspect.PauseQueue)
}

// Reset implements [batch.Gate].
func (s *Gate) Reset(ctx context.Context, target string) error {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	if err := s.tasks.EachLane(ctx, target, s.tasks.Inspect.UnpauseQueue); err != nil {
		return err
	}
	if err := s.db.Client.HDel(ctx, keys.GateKey(target), "held").Err(); err != nil {
		return rdb.MapError(ctx, err)
	}
	if err := s.db.Client.SRem(ctx, keys.TrippedKey, target).Err(); err != nil {
		return rdb.MapError(ctx, err)
	}
	return rdb.MapError(ctx, s.db.Client.Publish(ctx, keys.HoldChannel, "0 "+target).Err())
}

// Tripped implements [batch.Gate].
func (s *Gate) Tripped(ctx context.Context) ([]string, error) {
	return s.db.Members(ctx, keys.TrippedKey)
}
