package queue

import (
	"crypto/sha256"
	"encoding/hex"
)

// Keys and channels that belong to no single batch.
const (
	openKey     = "batchd:open"
	sweeperKey  = "batchd:sweeper"
	saltKey     = "batchd:salt"
	doneChannel = "batchd:done"
	workChannel = "batchd:work"
	asynqQueues = "asynq:queues"
)

// batchKeys are the keys of one batch, all in one cluster slot.
type batchKeys struct {
	meta, state, ledger, actions, results, groups, deliveries, upload string
}

func keysOf(id string) batchKeys {
	prefix := "batchd:{" + id + "}:"
	return batchKeys{
		meta: prefix + "m", state: prefix + "s", ledger: prefix + "l", actions: prefix + "a",
		results: prefix + "r", groups: prefix + "g", deliveries: prefix + "w", upload: prefix + "u",
	}
}

// step returns the keys that every step of the ledger takes, in the order that
// lua/lib.lua expects.
func (k batchKeys) step() []string {
	return []string{k.meta, k.state, k.ledger, k.actions, k.results, k.groups}
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
