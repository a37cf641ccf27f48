package batches

import (
	"context"
	"fmt"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/crash"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/tasks"
)

// Cancel implements [batch.Store].
func (b *Batches) Cancel(ctx context.Context, owner, id string) (*batch.Batch, error) {
	if !keys.IsBatchID(id) || owner == "" {
		return nil, batch.ErrNotFound
	}
	// The batch is verified before it is changed.
	if _, err := b.Get(ctx, owner, id, 0); err != nil {
		return nil, err
	}
	// If this process dies after the step, the sweeper enqueues the webhook of the batch.
	if err := b.Index.ReopenAll(ctx, []string{id}); err != nil {
		return nil, fmt.Errorf("cancel batch %s: %w", id, err)
	}
	reply, err := b.db.Run(ctx, Steps.Stop, keys.KeysOf(id).Step(), id, keys.DoneChannel, owner, "cancelled")
	if err != nil {
		b.Doubts.AddIf(id, err)
		return nil, fmt.Errorf("cancel batch %s: %w", id, err)
	}
	if err := VerdictError(reply[0]); err != nil {
		return nil, err
	}
	crash.At(crash.Cancelled)
	b.Outbox.EnqueueIf(ctx, id, reply[1])
	b.RetractInBackground(id, reply[2:])
	return b.Get(ctx, owner, id, 0)
}

// Expire ends the waiting actions of a batch, if its deadline has passed.
func (b *Batches) Expire(ctx context.Context, id string) error {
	reply, err := b.db.Run(ctx, Steps.Stop, keys.KeysOf(id).Step(), id, keys.DoneChannel, "", "expired")
	if err != nil {
		return fmt.Errorf("expire batch %s: %w", id, err)
	}
	crash.At(crash.Expired)
	b.Outbox.EnqueueIf(ctx, id, reply[1])
	b.RetractInBackground(id, reply[2:])
	return nil
}

// EndOverdue ends the running actions of a batch, as unknown. The caller decides when the batch is
// overdue, which is some time after its deadline.
func (b *Batches) EndOverdue(ctx context.Context, id string) error {
	reply, err := b.db.Run(ctx, Steps.Stop, keys.KeysOf(id).Step(), id, keys.DoneChannel, "", "overdue")
	if err != nil {
		return fmt.Errorf("end the overdue actions of batch %s: %w", id, err)
	}
	b.Outbox.EnqueueIf(ctx, id, reply[1])
	return nil
}

// RetractInBackground removes the waiting actions of a batch from the fair queues. Of the batch it gets
// the owner, target, lane and round, as a step returned them; without them it does nothing.
func (b *Batches) RetractInBackground(id string, of []string) {
	if f := tasks.FlowOfBatch(id, of); f.ID != "" {
		b.background.Detach(func(ctx context.Context) { b.tasks.Retract(ctx, f) })
	}
}
