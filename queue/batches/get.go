package batches

import (
	"context"
	"errors"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
)

// Meta reads the hash of a batch. It is empty if there is no batch.
func (b *Batches) Meta(ctx context.Context, id string) (map[string]string, error) {
	ctx, cancel := b.db.WithTimeout(ctx)
	defer cancel()
	m, err := b.db.Client.HGetAll(ctx, keys.KeysOf(id).Meta).Result()
	return m, rdb.MapError(ctx, err)
}

// Get implements [batch.Store].
func (b *Batches) Get(ctx context.Context, owner, id string, few int) (*batch.Batch, error) {
	if !keys.IsBatchID(id) {
		return nil, batch.ErrNotFound
	}
	seen, err := b.readHead(ctx, id, few)
	if err != nil {
		return nil, err
	}
	if len(seen.meta) == 0 || seen.meta["owner"] != owner {
		return nil, batch.ErrNotFound
	}
	return b.batchOf(ctx, id, seen)
}

// OwnerOf implements [batch.Store].
func (b *Batches) OwnerOf(ctx context.Context, id string) (string, error) {
	if !keys.IsBatchID(id) {
		return "", batch.ErrNotFound
	}
	ctx, cancel := b.db.WithTimeout(ctx)
	defer cancel()
	owner, err := b.db.Client.HGet(ctx, keys.KeysOf(id).Meta, "owner").Result()
	if errors.Is(err, redis.Nil) {
		return "", batch.ErrNotFound
	}
	return owner, rdb.MapError(ctx, err)
}

// EndedBatch decodes a batch from the reply of the step that ended it. It returns nil if it cannot;
// then the caller reads the batch.
func (b *Batches) EndedBatch(ctx context.Context, id string, reply any) *batch.Batch {
	parts, ok := reply.([]any)
	if !ok {
		return nil
	}
	seen, err := parseSnapshot(parts)
	if err != nil {
		return nil
	}
	ended, err := b.batchOf(ctx, id, seen)
	if err != nil {
		return nil
	}
	return ended
}

// readHead reads the hash of a batch, and the first results if it has ended and has at most few
// actions.
func (b *Batches) readHead(ctx context.Context, id string, few int) (*snapshot, error) {
	if few > 0 {
		return b.readSnapshot(ctx, id, 0, FirstResults, few)
	}
	meta, err := b.Meta(ctx, id)
	return &snapshot{meta: meta}, err
}

// batchOf returns the batch of a snapshot, with the results that the snapshot has.
func (b *Batches) batchOf(ctx context.Context, id string, seen *snapshot) (*batch.Batch, error) {
	found, err := b.Codec.DecodeBatch(id, seen.meta)
	if err == nil && seen.states != "" {
		found.First = b.firstPage(ctx, found, seen)
	}
	return found, err
}

// firstPage returns the results of a snapshot. It returns nil if it cannot read them all; then Results
// returns the error.
func (b *Batches) firstPage(ctx context.Context, of *batch.Batch, seen *snapshot) *batch.ResultPage {
	indexes, reached, states, err := seen.choose(0, FirstResults, nil)
	if err != nil {
		return nil
	}
	page := &batch.ResultPage{Next: reached}
	if page.Results, err = b.openResults(ctx, of.ID, indexes, states, seen.results); err != nil {
		return nil
	}
	if reached >= of.Counts.Total {
		page.Next = -1
	}
	return page
}
