// Package keys names the keys and channels in Redis that several packages use. Keys of one package alone are
// in that package, and those of tasks in package tasks. The doc of package queue lists all of them.
package keys

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/google/uuid"
)

// Keys and channels that belong to no single batch.
const (
	OpenKey     = "batchd:open"
	LostKey     = "batchd:lost"
	SweeperKey  = "batchd:sweeper"
	RecoveryKey = "batchd:recovery"         // the worker that takes over the actions of dead workers
	AlertKey    = "{" + OpenKey + "}:alert" // in the slot of openKey
	SaltKey     = "batchd:salt"
	DoneChannel = "batchd:done"
	WorkChannel = "batchd:work"
	// HoldersChannel asks workers whether they have actions in flight that they hold.
	HoldersChannel = "batchd:holders"
	// TasksChannel asks workers which of some tasks they have in hand.
	TasksChannel = "batchd:tasks"
	AsynqQueues  = "asynq:queues"
)

// BatchKeys are the keys of one batch, all in one cluster slot.
type BatchKeys struct {
	Meta, State, Ledger, Actions, Results, Groups, Deliveries, Upload string
}

// KeysOf returns the keys of the batch with an id.
func KeysOf(id string) BatchKeys {
	const before, after, kinds = "batchd:{", "}:", "mslargwu"
	var all strings.Builder // one string for all of them
	each := len(before) + len(id) + len(after) + 1
	all.Grow(each * len(kinds))
	for i := range len(kinds) {
		all.WriteString(before)
		all.WriteString(id)
		all.WriteString(after)
		all.WriteByte(kinds[i])
	}
	key := func(i int) string { return all.String()[i*each : (i+1)*each] }
	return BatchKeys{
		Meta: key(0), State: key(1), Ledger: key(2), Actions: key(3),
		Results: key(4), Groups: key(5), Deliveries: key(6), Upload: key(7),
	}
}

// Step returns the keys that every step of the ledger takes, in this order.
func (k BatchKeys) Step() []string {
	return []string{k.Meta, k.State, k.Ledger, k.Actions, k.Results, k.Groups}
}

// MarkerKey returns the key that exists while an upload or, with a token, a retry of the batch is under way.
func MarkerKey(id, token string) string {
	if token == "" {
		return KeysOf(id).Upload
	}
	return KeysOf(id).Upload + ":" + token
}

// OwnerKey returns the key of the list of an owner's batches.
func OwnerKey(owner string) string { return "batchd:owner:{" + owner + "}" }

// AllBatchesKey lists the batches of all owners.
const AllBatchesKey = "batchd:batches"

// AllBatchesMember returns the member of that list for a batch.
func AllBatchesMember(id, owner string) string { return id + " " + owner }

// IdempotencyKey returns the key of an owner's idempotency key, by its keyed hash. Redis has neither the owner nor
// the idempotency key in clear, and no hash by which someone could try idempotency keys.
func IdempotencyKey(hash [sha256.Size]byte) string {
	return "batchd:key:{" + hex.EncodeToString(hash[:]) + "}"
}

// ThrottledKey lists the batches whose actions are handed out as their owners'
// limits allow.
const ThrottledKey = "batchd:throttled"

const (
	// TrippedKey lists the targets whose circuit is open.
	TrippedKey = "batchd:tripped"
	// HoldChannel has the holds of targets.
	HoldChannel = "batchd:hold"
)

// GateKey returns the key of a target's rate and hold.
func GateKey(target string) string { return "batchd:gate:{" + target + "}" }

// IsBatchID reports whether an id has the form of a batch id. Other ids must not be part of a key: braces would
// move the key to another slot.
func IsBatchID(id string) bool {
	u, err := uuid.Parse(id)
	return err == nil && u.String() == id
}

// WorkersKey lists the workers by the time of their last beat.
const WorkersKey = "batchd:workers"
