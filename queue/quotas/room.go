package quotas

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/internal/crash"
	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
)

const (
	// SmallResult is the size in bytes up to which a sealed result is always stored: the outcome of an action is
	// never lost. Such results may exceed a quota, by less than what the actions count for beside their content.
	SmallResult = 512
	// roomOfAction and mostRoom decide how many bytes a batch gets for results with its commit.
	roomOfAction, mostRoom = 4 << 10, 1 << 20
	// leastGrant and mostGrant bound what a worker reserves ahead when a batch needs more room.
	leastGrant, mostGrant = 256 << 10, 8 << 20
	// refusalLasts is how long a process takes the refusal of a quota as the answer to further results of the batch.
	refusalLasts = time.Second
	// maxRooms is the number of batches beyond which a process forgets those that need no room now.
	maxRooms = 1000
)

// RoomFor returns how many bytes to reserve for the results of n actions.
func RoomFor(n int) int64 { return min(int64(n)*roomOfAction, mostRoom) }

// bound is an account that bounds the stored bytes of a batch, as the batch has it in its hash.
type bound struct {
	Kind  batch.AccountKind `json:"kind"`
	Name  string            `json:"name"`
	Bytes int64             `json:"bytes"`
	// Own: the number is that of the key of the owner, not the configured one.
	Own bool `json:"own,omitempty"`
}

// Bounds returns those of some accounts that bound the stored bytes of a batch, for the hash of the batch. It returns ""
// if there are none.
func Bounds(accounts []batch.Account) string {
	var all []bound
	for i := range accounts {
		if a := &accounts[i]; a.Quotas.StoredBytes > 0 {
			all = append(all, bound{a.Kind, a.Name, a.Quotas.StoredBytes, a.Own})
		}
	}
	if len(all) == 0 {
		return ""
	}
	text, _ := json.Marshal(all) // it always encodes
	return string(text)
}

// Rooms get more room for the results of batches. The room of a batch is the number of bytes that it may store without
// asking the accounts. It is reserved in the accounts before the batch has it. Rooms are safe for concurrent use.
type Rooms struct {
	quotas *Quotas

	mu  sync.Mutex
	all map[string]*room
}

// NewRooms returns the Rooms of a process.
func NewRooms(q *Quotas) *Rooms { return &Rooms{quotas: q, all: make(map[string]*room)} }

// room is what a process knows of a batch that needed more room.
type room struct {
	asking  sync.Mutex // held by the result that asks for all
	users   int        // results that need room now; with the lock of Rooms, as is waiting
	waiting int64      // their bytes

	// With the lock asking:
	round   string
	lowered string
	bytes   int64     // the newest known room
	got     time.Time // when the batch got it
	refused time.Time // when a quota last refused more
	needed  int64     // what it refused
}

// need is what a batch answered to a worker that had results for which it has no room.
type need struct {
	id            string    // of the batch
	bytes         int64     // of the results
	stored, room  int64     // what the batch stores, and may store
	round, bounds string    // of the batch; see Bounds
	lowered       string    // how often its room was lowered
	pending       int64     // its actions that have not ended, with those of these results
	since         time.Time // before the step that answered this
}

// readNeed reads what no_room in lua/room.lua of package ledger answers for results of that size.
func readNeed(id string, bytes int64, answer []string) (need, error) {
	if len(answer) != 6 {
		return need{}, rdb.ErrAnswer
	}
	return need{id: id, bytes: bytes, stored: rdb.Atoi(answer[0]), room: rdb.Atoi(answer[1]), round: answer[2], bounds: answer[3], lowered: answer[4], pending: rdb.Atoi(answer[5])}, nil
}

// more gets more room for a batch. It reports false if a quota refuses it; else the caller repeats its step, which may
// find that other results have used the room. One result asks for all of a process that wait.
func (r *Rooms) more(ctx context.Context, n need) (bool, error) {
	one := r.enter(&n)
	defer r.leave(one, n.bytes)
	one.asking.Lock()
	defer one.asking.Unlock()
	if one.round != n.round || one.lowered != n.lowered {
		one.round, one.lowered, one.bytes, one.refused = n.round, n.lowered, 0, time.Time{}
	}
	if one.bytes > n.room && one.got.After(n.since) {
		return true, nil // another result has asked since
	}
	if n.bytes >= one.needed && time.Since(one.refused) < refusalLasts {
		return false, nil
	}
	granted, until, err := r.reserve(ctx, n, one)
	if errors.As(err, new(*batch.QuotaError)) {
		one.refused, one.needed = time.Now(), n.bytes
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("get room for a result of batch %s: %w", n.id, err)
	}
	crash.At(crash.RoomReserved)
	answer, err := r.quotas.db.Run(ctx, Steps.SetRoom, []string{keys.KeysOf(n.id).Meta}, n.round, n.lowered, granted, until)
	if err != nil {
		return false, fmt.Errorf("get room for a result of batch %s: %w", n.id, err)
	}
	if answer[0] == "ok" {
		one.bytes, one.got, one.refused = granted, time.Now(), time.Time{}
	}
	return true, nil
}

// reserve reserves room in the accounts of the batch. It returns the room that all of them have reserved, and when the
// first reservation ends.
func (r *Rooms) reserve(ctx context.Context, n need, one *room) (granted int64, until string, err error) {
	var all []bound
	if err := json.Unmarshal([]byte(n.bounds), &all); err != nil || len(all) == 0 {
		return 0, "", fmt.Errorf("read the quotas of batch %s: %w", n.id, errors.Join(err, rdb.ErrAnswer))
	}
	accounts := make([]batch.Account, len(all))
	for i, bound := range all {
		most, err := r.quotas.storedBytes(ctx, bound)
		if err != nil {
			return 0, "", err
		}
		accounts[i] = batch.Account{Kind: bound.Kind, Name: bound.Name, Quotas: batch.Quotas{StoredBytes: most}}
	}
	least := n.stored + n.bytes
	return r.quotas.ReserveAll(ctx, accounts, Charge{ID: n.id, Bytes: least, Ahead: least + r.ahead(n, one), grow: true})
}

// ahead returns how many bytes to reserve for further results of a batch: for those that wait, and for those of its
// other actions as if all were as large as this one.
func (r *Rooms) ahead(n need, one *room) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	others := max(n.pending-int64(one.users), 0)
	return max(one.waiting-n.bytes, 0) + min(max(n.stored, leastGrant), mostGrant, others*n.bytes)
}

// enter adds a result to those of its batch that need room.
func (r *Rooms) enter(n *need) *room {
	r.mu.Lock()
	defer r.mu.Unlock()
	one := r.all[n.id]
	if one == nil {
		if len(r.all) >= maxRooms {
			for id, other := range r.all {
				if other.users == 0 {
					delete(r.all, id)
				}
			}
		}
		one = &room{}
		r.all[n.id] = one
	}
	one.users++
	one.waiting += n.bytes
	return one
}

func (r *Rooms) leave(one *room, bytes int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	one.users--
	one.waiting -= bytes
}
