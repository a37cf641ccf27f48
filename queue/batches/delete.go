package batches

import (
	"context"
	"fmt"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/crash"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
)

// Delete implements [batch.Store].
func (b *Batches) Delete(ctx context.Context, owner, id string) error {
	if !keys.IsBatchID(id) {
		return batch.ErrNotFound
	}
	k := keys.KeysOf(id)
	reply, err := b.db.Run(ctx, Steps.Erase, append(k.Step(), k.Deliveries), owner)
	if err != nil {
		return fmt.Errorf("delete batch %s: %w", id, err)
	}
	if reply[0] != "1" {
		return batch.ErrNotFound
	}
	crash.At(crash.Erased)
	b.RetractInBackground(id, reply[4:8])
	b.Outbox.Withdraw(ctx, id, reply[1])
	if err := b.limits.ForgetGrant(rdb.Detached(ctx), owner, id, reply[2], reply[3]); err != nil {
		b.log.WarnContext(ctx, "grant of a deleted batch not removed", "batch", id, "error", err)
	}
	if err := b.Quotas.Release(rdb.Detached(ctx), id, batch.Account{Kind: batch.AddressAccount, Name: reply[8]}, batch.Account{Kind: batch.OwnerAccount, Name: owner}); err != nil {
		b.log.WarnContext(ctx, "quota of a deleted batch not released, the sweeper will do it", "batch", id, "error", err)
	}
	ctx, cancel := b.db.WithTimeout(rdb.Detached(ctx))
	defer cancel()
	// If this fails, List and the sweeper remove the entries when they find no batch.
	pipe := b.db.Client.Pipeline()
	pipe.ZRem(ctx, keys.OwnerKey(owner), id)
	pipe.ZRem(ctx, keys.AllBatchesKey, keys.AllBatchesMember(id, owner))
	pipe.ZRem(ctx, keys.OpenKey, id)
	for _, cmd := range b.db.Send(ctx, pipe) {
		if err := cmd.Err(); err != nil {
			b.log.WarnContext(ctx, "list entry of a deleted batch left behind", "batch", id, "error", err)
		}
	}
	return nil
}
