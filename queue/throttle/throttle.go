// Package throttle keeps all workers within the rate of a target, and away from a target that is on hold or
// whose circuit is open.
//
// [Gate] keeps in Redis what all workers know of the targets: holds, open circuits, and the send times
// that were reserved at a target's rate. It implements [batch.Gate]. A [Pacer] belongs to one worker and one
// target with a rate: it reserves send times and hands each task over shortly before one. The request of a
// task then uses its [Claim] to wait for its send time.
//
// The limits of an owner (requests and concurrent actions) are in package limits. How many tasks of a
// target run at a time in one worker is up to package consumer.
package throttle

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
)

// Gate keeps what all workers know of the targets. It implements [batch.Gate]. It is safe for concurrent use.
type Gate struct {
	db     *rdb.DB
	pubsub *rdb.PubSub
	tasks  *tasks.Queues
}

// New returns the gate of the targets in a Redis.
func New(db *rdb.DB, pubsub *rdb.PubSub, queues *tasks.Queues) *Gate {
	return &Gate{db: db, pubsub: pubsub, tasks: queues}
}

// Hold implements [batch.Gate].
func (g *Gate) Hold(ctx context.Context, target string, d time.Duration) error {
	if _, err := g.db.Run(ctx, Steps.Hold, []string{keys.GateKey(target)}, target, d.Microseconds(), keys.HoldChannel); err != nil {
		return fmt.Errorf("hold target %s: %w", target, err)
	}
	return nil
}

// Holds implements [batch.Gate].
func (g *Gate) Holds(f func(target string, d time.Duration)) (stop func()) {
	return g.pubsub.Listen(keys.HoldChannel, func(message string) {
		micros, target, ok := strings.Cut(message, " ")
		if ok {
			f(target, time.Duration(rdb.Atoi(micros))*time.Microsecond)
		}
	})
}

// Trip implements [batch.Gate]. It records the circuit before it pauses the queues, and pauses them again
// if the circuit is open already. So if the process crashes in between, no queue stays paused without a
// record of the reason.
func (g *Gate) Trip(ctx context.Context, target string) (bool, error) {
	ctx, cancel := g.db.WithTimeout(ctx)
	defer cancel()
	added, err := g.db.Client.SAdd(ctx, keys.TrippedKey, target).Result()
	if err != nil {
		return false, rdb.MapError(ctx, err)
	}
	return added == 1, g.tasks.Pause(ctx, target)
}

// Reset implements [batch.Gate].
func (g *Gate) Reset(ctx context.Context, target string) error {
	ctx, cancel := g.db.WithTimeout(ctx)
	defer cancel()
	if err := g.tasks.Resume(ctx, target); err != nil {
		return err
	}
	if err := g.db.Client.HDel(ctx, keys.GateKey(target), "held").Err(); err != nil {
		return rdb.MapError(ctx, err)
	}
	if err := g.db.Client.SRem(ctx, keys.TrippedKey, target).Err(); err != nil {
		return rdb.MapError(ctx, err)
	}
	return rdb.MapError(ctx, g.db.Client.Publish(ctx, keys.HoldChannel, "0 "+target).Err())
}

// Tripped implements [batch.Gate].
func (g *Gate) Tripped(ctx context.Context) ([]string, error) {
	return g.db.Members(ctx, keys.TrippedKey)
}
