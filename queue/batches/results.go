package batches

import (
	"context"
	"errors"
	"slices"
	"time"

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
	// mostChanges is how often Results reads a part of a batch again that changed meanwhile.
	mostChanges = 5
)

// Results implements [batch.Store].
func (b *Batches) Results(ctx context.Context, owner, id string, q batch.ResultQuery) (*batch.ResultPage, error) {
	page := &batch.ResultPage{Results: [][]byte{}, Next: -1}
	from, size, changes := max(q.From, 0), 0, 0
	seen, of, err := b.readShape(ctx, owner, id, queryWindow(from, q))
	if err != nil {
		return nil, err
	}
	for per := min(q.Limit, FirstResults); from < of.total; {
		if seen == nil {
			if seen, err = b.readStates(ctx, id, from, per, q.Outcomes); err != nil {
				return nil, err
			}
		}
		results, reached, err := b.resultsOf(ctx, id, of, seen, from, per, q.Outcomes)
		seen = nil
		if errors.Is(err, errChanged) {
			if changes++; changes > mostChanges {
				return nil, &batch.UnavailableError{RetryAfter: time.Second, Err: err}
			}
			seen, of, err = b.readShape(ctx, owner, id, queryWindow(from, q))
			if err == nil {
				continue
			}
		}
		if err != nil {
			return nil, err
		}
		for _, r := range results {
			size += len(r)
		}
		page.Results = append(page.Results, results...)
		from, changes = reached, 0
		if len(page.Results) >= q.Limit || size >= pageBytes {
			break
		}
		if len(page.Results) > 0 { // as many as the rest of the page is likely to hold
			per = min(max((pageBytes-size)/max(size/len(page.Results), 1), 1), 1000)
		}
		per = min(per, q.Limit-len(page.Results))
	}
	if from < of.total {
		page.Next = from
	}
	return page, nil
}

// readShape reads a part of a batch for its owner, and verifies its hash.
func (b *Batches) readShape(ctx context.Context, owner, id string, w window) (*snapshot, shape, error) {
	seen, err := b.readFor(ctx, owner, id, w)
	if err != nil {
		return nil, shape{}, err
	}
	return seen, shapeOf(seen.meta), b.verify(id, seen.meta)
}

// resultsOf returns up to limit encoded results of a snapshot that begins at the index from, and the index after the
// last action that it looked at. It returns errChanged if the batch changed meanwhile, so that the caller reads the
// part again.
func (b *Batches) resultsOf(ctx context.Context, id string, of shape, seen *snapshot, from, limit int, outcomes []batch.Outcome) ([][]byte, int, error) {
	if err := seen.check(id, from, of); err != nil {
		if seen.meta == nil {
			err = b.confirm(ctx, id, window{from: from, limit: max(len(seen.states), 1)}, err)
		}
		return nil, 0, err
	}
	indexes, reached, found := seen.choose(from, limit, outcomes)
	sealed := seen.results
	if sealed == nil && len(indexes) > 0 {
		var err error
		if indexes, found, sealed, err = b.readResults(ctx, id, of, indexes, outcomes); err != nil {
			return nil, 0, err
		}
	}
	results, err := b.openResults(ctx, id, of, indexes, found, sealed)
	if err == nil {
		return results, reached, nil
	}
	if damaged := (*damagedResultError)(nil); errors.As(err, &damaged) {
		err = b.confirm(ctx, id, window{from: damaged.index, limit: 1, bytes: 1}, damaged.error)
	}
	return nil, 0, err
}

// damagedResultError is the error of the result of one action.
type damagedResultError struct {
	error
	index int
}

// Unwrap returns the error of the action's result.
func (e *damagedResultError) Unwrap() error { return e.error }

// readResults reads the sealed results of actions that had certain outcomes, in one step with their states.
// It leaves out those that have another outcome by now.
func (b *Batches) readResults(ctx context.Context, id string, of shape, indexes []int, outcomes []batch.Outcome) (kept []int, found []byte, sealed []any, err error) {
	first, last := indexes[0], indexes[len(indexes)-1]
	now, err := b.read(ctx, id, first, last, indexes)
	if err != nil {
		return nil, nil, nil, err
	}
	err = now.check(id, first, of)
	if err == nil && len(now.states) != last-first+1 {
		err = contradiction(id, "it has not as many states as actions")
	}
	if err != nil {
		return nil, nil, nil, b.confirm(ctx, id, window{from: first, limit: last - first + 1}, err)
	}
	for i, index := range indexes {
		if state := now.states[index-first]; slices.Contains(outcomes, states[state]) {
			kept, found, sealed = append(kept, index), append(found, state), append(sealed, now.results[i])
		}
	}
	return kept, found, sealed, nil
}

// openResults opens the sealed results of actions in the given states, and makes those of actions that have none. An
// error about the result of one action is a damagedResultError.
func (b *Batches) openResults(ctx context.Context, id string, of shape, indexes []int, states []byte, sealed []any) ([][]byte, error) {
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
	if len(bare) > 0 {
		ctx, cancel := b.db.WithTimeout(ctx)
		defer cancel()
		k := keys.KeysOf(id)
		pipe := b.db.Client.Pipeline()
		ofActions, ofEntries := pipe.HMGet(ctx, k.Actions, rdb.FieldsOf(bare)...), pipe.HMGet(ctx, k.Ledger, rdb.FieldsOf(bare)...)
		ofLasts := pipe.HMGet(ctx, k.Groups, lastFieldsOf(bare)...)
		if _, err := pipe.Exec(ctx); err != nil {
			return nil, readError(ctx, id, err)
		}
		actions, entries, lasts = ofActions.Val(), ofEntries.Val(), ofLasts.Val()
	}
	out := make([][]byte, len(indexes))
	at := 0
	for i, index := range indexes {
		var err error
		if hasResult(states[i]) {
			out[i], err = b.Codec.openResult(id, index, states[i], rdb.Text(sealed[i]))
		} else {
			out[i], err = b.Codec.encodeWithoutResult(&withoutResult{
				id: id, index: index, state: states[i], of: of,
				action: rdb.Text(actions[at]), entry: rdb.Text(entries[at]), result: rdb.Text(sealed[i]), last: rdb.Text(lasts[at]),
			})
			at++
		}
		if err != nil {
			return nil, &damagedResultError{err, index}
		}
	}
	return out, nil
}
