package fanout

import (
	"context"
	"fmt"

	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/tasks"
)

// RetractIfEnded takes back what was just offered of a batch that is ending or gone. The step that ended
// it may have taken back what waited before the offer came.
func (s *Fanout) RetractIfEnded(ctx context.Context, f tasks.Flow) {
	look, cancel := s.db.WithTimeout(ctx)
	m, err := s.db.Client.HMGet(look, keys.KeysOf(f.ID).Meta, "status", "ending").Result()
	cancel()
	if err == nil && (m[0] == nil || m[1] != nil) {
		s.tasks.Retract(ctx, f)
	}
}

// OfferWaiting offers all waiting actions in a range of indexes.
func (s *Fanout) OfferWaiting(ctx context.Context, f tasks.Flow, from, upTo int) error {
	waiting, err := s.WaitingActions(ctx, f.ID, from, upTo)
	if err != nil || len(waiting) == 0 {
		return err
	}
	if err := s.tasks.Offer(ctx, f, tasks.RangesOf(waiting)); err != nil {
		return err
	}
	s.RetractIfEnded(ctx, f)
	return nil
}

// WaitingActions returns the indexes of the actions in a range that are waiting.
func (s *Fanout) WaitingActions(ctx context.Context, id string, from, upTo int) ([]int, error) {
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	states, err := s.db.Client.GetRange(ctx, keys.KeysOf(id).State, int64(from), int64(upTo-1)).Result()
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
