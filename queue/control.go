package queue

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/crash"
	"github.com/batchd/batchd/queue/rdb"
)

// Cancel implements [batch.Store].
func (s *Store) Cancel(ctx context.Context, owner, id string) (*batch.Batch, error) {
	if !known(id) || owner == "" {
		return nil, batch.ErrNotFound
	}
	// The sweeper sends the webhook of a batch that ends here, should this process die.
	if err := s.reopenAll(ctx, []string{id}); err != nil {
		return nil, fmt.Errorf("cancel batch %s: %w", id, err)
	}
	answer, err := s.db.Run(ctx, s.steps.stop, keysOf(id).step(), id, doneChannel, owner, "cancelled")
	if err != nil {
		return nil, fmt.Errorf("cancel batch %s: %w", id, err)
	}
	if err := verdictError(answer[0]); err != nil {
		return nil, err
	}
	crash.At(crash.Cancelled)
	s.tellIf(ctx, id, answer[1])
	s.retractAside(id, answer[2:])
	return s.Get(ctx, owner, id, 0)
}

// expire ends what is not begun of a batch whose deadline has passed.
func (s *Store) expire(ctx context.Context, id string) error {
	answer, err := s.db.Run(ctx, s.steps.stop, keysOf(id).step(), id, doneChannel, "", "expired")
	if err != nil {
		return fmt.Errorf("expire batch %s: %w", id, err)
	}
	crash.At(crash.Expired)
	s.tellIf(ctx, id, answer[1])
	s.retractAside(id, answer[2:])
	return nil
}

// retractAside takes back what waits of a batch, by the owner, target, lane and round that a step has returned.
func (s *Store) retractAside(id string, of []string) {
	if f := flowOfBatch(id, of); f.id != "" {
		s.background.Detach(func(ctx context.Context) { s.retract(ctx, f) })
	}
}

// overdue ends what is in flight of a batch long after its deadline, as unknown.
func (s *Store) overdue(ctx context.Context, id string) error {
	answer, err := s.db.Run(ctx, s.steps.stop, keysOf(id).step(), id, doneChannel, "", "overdue")
	if err != nil {
		return fmt.Errorf("end what is overdue of batch %s: %w", id, err)
	}
	s.tellIf(ctx, id, answer[1])
	return nil
}

// Delete implements [batch.Store].
func (s *Store) Delete(ctx context.Context, owner, id string) error {
	if !known(id) {
		return batch.ErrNotFound
	}
	k := keysOf(id)
	answer, err := s.db.Run(ctx, s.steps.erase, append(k.step(), k.deliveries), owner)
	if err != nil {
		return fmt.Errorf("delete batch %s: %w", id, err)
	}
	if answer[0] != "1" {
		return batch.ErrNotFound
	}
	crash.At(crash.Erased)
	s.retractAside(id, answer[4:])
	s.withdraw(ctx, id, answer[1])
	if err := s.forgetGrant(rdb.Detached(ctx), owner, id, answer[2], answer[3]); err != nil {
		s.log.WarnContext(ctx, "grant of a deleted batch left to expire", "batch", id, "error", err)
	}
	ctx, cancel := s.db.WithTimeout(rdb.Detached(ctx))
	defer cancel()
	// What is left if this fails is dropped by whoever meets it.
	pipe := s.db.Client.Pipeline()
	pipe.ZRem(ctx, ownerKey(owner), id)
	pipe.ZRem(ctx, openKey, id)
	for _, cmd := range s.db.Send(ctx, pipe) {
		if err := cmd.Err(); err != nil {
			s.log.WarnContext(ctx, "index entry of a deleted batch left behind", "batch", id, "error", err)
		}
	}
	return nil
}

// staged returns those of the ids, of which none has a batch, whose actions are staged:
// their uploads may be about to commit. No clock decides, since processes differ in the
// time, and an upload takes as long as it takes.
func (s *Store) staged(ctx context.Context, ids []string) (map[string]bool, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	cmds := make([]*redis.IntCmd, len(ids))
	if _, err := s.db.Client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, id := range ids {
			cmds[i] = p.Exists(ctx, keysOf(id).actions)
		}
		return nil
	}); err != nil {
		return nil, rdb.MapError(ctx, err)
	}
	found := make(map[string]bool)
	for i, id := range ids {
		found[id] = cmds[i].Val() > 0
	}
	return found, nil
}
