package batches

import (
	"context"
	"fmt"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/crash"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
)

// Cancel implements [batch.Store].
func (s *Batches) Cancel(ctx context.Context, owner, id string) (*batch.Batch, error) {
	if !keys.IsBatchID(id) || owner == "" {
		return nil, batch.ErrNotFound
	}
	// The sweeper sends the webhook of a batch that ends here, should this process die.
	if err := s.Index.reopenAll(ctx, []string{id}); err != nil {
		return nil, fmt.Errorf("cancel batch %s: %w", id, err)
	}
	answer, err := s.db.Run(ctx, Steps.Stop, keys.KeysOf(id).Step(), id, keys.DoneChannel, owner, "cancelled")
	if err != nil {
		return nil, fmt.Errorf("cancel batch %s: %w", id, err)
	}
	if err := VerdictError(answer[0]); err != nil {
		return nil, err
	}
	crash.At(crash.Cancelled)
	s.Outbox.EnqueueIf(ctx, id, answer[1])
	s.RetractInBackground(id, answer[2:])
	return s.Get(ctx, owner, id, 0)
}

// Expire ends what is not begun of a batch whose deadline has passed.
func (s *Batches) Expire(ctx context.Context, id string) error {
	answer, err := s.db.Run(ctx, Steps.Stop, keys.KeysOf(id).Step(), id, keys.DoneChannel, "", "expired")
	if err != nil {
		return fmt.Errorf("expire batch %s: %w", id, err)
	}
	crash.At(crash.Expired)
	s.Outbox.EnqueueIf(ctx, id, answer[1])
	s.RetractInBackground(id, answer[2:])
	return nil
}

// RetractInBackground takes back what waits of a batch, by the owner, target, lane and round that a step has returned.
func (s *Batches) RetractInBackground(id string, of []string) {
	if f := tasks.FlowOfBatch(id, of); f.ID != "" {
		s.background.Detach(func(ctx context.Context) { s.tasks.Retract(ctx, f) })
	}
}

// EndOverdue ends what is in flight of a batch long after its deadline, as unknown.
func (s *Batches) EndOverdue(ctx context.Context, id string) error {
	answer, err := s.db.Run(ctx, Steps.Stop, keys.KeysOf(id).Step(), id, keys.DoneChannel, "", "overdue")
	if err != nil {
		return fmt.Errorf("end what is overdue of batch %s: %w", id, err)
	}
	s.Outbox.EnqueueIf(ctx, id, answer[1])
	return nil
}

// Delete implements [batch.Store].
func (s *Batches) Delete(ctx context.Context, owner, id string) error {
	if !keys.IsBatchID(id) {
		return batch.ErrNotFound
	}
	k := keys.KeysOf(id)
	answer, err := s.db.Run(ctx, Steps.Erase, append(k.Step(), k.Deliveries), owner)
	if err != nil {
		return fmt.Errorf("delete batch %s: %w", id, err)
	}
	if answer[0] != "1" {
		return batch.ErrNotFound
	}
	crash.At(crash.Erased)
	s.RetractInBackground(id, answer[4:])
	s.Outbox.Withdraw(ctx, id, answer[1])
	if err := s.limits.ForgetGrant(rdb.Detached(ctx), owner, id, answer[2], answer[3]); err != nil {
		s.log.WarnContext(ctx, "grant of a deleted batch left to expire", "batch", id, "error", err)
	}
	ctx, cancel := s.db.WithTimeout(rdb.Detached(ctx))
	defer cancel()
	// What is left if this fails is dropped by whoever meets it.
	pipe := s.db.Client.Pipeline()
	pipe.ZRem(ctx, keys.OwnerKey(owner), id)
	pipe.ZRem(ctx, keys.OpenKey, id)
	for _, cmd := range s.db.Send(ctx, pipe) {
		if err := cmd.Err(); err != nil {
			s.log.WarnContext(ctx, "index entry of a deleted batch left behind", "batch", id, "error", err)
		}
	}
	return nil
}
