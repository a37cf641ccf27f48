package fanout

import (
	"context"
	"fmt"

	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
)

// RetractIfEnded retracts the offered actions of a batch that is ending or gone. The caller has just offered them,
// and the step that ended the batch may have retracted its waiting actions before that offer. If the batch cannot
// be read, nothing is retracted: tasks of an ended batch end at once.
func (f *Fanout) RetractIfEnded(ctx context.Context, flow tasks.Flow) {
	readCtx, cancel := f.db.WithTimeout(ctx)
	m, err := f.db.Client.HMGet(readCtx, keys.KeysOf(flow.ID).Meta, "status", "ending").Result()
	cancel()
	if err == nil && (m[0] == nil || m[1] != nil) {
		f.tasks.Retract(ctx, flow)
	}
}

// OfferWaiting offers the waiting actions of a batch whose indexes are in [from, upTo).
func (f *Fanout) OfferWaiting(ctx context.Context, flow tasks.Flow, from, upTo int) error {
	waiting, err := f.WaitingActions(ctx, flow.ID, from, upTo)
	if err != nil || len(waiting) == 0 {
		return err
	}
	if err := f.tasks.Offer(ctx, flow, tasks.RangesOf(waiting)); err != nil {
		return err
	}
	f.RetractIfEnded(ctx, flow)
	return nil
}

// WaitingActions returns the indexes of the waiting actions of a batch in [from, upTo), in
// ascending order. A batch that does not exist has none.
func (f *Fanout) WaitingActions(ctx context.Context, id string, from, upTo int) ([]int, error) {
	ctx, cancel := f.db.WithTimeout(ctx)
	defer cancel()
	states, err := f.db.Client.GetRange(ctx, keys.KeysOf(id).State, int64(from), int64(upTo-1)).Result()
	if err != nil {
		return nil, fmt.Errorf("read the states of actions: %w", rdb.MapError(ctx, err))
	}
	var waiting []int
	for i := range len(states) {
		if states[i] == 'p' {
			waiting = append(waiting, from+i)
		}
	}
	return waiting, nil
}
