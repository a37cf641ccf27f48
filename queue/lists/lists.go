// Package lists has the lists of batches: of each owner, and of all owners together.
//
// Package upload enters a batch into both lists as it commits. An entry leaves them when the batch is deleted,
// when a reader finds that the batch has expired, or when [Lists.Clean] does.
package lists

import (
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/batches"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
)

// Lists are the lists of batches in one Redis. They are safe for concurrent use.
type Lists struct {
	db      *rdb.DB
	log     *slog.Logger
	batches *batches.Batches

	mu   sync.Mutex
	next int64 // the rank at which Clean goes on

	foreign foreignEntries
}

// New returns the lists in a Redis.
func New(db *rdb.DB, log *slog.Logger, of *batches.Batches) *Lists {
	return &Lists{db: db, log: log, batches: of, foreign: foreignEntries{logged: make(map[entry]struct{})}}
}

// entry is an entry of a list: a batch, its owner, and the time of its creation in microseconds, by Redis's
// clock. Its cursor is "<time>-<id>".
type entry struct {
	created   int64
	id, owner string
}

// latest is the latest time of an entry, in the year 2255: a float64 has all times up to it.
const latest = 1 << 53

// cursor returns the cursor of the entries after this one. After an entry that names no batch, because it was changed,
// it leaves out others of the same microsecond.
func (e entry) cursor() string {
	id := e.id
	if !keys.IsBatchID(id) {
		id = uuid.Nil.String()
	}
	return strconv.FormatInt(e.created, 10) + "-" + id
}

// damaged returns a batch that cannot be read, as a list shows it.
func (e entry) damaged(found *batch.DamagedError) *batch.Batch {
	return &batch.Batch{ID: e.id, Owner: e.owner, CreatedAt: time.UnixMicro(e.created).UTC().Truncate(time.Millisecond), Damaged: found}
}

func parseCursor(cursor string) (entry, error) {
	created, id, _ := strings.Cut(cursor, "-")
	us, err := strconv.ParseInt(created, 10, 64)
	if err != nil || us < 0 || us > latest || !keys.IsBatchID(id) {
		return entry{}, batch.ErrCursor
	}
	return entry{created: us, id: id}, nil
}

// list is a list in Redis: that of an owner, whose members are ids of batches, or that of all batches, whose
// members are followed by the owners.
type list struct{ key, owner string }

// listsOf returns the lists that together have the batches of the owners.
func listsOf(owners batch.Owners) []list {
	if owners.All {
		return []list{{key: keys.AllBatchesKey}}
	}
	all := make([]list, len(owners.Names))
	for i, owner := range owners.Names {
		all[i] = list{keys.OwnerKey(owner), owner}
	}
	return all
}

// entry returns the entry of a member.
func (l list) entry(member string, created float64) entry {
	e := entry{int64(min(max(created, 0), latest)), member, l.owner}
	if l.key == keys.AllBatchesKey {
		e.id, e.owner, _ = strings.Cut(member, " ")
	}
	return e
}
