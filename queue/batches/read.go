package batches

import (
	"context"
	"fmt"
	"slices"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
)

const (
	// PageBytes is about where a page of results ends, whatever its limit.
	PageBytes = 1 << 20
	// stateWindow is the number of states looked at in one exchange.
	stateWindow = 16 << 10
	// FirstResults and firstBytes bound what is read before it is known how large
	// results are.
	FirstResults = 100
	FirstBytes   = 64 << 10
)

// Meta reads the hash of a batch; it is empty if there is none.
func (s *Batches) Meta(ctx context.Context, id string) (map[string]string, error) {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	m, err := s.db.Client.HGetAll(ctx, keys.KeysOf(id).Meta).Result()
	return m, rdb.MapError(ctx, err)
}

// Get implements [batch.Store].
func (s *Batches) Get(ctx context.Context, owner, id string, few int) (*batch.Batch, error) {
	if !keys.IsBatchID(id) {
		return nil, batch.ErrNotFound
	}
	seen, err := s.readHead(ctx, id, few)
	if err != nil {
		return nil, err
	}
	if len(seen.meta) == 0 || seen.meta["owner"] != owner {
		return nil, batch.ErrNotFound
	}
	return s.batchOf(ctx, id, seen)
}

// batchOf returns a batch that was seen, and the results that were seen with it.
func (s *Batches) batchOf(ctx context.Context, id string, seen *Snapshot) (*batch.Batch, error) {
	b, err := s.Codec.DecodeBatch(id, seen.meta)
	if err == nil && seen.states != "" {
		b.First = s.firstPage(ctx, b, seen)
	}
	return b, err
}

// readHead reads a batch's head, and its first results if Get is to answer with them.
func (s *Batches) readHead(ctx context.Context, id string, few int) (*Snapshot, error) {
	if few > 0 {
		return s.readSnapshot(ctx, id, 0, FirstResults, few)
	}
	meta, err := s.Meta(ctx, id)
	return &Snapshot{meta: meta}, err
}

// firstPage returns the results that were seen with a batch. What cannot be read is
// left for Results to say.
func (s *Batches) firstPage(ctx context.Context, b *batch.Batch, seen *Snapshot) *batch.ResultPage {
	indexes, reached, states, err := seen.choose(0, FirstResults, nil)
	if err != nil {
		return nil
	}
	page := &batch.ResultPage{Next: reached}
	if page.Results, err = s.read(ctx, b.ID, indexes, states, seen.results); err != nil {
		return nil
	}
	if reached >= b.Counts.Total {
		page.Next = -1
	}
	return page
}

// Results implements [batch.Store].
func (s *Batches) Results(ctx context.Context, owner, id string, q batch.ResultQuery) (*batch.ResultPage, error) {
	if !keys.IsBatchID(id) {
		return nil, batch.ErrNotFound
	}
	page := &batch.ResultPage{Results: [][]byte{}, Next: -1}
	from, size := max(q.From, 0), 0
	seen, err := s.firstSnapshot(ctx, id, from, q)
	if err != nil {
		return nil, err
	}
	if len(seen.meta) == 0 || seen.meta["owner"] != owner {
		return nil, batch.ErrNotFound
	}
	total := int(rdb.Atoi(seen.meta["total"]))
	for per := min(q.Limit, FirstResults); from < total; {
		if seen == nil {
			if seen, err = s.readStates(ctx, id, from, per, q.Outcomes); err != nil {
				return nil, err
			}
		}
		indexes, reached, states, err := seen.choose(from, per, q.Outcomes)
		if err != nil {
			return nil, err
		}
		results, err := s.read(ctx, id, indexes, states, seen.results)
		if err != nil {
			return nil, err
		}
		for _, r := range results {
			size += len(r)
		}
		page.Results = append(page.Results, results...)
		from, seen = reached, nil
		if len(page.Results) >= q.Limit || size >= PageBytes {
			break
		}
		if len(page.Results) > 0 { // as many as the rest of the page is likely to hold
			per = min(max((PageBytes-size)/max(size/len(page.Results), 1), 1), 1000)
		}
		per = min(per, q.Limit-len(page.Results))
	}
	if from < total {
		page.Next = from
	}
	return page, nil
}

