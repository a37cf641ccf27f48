package rdb

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
)

// WithTimeout bounds one exchange with Redis, by [DB.Timeout] and by what is left of the request's
// [batch.Budget]. The caller calls end when the exchange is over.
func (db *DB) WithTimeout(ctx context.Context) (_ context.Context, end context.CancelFunc) {
	budget := batch.BudgetOf(ctx)
	ctx, cancel := context.WithTimeoutCause(ctx, budget.Begin(db.Timeout), db.slow)
	if budget == nil {
		return ctx, cancel
	}
	return ctx, sync.OnceFunc(func() {
		cancel()
		budget.End()
	})
}

// Detached returns a context for work that has to be done even if the caller's context ends, and
// that does not count against the request's [batch.Budget].
func Detached(ctx context.Context) context.Context {
	return batch.WithoutBudget(context.WithoutCancel(ctx))
}

// Send sends the commands of a pipeline in one exchange and returns them. Each has its own reply or its
// own error; see [KeptReplies]. If no connection could be opened, go-redis returns that error only from
// Exec, so Send gives it to every command.
func (db *DB) Send(ctx context.Context, pipe redis.Pipeliner) []redis.Cmder {
	cmds, err := pipe.Exec(ctx)
	if err == nil || slices.ContainsFunc(cmds, func(cmd redis.Cmder) bool { return cmd.Err() != nil }) {
		return cmds
	}
	for _, cmd := range cmds {
		cmd.SetErr(err)
	}
	return cmds
}

// Members returns the members of a set.
func (db *DB) Members(ctx context.Context, key string) ([]string, error) {
	ctx, cancel := db.WithTimeout(ctx)
	defer cancel()
	members, err := db.Client.SMembers(ctx, key).Result()
	return members, MapError(ctx, err)
}

// Now returns the time by Redis's clock, which decides about all deadlines.
func (db *DB) Now(ctx context.Context) (time.Time, error) {
	ctx, cancel := db.WithTimeout(ctx)
	defer cancel()
	now, err := db.Client.Time(ctx).Result()
	return now, MapError(ctx, err)
}

// Unlink removes keys. While Redis is away it tries again, as [RetryUnavailable] does.
func (db *DB) Unlink(ctx context.Context, keys ...string) error {
	return RetryUnavailable(ctx, func() error {
		ctx, cancel := db.WithTimeout(ctx)
		defer cancel()
		return MapError(ctx, db.Client.Unlink(ctx, keys...).Err())
	})
}

// Publish sends a message to all processes that listen to a channel.
func (db *DB) Publish(ctx context.Context, channel, message string) error {
	ctx, cancel := db.WithTimeout(ctx)
	defer cancel()
	return MapError(ctx, db.Client.Publish(ctx, channel, message).Err())
}
