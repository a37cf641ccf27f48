package quotas

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
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
	// roomOfAction, leastRoom and mostRoom decide how many bytes a batch gets for results with its commit.
	roomOfAction        = 1 << 10
	leastRoom, mostRoom = 64 << 10, 1 << 20
	// leastGrant and mostGrant bound what a worker reserves ahead when a batch needs more room.
	leastGrant, mostGrant = 256 << 10, 8 << 20
	// refusalLasts is how long a process takes the refusal of a quota as the answer to further results of the batch.
	refusalLasts = time.Second
	// maxRooms is the number of batches beyond which a process forgets those that need no room now.
	maxRooms = 1000
)

// RoomFor returns how many bytes to reserve for the results of n actions.
func RoomFor(n int) int64 { return min(max(int64(n)*roomOfAction, leastRoom), mostRoom) }

// bound is an account that bounds the stored bytes of a batch, as the batch has it in its hash.
type bound struct {
	Kind  batch.AccountKind `json:"kind"`
	Name  string            `json:"name"`
	Bytes int64             `json:"bytes"`
}

// Bounds returns those of some accounts that bound the stored bytes of a batch, for the hash of the batch. It returns ""
// if there are none.
func Bounds(accounts []batch.Account) string {
	var all []bound
	for i := range accounts {
		if a := &accounts[i]; a.Quotas.StoredBytes > 0 {
			all = append(all, bound{a.Kind, a.Name, a.Quotas.StoredBytes})
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
	bytes   int64     // the newest known room
	refused time.Time // when a quota last refused more
	needed  int64     // what it refused
}

// Need is what a batch answered to a worker that had a result for which it has no room.
type Need struct {
	// ID is the id of the batch, and Bytes the size of the result.
	ID    string
	Bytes int64
	// Stored and Room are what the batch stores and may store. Round is its round, and Bounds are those of [Bounds].
	Stored, Room  int64
	Round, Bounds string
}

// ReadNeed reads what no_room in lua/room.lua of package ledger answers for results of that size.
func ReadNeed(id string, bytes int64, answer []string) (Need, error) {
	if len(answer) != 4 {
		return Need{}, rdb.ErrAnswer
	}
	return Need{id, bytes, rdb.Atoi(answer[0]), rdb.Atoi(answer[1]), answer[2], answer[3]}, nil
}

// More gets more room for a batch. It reports false if a quota refuses it; else the caller repeats its step, which may
// find that other results have used the room. One result asks for all of a process that wait.
func (r *Rooms) More(ctx context.Context, n Need) (bool, error) {
	one := r.enter(&n)
	defer r.leave(one, n.Bytes)
	one.asking.Lock()
	defer one.asking.Unlock()
	if one.round != n.Round {
		one.round, one.bytes, one.refused = n.Round, 0, time.Time{}
	}
	if one.bytes > n.Room {
		return true, nil // another result has asked since
	}
	if n.Bytes >= one.needed && time.Since(one.refused) < refusalLasts {
		return false, nil
	}
	granted, until, err := r.reserve(ctx, n, r.waitingFor(one))
	if errors.As(err, new(*batch.QuotaError)) {
		one.refused, one.needed = time.Now(), n.Bytes
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("get room for a result of batch %s: %w", n.ID, err)
	}
	crash.At(crash.RoomReserved)
	answer, err := r.quotas.db.Run(ctx, Steps.SetRoom, []string{keys.KeysOf(n.ID).Meta}, n.Round, granted, until)
	if err != nil {
		return false, fmt.Errorf("get room for a result of batch %s: %w", n.ID, err)
	}
	if answer[0] == "ok" {
		one.bytes, one.refused = granted, time.Time{}
	}
	return true, nil
}

// reserve reserves room in the accounts of the batch. It returns the room that all of them have reserved, and when the
// first reservation ends.
func (r *Rooms) reserve(ctx context.Context, n Need, waiting int64) (granted int64, until string, err error) {
	var all []bound
	if err := json.Unmarshal([]byte(n.Bounds), &all); err != nil || len(all) == 0 {
		return 0, "", fmt.Errorf("read the quotas of batch %s: %w", n.ID, errors.Join(err, rdb.ErrAnswer))
	}
	granted = math.MaxInt64
	need := n.Stored + n.Bytes
	ahead := need + max(waiting-n.Bytes, 0) + min(max(n.Stored, leastGrant), mostGrant)
	for _, one := range all {
		a := batch.Account{Kind: one.Kind, Name: one.Name, Quotas: batch.Quotas{StoredBytes: one.Bytes}}
		reserved, end, err := r.quotas.Reserve(ctx, &a, Charge{ID: n.ID, Bytes: need, Ahead: ahead, grow: true})
		if err != nil {
			return 0, "", err
		}
		granted = min(granted, reserved)
		if until == "" || rdb.Atoi(end) < rdb.Atoi(until) {
			until = end
		}
	}
	return granted, until, nil
}

// enter adds a result to those of its batch that need room.
func (r *Rooms) enter(n *Need) *room {
	r.mu.Lock()
	defer r.mu.Unlock()
	one := r.all[n.ID]
	if one == nil {
		if len(r.all) >= maxRooms {
			for id, other := range r.all {
				if other.users == 0 {
					delete(r.all, id)
				}
			}
		}
		one = &room{}
		r.all[n.ID] = one
	}
	one.users++
	one.waiting += n.Bytes
	return one
}

func (r *Rooms) leave(one *room, bytes int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	one.users--
	one.waiting -= bytes
}

func (r *Rooms) waitingFor(one *room) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return one.waiting
}