// Snapshot is what one look at a batch finds, from some action on.
type Snapshot struct {
	meta    map[string]string // of the first look
	states  string
	results []any // of the same actions, unless some of them are to be left out
}

// firstSnapshot reads a batch's head, and what is known before anything is of the rest.
func (s *Batches) firstSnapshot(ctx context.Context, id string, from int, q batch.ResultQuery) (*Snapshot, error) {
	if len(q.Outcomes) > 0 {
		ctx, cancel := s.db.WithTimeout(ctx)
		defer cancel()
		k := keys.KeysOf(id)
		pipe := s.db.Client.Pipeline()
		meta, states := pipe.HGetAll(ctx, k.Meta), pipe.GetRange(ctx, k.State, int64(from), int64(from+stateWindow-1))
		if _, err := pipe.Exec(ctx); err != nil {
			return nil, rdb.MapError(ctx, err)
		}
		return &Snapshot{meta: meta.Val(), states: states.Val()}, nil
	}
	return s.readSnapshot(ctx, id, from, min(q.Limit, FirstResults), 0)
}

// readSnapshot reads in one step a batch's head and up to limit results that are not too
// large, of any batch, or, unless few is 0, only of one that has ended and has at most so
// many actions.
func (s *Batches) readSnapshot(ctx context.Context, id string, from, limit, few int) (*Snapshot, error) {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	k := keys.KeysOf(id)
	parts, err := Steps.Snapshot.Run(ctx, s.db.Client, []string{k.Meta, k.State, k.Results}, from, limit, FirstBytes, few).Slice()
	if err != nil {
		return nil, rdb.MapError(ctx, err)
	}
	return parseSnapshot(parts)
}

// parseSnapshot reads the answer of a step: fields and values of the meta hash in turn,
// states, and results of the first ones.
func parseSnapshot(parts []any) (*Snapshot, error) {
	if len(parts) != 3 {
		return nil, rdb.ErrAnswer
	}
	pairs, _ := parts[0].([]any)
	seen := &Snapshot{meta: make(map[string]string, len(pairs)/2)}
	for i := 0; i+1 < len(pairs); i += 2 {
		seen.meta[rdb.Text(pairs[i])] = rdb.Text(pairs[i+1])
	}
	seen.results, _ = parts[2].([]any)
	if seen.states = rdb.Text(parts[1]); len(seen.states) < len(seen.results) {
		return nil, rdb.ErrAnswer
	}
	seen.states = seen.states[:len(seen.results)] // the rest may be large
	return seen, nil
}

// readStates reads in one exchange what is needed of up to limit actions, or finds those
// with one of the outcomes.
func (s *Batches) readStates(ctx context.Context, id string, from, limit int, outcomes []batch.Outcome) (*Snapshot, error) {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	window := limit
	if len(outcomes) > 0 {
		window = stateWindow
	}
	k := keys.KeysOf(id)
	results := &redis.SliceCmd{}
	pipe := s.db.Client.Pipeline()
	states := pipe.GetRange(ctx, k.State, int64(from), int64(from+window-1))
	if len(outcomes) == 0 {
		results = pipe.HMGet(ctx, k.Results, rdb.FieldsOf(Span(from, from+limit))...)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, rdb.MapError(ctx, err)
	}
	return &Snapshot{states: states.Val(), results: results.Val()}, nil
}

