package batches

import (
	"context"
	"slices"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
)

// stateWindow is the number of states that one exchange reads to find actions with certain outcomes.
const stateWindow = 16 << 10

// snapshot is a part of a batch as one exchange read it: the hash, and the states and results of the
// actions from some index on. meta is nil if the exchange continues a read; results is nil if the
// exchange looks for certain outcomes only. length is the number of all states, or -1 if it was not read. all has
// all states, or is empty.
type snapshot struct {
	meta    map[string]string
	states  string
	length  int
	all     string
	results []any // one for each state, or nil
}

// window is what one exchange reads beside the hash of a batch: the states and results of up to limit actions,
// until the sizes of the results exceed the given bytes. With 0 bytes it reads states alone. If few is not 0, it
// reads them only of a batch that has ended with at most few actions. The zero value reads nothing.
type window struct{ from, limit, bytes, few int }

// endedWindow is a window with the first results of a batch that has ended and has at most few actions.
func endedWindow(few int) window {
	if few == 0 {
		return window{}
	}
	return window{limit: FirstResults, bytes: FirstBytes, few: few}
}

// queryWindow is a window with the first part of what a query asks for.
func queryWindow(from int, q batch.ResultQuery) window {
	if len(q.Outcomes) > 0 {
		return window{from: from, limit: stateWindow}
	}
	return window{from: from, limit: min(q.Limit, FirstResults), bytes: FirstBytes}
}

// readFor reads a part of a batch for its owner. For others it returns [batch.ErrNotFound]: Redis compares the owner
// before it reads anything else, so it does the same for them as without a batch.
func (b *Batches) readFor(ctx context.Context, owner, id string, w window) (*snapshot, error) {
	if !keys.IsBatchID(id) {
		return nil, batch.ErrNotFound
	}
	seen, err := b.readSnapshot(ctx, id, w, owner)
	if err == nil && len(seen.meta) == 0 {
		err = batch.ErrNotFound
	}
	return seen, err
}

// readSnapshot reads a part of a batch in one step, for an owner or, without one, for batchd itself.
func (b *Batches) readSnapshot(ctx context.Context, id string, w window, owner ...any) (*snapshot, error) {
	ctx, cancel := b.db.WithTimeout(ctx)
	defer cancel()
	k := keys.KeysOf(id)
	args := append([]any{w.from, w.limit, w.bytes, w.few}, owner...)
	parts, err := Steps.Snapshot.Run(ctx, b.db.Client, []string{k.Meta, k.State, k.Results}, args...).Slice()
	if err != nil {
		return nil, readError(ctx, id, err)
	}
	return parseSnapshot(parts)
}

// parseSnapshot decodes the reply of a step: fields and values of the hash in turn, states, the results of the first
// of these, and, if the step read states, the number of all states or all of them.
func parseSnapshot(parts []any) (*snapshot, error) {
	if len(parts) != 3 && len(parts) != 4 {
		return nil, rdb.ErrAnswer
	}
	seen := &snapshot{meta: parseHash(parts[0]), states: rdb.Text(parts[1]), length: -1}
	if len(parts) == 4 {
		if n, ok := parts[3].(int64); ok {
			seen.length = int(n)
		} else {
			seen.all = rdb.Text(parts[3])
			seen.length = len(seen.all)
		}
	}
	if parts[2] == nil { // states alone
		return seen, nil
	}
	seen.results, _ = parts[2].([]any)
	if len(seen.states) < len(seen.results) {
		return nil, rdb.ErrAnswer
	}
	seen.states = seen.states[:len(seen.results)] // the results of the others may be large
	return seen, nil
}

// parseHash decodes the fields and values of a hash, in turn.
func parseHash(reply any) map[string]string {
	pairs, _ := reply.([]any)
	m := make(map[string]string, len(pairs)/2)
	for i := 0; i+1 < len(pairs); i += 2 {
		m[rdb.Text(pairs[i])] = rdb.Text(pairs[i+1])
	}
	return m
}

// readStates reads in one exchange the states and results of up to limit actions, or, if there are
// outcomes to look for, more states and no results.
func (b *Batches) readStates(ctx context.Context, id string, from, limit int, outcomes []batch.Outcome) (*snapshot, error) {
	if len(outcomes) > 0 {
		seen, err := b.read(ctx, id, from, from+stateWindow-1, nil)
		if err == nil {
			seen.results = nil
		}
		return seen, err
	}
	return b.read(ctx, id, from, from+limit-1, span(from, from+limit))
}

// read reads the states of the actions from one index to another, and the results of some actions, in one step: an
// action may end between two.
func (b *Batches) read(ctx context.Context, id string, first, last int, indexes []int) (*snapshot, error) {
	ctx, cancel := b.db.WithTimeout(ctx)
	defer cancel()
	k := keys.KeysOf(id)
	args := []any{first, last}
	for _, index := range indexes {
		args = append(args, index)
	}
	parts, err := Steps.Read.Run(ctx, b.db.Client, []string{k.State, k.Results}, args...).Slice()
	if err != nil {
		return nil, readError(ctx, id, err)
	}
	if len(parts) != 2 {
		return nil, rdb.ErrAnswer
	}
	results, _ := parts[1].([]any)
	if len(results) != len(indexes) {
		return nil, rdb.ErrAnswer
	}
	return &snapshot{states: rdb.Text(parts[0]), length: -1, results: results}, nil
}

// choose picks up to limit actions from a snapshot that begins at the index from: those with one of the
// outcomes, or all if there are no outcomes. It returns their indexes, the index after the last action
// that it looked at, and the states of the actions.
func (s *snapshot) choose(from, limit int, outcomes []batch.Outcome) (indexes []int, reached int, found []byte) {
	reached = from
	for i := range len(s.states) {
		if len(indexes) == limit {
			break
		}
		reached++
		if len(outcomes) == 0 || slices.Contains(outcomes, states[s.states[i]]) {
			indexes, found = append(indexes, from+i), append(found, s.states[i])
		}
	}
	return indexes, reached, found
}

// span returns the indexes from one up to another, without the latter.
func span(from, to int) []int {
	indexes := make([]int, 0, to-from)
	for i := from; i < to; i++ {
		indexes = append(indexes, i)
	}
	return indexes
}
