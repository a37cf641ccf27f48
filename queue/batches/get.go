package batches

import (
	"context"
	"fmt"

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

// MetaFor reads the hash of a batch for its owner. For others it returns [batch.ErrNotFound].
func (b *Batches) MetaFor(ctx context.Context, owner, id string) (map[string]string, error) {
	seen, err := b.readFor(ctx, owner, id, window{})
	if err != nil {
		return nil, err
	}
	return seen.meta, nil
}

// Get implements [batch.Store].
func (b *Batches) Get(ctx context.Context, owner, id string, few int) (*batch.Batch, error) {
	seen, err := b.readFor(ctx, owner, id, endedWindow(few))
	if err != nil {
		return nil, err
	}
	return b.batchOf(ctx, id, seen)
}

// OwnerOf implements [batch.Store].
func (b *Batches) OwnerOf(ctx context.Context, owners batch.Owners, id string) (string, error) {
	if !keys.IsBatchID(id) || !owners.All && len(owners.Names) == 0 {
		return "", batch.ErrNotFound
	}
	var among []any
	if !owners.All {
		for _, name := range owners.Names {
			among = append(among, name)
		}
	}
	reply, err := b.db.Run(ctx, Steps.Owner, []string{keys.KeysOf(id).Meta}, among...)
	if err != nil {
		return "", fmt.Errorf("find the owner of batch %s: %w", id, err)
	}
	if reply[0] == "" {
		return "", batch.ErrNotFound
	}
	return reply[0], nil
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

// batchOf returns the batch of a snapshot, with the results that the snapshot has.
func (b *Batches) batchOf(ctx context.Context, id string, seen *snapshot) (*batch.Batch, error) {
	found, err := b.Codec.DecodeBatch(id, seen.meta)
	if err == nil && seen.length >= 0 {
		found.First = b.firstPage(ctx, found, seen)
	}
	return found, err
}

// firstPage returns the results of a snapshot. It returns nil if it cannot read them all; then Results
// returns the error.
func (b *Batches) firstPage(ctx context.Context, of *batch.Batch, seen *snapshot) *batch.ResultPage {
	known := shapeOf(seen.meta)
	if err := seen.check(of.ID, 0, known); err != nil {
		return nil
	}
	indexes, reached, states := seen.choose(0, FirstResults, nil)
	page := &batch.ResultPage{Next: reached}
	var err error
	if page.Results, err = b.openResults(ctx, of.ID, known, indexes, states, seen.results); err != nil {
		return nil
	}
	if reached >= of.Counts.Total {
		page.Next = -1
	}
	return page
}
