package queue

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hibiken/asynq"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/rdb"
)

const (
	// trippedKey lists the targets whose circuit is open.
	trippedKey = "batchd:tripped"
	// holdChannel tells the workers of targets that are held.
	holdChannel = "batchd:hold"
)

func gateKey(target string) string { return "batchd:gate:{" + target + "}" }

// Hold implements [batch.Gate].
func (s *Store) Hold(ctx context.Context, target string, d time.Duration) error {
	if _, err := s.db.Run(ctx, s.steps.hold, []string{gateKey(target)}, target, d.Microseconds(), holdChannel); err != nil {
		return fmt.Errorf("hold target %s: %w", target, err)
	}
	return nil
}

// Holds implements [batch.Gate].
func (s *Store) Holds(f func(target string, d time.Duration)) (stop func()) {
	return s.pubsub.Listen(holdChannel, func(message string) {
		micros, target, ok := strings.Cut(message, " ")
		if ok {
			f(target, time.Duration(rdb.Atoi(micros))*time.Microsecond)
		}
	})
}

// Trip implements [batch.Gate]. The queues are paused after the circuit is
// noted, and an open circuit pauses them anew, so that a crash in between leaves
// no queue paused that nobody knows of.
func (s *Store) Trip(ctx context.Context, target string) (bool, error) {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	added, err := s.db.Client.SAdd(ctx, trippedKey, target).Result()
	if err != nil {
		return false, rdb.MapError(ctx, err)
	}
	return added == 1, s.eachLane(ctx, target, s.inspect.PauseQueue)
}

// Reset implements [batch.Gate].
func (s *Store) Reset(ctx context.Context, target string) error {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	if err := s.eachLane(ctx, target, s.inspect.UnpauseQueue); err != nil {
		return err
	}
	if err := s.db.Client.HDel(ctx, gateKey(target), "held").Err(); err != nil {
		return rdb.MapError(ctx, err)
	}
	if err := s.db.Client.SRem(ctx, trippedKey, target).Err(); err != nil {
		return rdb.MapError(ctx, err)
	}
	return rdb.MapError(ctx, s.db.Client.Publish(ctx, holdChannel, "0 "+target).Err())
}

// eachLane pauses or unpauses all queues of a target. asynq answers an error
// where that changes nothing.
func (s *Store) eachLane(ctx context.Context, target string, change func(queue string) error) error {
	for _, queue := range append(s.queuesOf(route{target, batch.Interactive}), s.queuesOf(route{target, batch.Bulk})...) {
		err := change(queue)
		if err == nil || errors.Is(err, asynq.ErrQueueNotFound) {
			continue
		}
		if text := err.Error(); strings.Contains(text, "already") || strings.Contains(text, "not paused") {
			continue
		}
		return fmt.Errorf("pause or resume the queue: %w", rdb.MapError(ctx, err))
	}
	return nil
}

// Tripped implements [batch.Gate].
func (s *Store) Tripped(ctx context.Context) ([]string, error) {
	return s.db.Members(ctx, trippedKey)
}
