package batches

import (
	"context"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
)

const (
	// pageBytes is about the size at which a page of results ends, whatever its limit.
	pageBytes = 1 << 20
	// FirstResults and FirstBytes bound the results that one exchange reads while their sizes are not
	// known.
	FirstResults = 100
	// FirstBytes is in bytes of sealed results.
	FirstBytes = 64 << 10
)

// Results implements [batch.Store].
func (b *Batches) Results(ctx context.Context, owner, id string, q batch.ResultQuery) (*batch.ResultPage, error) {
	page := &batch.ResultPage{Results: [][]byte{}, Next: -1}
	from, size := max(q.From, 0), 0
	seen, err := b.readFor(ctx, owner, id, queryWindow(from, q))
	if err != nil {
		return nil, err
	}
	if err := b.Codec.Verify(id, seen.meta); err != nil {
		return nil, err
	}
	total := int(rdb.Atoi(seen.meta["total"]))
	for per := min(q.Limit, FirstResults); from < total; {
		if seen == nil {
			if seen, err = b.readStates(ctx, id, from, per, q.Outcomes); err != nil {
				return nil, err
			}
		}
		indexes, reached, states, err := seen.choose(from, per, q.Outcomes)
		if err != nil {
			return nil, err
		}
		results, err := b.openResults(ctx, id, indexes, states, seen.results)
		if err != nil {
			return nil, err
		}
		for _, r := range results {
			size += len(r)
		}
		page.Results = append(page.Results, results...)
		from, seen = reached, nil
		if len(page.Results) >= q.Limit || size >= pageBytes {
			break
		}
		if len(page.Results) > 0 { // as many as the rest of the page is likely to hold
			per = min(max((pageBytes-size)/max(size/len(page.Results), 1), 1), 1000)
		}
		per = min(per, q.Limit-len(page.Results))
	}
	if from < total {
		page.Next = from
	}
	return page, nil
}

// openResults returns the encoded results of actions in the given states. It reads the sealed results
// unless the caller has read them with the states, and makes those of actions that have none.
func (b *Batches) openResults(ctx context.Context, id string, indexes []int, states []byte, sealed []any) ([][]byte, error) {
	if len(indexes) == 0 {
		return nil, nil
	}
	var bare []int // actions without a result
	for i, index := range indexes {
		if !hasResult(states[i]) {
			bare = append(bare, index)
		}
	}
	var actions, entries, lasts []any
	if sealed == nil || len(bare) > 0 {
		ctx, cancel := b.db.WithTimeout(ctx)
		defer cancel()
		k := keys.KeysOf(id)
		results, ofActions, ofEntries, ofLasts := &redis.SliceCmd{}, &redis.SliceCmd{}, &redis.SliceCmd{}, &redis.SliceCmd{}
		pipe := b.db.Client.Pipeline()
		if sealed == nil {
			results = pipe.HMGet(ctx, k.Results, rdb.FieldsOf(indexes)...)
		}
		if len(bare) > 0 {
			ofActions, ofEntries = pipe.HMGet(ctx, k.Actions, rdb.FieldsOf(bare)...), pipe.HMGet(ctx, k.Ledger, rdb.FieldsOf(bare)...)
			ofLasts = pipe.HMGet(ctx, k.Groups, lastFieldsOf(bare)...)
		}
		if _, err := pipe.Exec(ctx); err != nil {
			return nil, rdb.MapError(ctx, err)
		}
		if sealed == nil {
			sealed = results.Val()
		}
		actions, entries, lasts = ofActions.Val(), ofEntries.Val(), ofLasts.Val()
	}
	out := make([][]byte, len(indexes))
	at := 0
	for i, index := range indexes {
		var err error
		if hasResult(states[i]) {
			text, ok := sealed[i].(string)
			if !ok || text == "" {
				return nil, batch.ErrNotFound
			}
			out[i], err = b.Codec.openResult(id, index, states[i], text)
		} else {
			out[i], err = b.Codec.encodeWithoutResult(&withoutResult{
				id: id, index: index, state: states[i],
				action: rdb.Text(actions[at]), entry: rdb.Text(entries[at]), result: rdb.Text(sealed[i]), last: rdb.Text(lasts[at]),
			})
			at++
		}
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}
