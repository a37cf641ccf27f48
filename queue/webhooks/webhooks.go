// Package webhooks has asynq deliver webhooks: an asynq server on their queue, and nothing else. A worker uses
// it by way of package consumer. Package batches enqueues webhooks, and the worker's handler sends them.
package webhooks

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/hibiken/asynq"

	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
)

const (
	// checkEvery is how often, on average, asynq polls the queue of webhooks while it is empty.
	checkEvery = 500 * time.Millisecond
	// checkDelayedEvery is how often asynq looks for webhooks that are due for another attempt.
	checkDelayedEvery = 1500 * time.Millisecond
)

// Server delivers webhooks.
type Server struct{ asynq *asynq.Server }

// New returns a server on the store's connections that delivers so many webhooks at a time. It ignores
// Concurrency and Queues of the configuration, and needs its RetryDelayFunc.
func New(db *rdb.DB, cfg asynq.Config, concurrency int) *Server {
	return &Server{asynq.NewServerFromRedisClient(db.Client, serverConfig(cfg, concurrency))}
}

// serverConfig returns the configuration of asynq's server; see [New].
func serverConfig(cfg asynq.Config, concurrency int) asynq.Config {
	cfg.Concurrency = max(concurrency, 1)
	cfg.Queues = map[string]int{tasks.WebhookQueue: 1}
	cfg.TaskCheckInterval = cmp.Or(cfg.TaskCheckInterval, checkEvery)
	cfg.DelayedTaskCheckInterval = cmp.Or(cfg.DelayedTaskCheckInterval, checkDelayedEvery)
	delay := cfg.RetryDelayFunc
	cfg.RetryDelayFunc = func(n int, err error, t *asynq.Task) time.Duration {
		return toWholeSecond(time.Now(), delay(n, err, t))
	}
	return cfg
}

// Start begins to deliver webhooks with the handler, and returns at once. asynq archives a task of another
// type, so that its tools show the task with the reason.
func (s *Server) Start(deliver asynq.HandlerFunc) error {
	return s.asynq.Start(asynq.HandlerFunc(func(ctx context.Context, t *asynq.Task) error { //nolint:wrapcheck // asynq's message says what is wrong
		if t.Type() != tasks.TaskWebhook {
			return fmt.Errorf("a task of type %.32q in the queue %s, expected %s: %w", t.Type(), tasks.WebhookQueue, tasks.TaskWebhook, asynq.SkipRetry)
		}
		return deliver(ctx, t)
	}))
}

// Stop takes no further webhooks.
func (s *Server) Stop() { s.asynq.Stop() }

// Shutdown stops the server, and returns when the handlers have returned or after
// [asynq.Config.ShutdownTimeout].
func (s *Server) Shutdown() { s.asynq.Shutdown() }

// toWholeSecond lengthens a delay such that it ends with a second: asynq keeps retry times in
// whole seconds and cuts the rest off, which would make an attempt come too early.
func toWholeSecond(now time.Time, d time.Duration) time.Duration {
	if d <= 0 {
		return d
	}
	at := now.Add(d)
	if whole := at.Truncate(time.Second); !whole.Equal(at) {
		return whole.Add(time.Second).Sub(now)
	}
	return d
}
