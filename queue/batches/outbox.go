package batches

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/crash"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
)

const (
	// deliveryGrace is how long a batch outlives the time at which the next
	// attempt at its webhook is due.
	deliveryGrace = time.Hour
)

// RoundOf returns the round that a batch is in. The meta hash names it from the second on.
func RoundOf(m map[string]string) int { return max(int(rdb.Atoi(m["round"])), 1) }

// messageID is the webhook-id of the end of a round: the same for every attempt.
func messageID(id string, round int) string {
	if round == 1 {
		return "msg_" + id
	}
	return "msg_" + id + "_" + strconv.Itoa(round)
}

// WebhookTaskID is that of the one task of a delivery. asynq counts its failures, so every
// delivery has the whole schedule.
func WebhookTaskID(id string, delivery int) string {
	return id + ":webhook:" + strconv.Itoa(delivery)
}

// EnqueueIf enqueues the delivery of which a step says that it wrote the outbox mark.
// A failure is only logged: the mark stands, and the sweeper looks for it.
func (s *Outbox) EnqueueIf(ctx context.Context, id, mark string) {
	delivery := int(rdb.Atoi(mark))
	if delivery == 0 {
		return
	}
	crash.At(crash.OutboxMarked)
	if err := s.Enqueue(rdb.Detached(ctx), id, delivery); err != nil {
		s.log.WarnContext(ctx, "webhook not enqueued, the sweeper will do it", "batch", id, "error", err)
		s.Doubts.Doubt(id)
	}
}

// Enqueue enqueues a delivery, and only then clears its outbox mark: a crash in between
// has it enqueued again, which asynq or the ledger refuses. A delivery that was
// withdrawn meanwhile changes nothing of the one that follows.
func (s *Outbox) Enqueue(ctx context.Context, id string, delivery int) error {
	k := keys.KeysOf(id)
	answer, err := s.db.Run(ctx, Steps.Due, append(k.Step(), k.Deliveries), delivery, rdb.Millis(deliveryGrace))
	if err != nil {
		return fmt.Errorf("note that the webhook is due: %w", err)
	}
	if answer[0] != "ok" {
		return nil
	}
	crash.At(crash.WebhookNoted)
	task := tasks.Task{Queue: tasks.WebhookQueue, Kind: tasks.TaskWebhook, ID: WebhookTaskID(id, delivery), Payload: tasks.EncodeTask(id, delivery)}
	if err := s.tasks.EnqueueTasks(ctx, []tasks.Task{task}); err != nil {
		return fmt.Errorf("enqueue the webhook: %w", err)
	}
	crash.At(crash.WebhookEnqueued)
	if _, err := s.db.Run(ctx, Steps.Enqueued, []string{k.Meta}, delivery); err != nil {
		return fmt.Errorf("clear the outbox mark: %w", err)
	}
	return nil
}

// Withdraw removes the task of a delivery that is stale. One that stays, or is under way,
// changes nothing: the ledger refuses what it brings.
func (s *Outbox) Withdraw(ctx context.Context, id, number string) {
	delivery := int(rdb.Atoi(number))
	if delivery == 0 {
		return
	}
	if err := s.tasks.DeleteTask(tasks.WebhookQueue, WebhookTaskID(id, delivery)); err != nil {
		s.log.DebugContext(ctx, "task of a withdrawn webhook left to its worker", "batch", id, "error", err)
	}
}

// Redeliver implements [batch.Store].
func (s *Deliveries) Redeliver(ctx context.Context, owner, id string) error {
	if _, err := s.batches.Get(ctx, owner, id, 0); err != nil {
		return err
	}
	if err := s.Open.Reopen(ctx, id, false); err != nil {
		return err
	}
	answer, err := s.db.Run(ctx, Steps.Redeliver, []string{keys.KeysOf(id).Meta}, owner)
	if err != nil {
		return fmt.Errorf("redeliver the webhook of batch %s: %w", id, err)
	}
	switch answer[0] {
	case "no_webhook":
		return batch.ErrNoWebhook
	case "not_terminal":
		return batch.ErrNotTerminal
	case "gone":
		return batch.ErrNotFound
	}
	s.Outbox.Withdraw(ctx, id, answer[2])
	s.Outbox.EnqueueIf(ctx, id, answer[1])
	return nil
}
