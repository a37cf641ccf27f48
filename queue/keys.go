package queue

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// Keys and channels that belong to no single batch.
const (
	openKey     = "batchd:open"
	lostKey     = "batchd:lost"
	sweeperKey  = "batchd:sweeper"
	recoveryKey = "batchd:recovery"         // the worker that takes over the actions of dead workers
	alertKey    = "{" + openKey + "}:alert" // in the slot of openKey
	saltKey     = "batchd:salt"
	doneChannel = "batchd:done"
	workChannel = "batchd:work"
	// holdersChannel asks workers whether they have actions in flight that they hold.
	holdersChannel = "batchd:holders"
	// tasksChannel asks workers which of some tasks they have in hand.
	tasksChannel = "batchd:tasks"
	asynqQueues  = "asynq:queues"
)

// batchKeys are the keys of one batch, all in one cluster slot.
type batchKeys struct {
	meta, state, ledger, actions, results, groups, deliveries, upload string
}

func keysOf(id string) batchKeys {
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
	return batchKeys{
		meta: key(0), state: key(1), ledger: key(2), actions: key(3),
		results: key(4), groups: key(5), deliveries: key(6), upload: key(7),
	}
}

// step returns the keys that every step of the ledger takes, in the order that
// lua/lib.lua expects.
func (k batchKeys) step() []string {
	return []string{k.meta, k.state, k.ledger, k.actions, k.results, k.groups}
}

// markerKey is that of a mark that stands while an upload or, with a token of its own,
// a retry is under way.
func markerKey(id, token string) string {
	if token == "" {
		return keysOf(id).upload
	}
	return keysOf(id).upload + ":" + token
}

func ownerKey(owner string) string { return "batchd:owner:{" + owner + "}" }

// idempotencyKey hashes owner and key, so that neither stands in Redis and
// neither can reach into another's.
func idempotencyKey(owner, key string) string {
	h := sha256.New()
	h.Write([]byte(owner))
	h.Write([]byte{0})
	h.Write([]byte(key))
	return "batchd:key:{" + hex.EncodeToString(h.Sum(nil)) + "}"
}
