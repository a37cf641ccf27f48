package batches

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/batchd/batchd/internal/crash"
	"github.com/batchd/batchd/queue/index"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
)

// deliveryGrace is how long a batch is kept after the time at which the next attempt at its webhook is
// due.
const deliveryGrace = time.Hour

// Outbox enqueues the webhooks of batches that have ended. The step that ends a batch marks the
// delivery as due in the batch's hash; the mark is cleared once a task for the delivery exists.
type Outbox struct {
	db     *rdb.DB
	log    *slog.Logger
	tasks  *tasks.Queues
	doubts *index.Doubts
}

// webhookTaskID returns the id of the one task of a delivery. asynq counts the failures of a task, so
// each delivery has the whole retry schedule.
func webhookTaskID(id string, delivery int) string {
	return id + ":webhook:" + strconv.Itoa(delivery)
}

// EnqueueIf enqueues the delivery that a step has marked, by the number that the step returned; with
// "0" or "" it does nothing. It logs a failure and returns none: the mark remains, and the sweeper
// looks for it.
func (o *Outbox) EnqueueIf(ctx context.Context, id, mark string) {
	delivery := int(rdb.Atoi(mark))
	if delivery == 0 {
		return
	}
	crash.At(crash.OutboxMarked)
	if err := o.Enqueue(rdb.Detached(ctx), id, delivery); err != nil {
		o.log.WarnContext(ctx, "webhook not enqueued, the sweeper will do it", "batch", id, "error", err)
		o.doubts.Add(id)
	}
}

// Enqueue enqueues a delivery, and clears its mark afterwards. After a crash between the two, the
// sweeper enqueues the delivery again, which asynq or the ledger refuses. Enqueueing a delivery that
// was withdrawn has no effect on a later one.
func (o *Outbox) Enqueue(ctx context.Context, id string, delivery int) error {
	k := keys.KeysOf(id)
	reply, err := o.db.Run(ctx, Steps.Due, append(k.Step(), k.Deliveries), delivery, rdb.Millis(deliveryGrace))
	if err != nil {
		return fmt.Errorf("keep the batch for its webhook: %w", err)
	}
	if reply[0] != "ok" {
		return nil
	}
	crash.At(crash.WebhookNoted)
	task := tasks.Task{Queue: tasks.WebhookQueue, Kind: tasks.TaskWebhook, ID: webhookTaskID(id, delivery), Payload: tasks.EncodeTask(id, delivery)}
	if err := o.tasks.EnqueueTasks(ctx, []tasks.Task{task}); err != nil {
		return fmt.Errorf("enqueue the webhook: %w", err)
	}
	crash.At(crash.WebhookEnqueued)
	if _, err := o.db.Run(ctx, Steps.Enqueued, []string{k.Meta}, delivery); err != nil {
		return fmt.Errorf("clear the outbox mark: %w", err)
	}
	return nil
}

// Withdraw removes the task of a delivery that is stale, by the number that a step returned; with "0"
// or "" it does nothing. If the task remains or already runs, the ledger refuses its outcome.
func (o *Outbox) Withdraw(ctx context.Context, id, number string) {
	delivery := int(rdb.Atoi(number))
	if delivery == 0 {
		return
	}
	if err := o.tasks.DeleteTask(tasks.WebhookQueue, webhookTaskID(id, delivery)); err != nil {
		o.log.DebugContext(ctx, "task of a withdrawn webhook left to its worker", "batch", id, "error", err)
	}
}