// choose finds up to limit actions with one of the outcomes, and says how far it looked.
func (g *Snapshot) choose(from, limit int, outcomes []batch.Outcome) (indexes []int, reached int, found []byte, err error) {
	if g.states == "" { // it went away while we read
		return nil, 0, nil, batch.ErrNotFound
	}
	reached = from
	for i := range len(g.states) {
		if len(indexes) == limit {
			break
		}
		reached++
		if len(outcomes) == 0 || slices.Contains(outcomes, states[g.states[i]]) {
			indexes, found = append(indexes, from+i), append(found, g.states[i])
		}
	}
	return indexes, reached, found, nil
}

// read returns the encoded results of actions in the given states. Those that were
// stored are given, if they were read with the states.
func (s *Batches) read(ctx context.Context, id string, indexes []int, found []byte, given []any) ([][]byte, error) {
	if len(indexes) == 0 {
		return nil, nil
	}
	var bare []int // those that have no result of their own
	for i, index := range indexes {
		if !stored(found[i]) {
			bare = append(bare, index)
		}
	}
	var actions, entries, lasts []any
	if given == nil || len(bare) > 0 {
		ctx, cancel := s.db.WithTimeout(ctx)
		defer cancel()
		k := keys.KeysOf(id)
		results, ofActions, ofEntries, ofLasts := &redis.SliceCmd{}, &redis.SliceCmd{}, &redis.SliceCmd{}, &redis.SliceCmd{}
		pipe := s.db.Client.Pipeline()
		if given == nil {
			results = pipe.HMGet(ctx, k.Results, rdb.FieldsOf(indexes)...)
		}
		if len(bare) > 0 {
			ofActions, ofEntries = pipe.HMGet(ctx, k.Actions, rdb.FieldsOf(bare)...), pipe.HMGet(ctx, k.Ledger, rdb.FieldsOf(bare)...)
			ofLasts = pipe.HMGet(ctx, k.Groups, lastFieldsOf(bare)...)
		}
		if _, err := pipe.Exec(ctx); err != nil {
			return nil, rdb.MapError(ctx, err)
		}
		if given == nil {
			given = results.Val()
		}
		actions, entries, lasts = ofActions.Val(), ofEntries.Val(), ofLasts.Val()
	}
	out := make([][]byte, len(indexes))
	at := 0
	for i, index := range indexes {
		var err error
		if stored(found[i]) {
			sealed, ok := given[i].(string)
			if !ok || sealed == "" {
				return nil, batch.ErrNotFound
			}
			out[i], err = s.seals.Open(seal.Label{ID: id, Kind: "r", Index: index}, []byte(sealed))
		} else {
			out[i], err = s.Codec.withoutResult(&remnant{
				id: id, index: index, state: found[i],
				action: rdb.Text(actions[at]), entry: rdb.Text(entries[at]), result: rdb.Text(given[i]), last: rdb.Text(lasts[at]),
			})
			at++
		}
		if err != nil {
			return nil, fmt.Errorf("read result %d of batch %s: %w", index, id, err)
		}
	}
	return out, nil
}

// stored reports whether an action in that state has a result of its own, made
// by a worker. The others ended, or wait, without one.
func stored(state byte) bool {
	if state == OverdueState {
		return false
	}
	switch states[state] {
	case batch.Succeeded, batch.Failed, batch.Errored, batch.Unknown, batch.Skipped:
		return true
	case batch.Pending, batch.Cancelled, batch.Expired:
		return false
	}
	return false
}

// Span returns the indexes from one up to another, that one not included.
func Span(from, to int) []int {
	indexes := make([]int, 0, to-from)
	for i := from; i < to; i++ {
		indexes = append(indexes, i)
	}
	return indexes
}

// EndedBatch reads a batch from the answer of the step that ended it. Nil is to be looked at.
func (s *Batches) EndedBatch(ctx context.Context, id string, answer any) *batch.Batch {
	parts, ok := answer.([]any)
	if !ok {
		return nil
	}
	seen, err := parseSnapshot(parts)
	if err != nil {
		return nil
	}
	b, err := s.batchOf(ctx, id, seen)
	if err != nil {
		return nil
	}
	return b
}
