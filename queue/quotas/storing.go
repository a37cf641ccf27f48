package quotas

import (
	"context"
	"time"

	"github.com/batchd/batchd/internal/batch"
)

const (
	// NoRoom is the verdict of a step of the ledger that stores results on a batch without room for them.
	NoRoom = "room"
	// roomTries is how often a process gets room for a result that results of other processes use first.
	roomTries = 100
)

// Storing is a step that stores results of a batch. The caller repeats it until the batch has room for them, or they
// are small enough.
type Storing struct {
	// Forced is the step's argument for results that need no room: "1", or "" for others.
	Forced string

	rooms *Rooms
	id    string // of the batch
	tries int
	since time.Time // before the step was last tried
}

// Store returns a step that stores results of a batch.
func (r *Rooms) Store(id string) Storing { return Storing{rooms: r, id: id, since: time.Now()} }

// Again handles the verdict NoRoom on results of that size; answer is what follows the verdict. The caller then seals
// the results again, and repeats the step. Again gets more room. If a quota has none, Again removes what is large of
// the results, and the step stores them in any case.
func (s *Storing) Again(ctx context.Context, bytes int64, answer []string, results ...*batch.Result) error {
	need, err := readNeed(s.id, bytes, answer)
	if err != nil {
		return err
	}
	need.since = s.since
	more := false
	if s.tries++; s.tries <= roomTries {
		if more, err = s.rooms.more(ctx, need); err != nil {
			return err
		}
	}
	if more {
		s.since = time.Now()
		return nil
	}
	s.Forced = "1"
	for _, r := range results {
		if len(r.Encode()) > SmallResult {
			r.DropContent(SmallResult)
		}
	}
	return nil
}
