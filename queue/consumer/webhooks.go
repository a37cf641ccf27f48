package consumer

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/hibiken/asynq"

	"github.com/batchd/batchd/queue/tasks"
)

const (
	// webhookCheck is how often, on average, asynq looks for a webhook while there is none.
	webhookCheck = 500 * time.Millisecond
	// delayedWebhookCheck is how often it looks for webhooks that are due for another attempt.
	delayedWebhookCheck = 1500 * time.Millisecond
)

// webhooks delivers webhooks: an asynq server on their queue, and nothing else.
type webhooks struct{ server *asynq.Server }

// newWebhooks returns a server on the store's connections that delivers so many webhooks at a time.
func (s *Consumers) newWebhooks(cfg asynq.Config, concurrency int) *webhooks {
	cfg.Concurrency = max(concurrency, 1)
	cfg.Queues = map[string]int{tasks.WebhookQueue: 1}
	cfg.TaskCheckInterval = cmp.Or(cfg.TaskCheckInterval, webhookCheck)
	cfg.DelayedTaskCheckInterval = cmp.Or(cfg.DelayedTaskCheckInterval, delayedWebhookCheck)
	delay := cfg.RetryDelayFunc
	if delay == nil {
		delay = asynq.DefaultRetryDelayFunc
	}
	cfg.RetryDelayFunc = func(n int, err error, t *asynq.Task) time.Duration {
		return toWholeSecond(time.Now(), delay(n, err, t))
	}
	return &webhooks{asynq.NewServerFromRedisClient(s.db.Client, cfg)}
}

// start has the handler deliver webhooks. A task of another type is archived, where asynq's tools
// show it with the reason.
func (w *webhooks) start(deliver asynq.HandlerFunc) error {
	return w.server.Start(asynq.HandlerFunc(func(ctx context.Context, t *asynq.Task) error { //nolint:wrapcheck // asynq's message says what is wrong
		if t.Type() != tasks.TaskWebhook {
			return fmt.Errorf("a task of type %.32q in the queue %s, expected %s: %w", t.Type(), tasks.WebhookQueue, tasks.TaskWebhook, asynq.SkipRetry)
		}
		return deliver(ctx, t)
	}))
}

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
