package ledger

import (
	"context"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/quotas"
	"github.com/batchd/batchd/queue/seal"
)

const (
	// noRoom is the verdict of a step that stores results on a batch without room for them.
	noRoom = "room"
	// roomTries is how often a process gets room for a result that results of other processes use first.
	roomTries = 100
)

// storing is a step that stores results, repeated until its batch has room for them or they are small enough.
type storing struct {
	rooms  *quotas.Rooms
	id     string // of the batch
	tries  int
	forced string // "1" once the step stores the results in any case
}

func newStoring(rooms *quotas.Rooms, id string) *storing { return &storing{rooms: rooms, id: id} }

// again handles the answer noRoom: after it, the caller seals the results again and repeats the step. It gets more
// room for their bytes. If a quota has none, it removes what is large of the results, and the step stores them.
func (s *storing) again(ctx context.Context, bytes int64, answer []string, results ...*batch.Result) error {
	need, err := quotas.ReadNeed(s.id, bytes, answer)
	if err != nil {
		return err
	}
	more := false
	if s.tries++; s.tries <= roomTries {
		if more, err = s.rooms.More(ctx, need); err != nil {
			return err
		}
	}
	if !more {
		s.forced = "1"
		for _, r := range results {
			if len(r.Encode()) > quotas.SmallResult {
				r.DropContent(quotas.SmallResult)
			}
		}
	}
	return nil
}

// seal seals a result.
func (g *groups) seal(id string, index int, r *batch.Result) []byte {
	return g.seals.Seal(seal.Label{ID: id, Kind: "r", Index: index}, r.Encode())
}
