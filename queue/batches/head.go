package batches

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"fmt"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/seal"
)

// The head of a batch is a sealed value in its hash, made at the commit. It authenticates the fields of the
// hash that decide who reads the batch and where its requests go, which the steps need in clear. So whoever
// can write to Redis can neither move a batch to another owner or target, nor change its size. What changes
// while a batch runs (status, counts, states, times, rounds, limits) is not a part of it.
//
// headFields are authenticated by the head itself: a begin verifies them for each action. The head's content is
// a digest of restFields and of whether the batch has a private part, which readers of the whole batch verify.
var (
	headFields = [...]string{"owner", "target", "lane", "total", "groups"}
	restFields = [...]string{"scope", "webhook", "retention", "key", "fingerprint"}
)

// headKind is the kind under which heads are sealed, and headField their field of the hash.
const (
	headKind  = "h"
	headField = "head"
)

// digestSize is in bytes. With it a head has less than 64 bytes, so Redis keeps the hash in its compact form.
const digestSize = 16

// SealHead seals the head of a batch with the given hash.
func (c *Codec) SealHead(id string, m map[string]string) []byte {
	return c.seals.Seal(seal.Label{ID: id, Kind: headKind, Bound: boundOf(headOf(m))}, restOf(m))
}

// Verify checks the hash of a batch against its head.
func (c *Codec) Verify(id string, m map[string]string) error {
	rest, err := c.verifyHead(id, headOf(m), m[headField])
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(rest, restOf(m)) != 1 {
		return &batch.DamagedError{ID: id, Err: fmt.Errorf("read the head of batch %s: %w: the limit's scope, webhook, retention or idempotency key was changed", id, seal.ErrSealed)}
	}
	return nil
}

// VerifyTarget checks fields of the hash of a batch against its head, before an action is sent to the target.
func (c *Codec) VerifyTarget(id, owner, target, lane, total, groups, head string) error {
	_, err := c.verifyHead(id, [...]string{owner, target, lane, total, groups}, head)
	return err
}

// verifyHead checks the headFields, in their order, against the head, and returns its content.
func (c *Codec) verifyHead(id string, fields [len(headFields)]string, head string) ([]byte, error) {
	rest, err := c.seals.Open(seal.Label{ID: id, Kind: headKind, Bound: boundOf(fields)}, []byte(head))
	if err != nil {
		return nil, &batch.DamagedError{ID: id, Err: fmt.Errorf("read the head of batch %s, which has its owner, target and size: %w", id, err)}
	}
	return rest, nil
}

func headOf(m map[string]string) (fields [len(headFields)]string) {
	for i, name := range headFields {
		fields[i] = m[name]
	}
	return fields
}

// boundOf encodes the headFields: each follows its length.
func boundOf(fields [len(headFields)]string) []byte {
	size := 0
	for _, f := range fields {
		size += binary.MaxVarintLen16 + len(f)
	}
	out := make([]byte, 0, size)
	for _, f := range fields {
		out = append(binary.AppendUvarint(out, uint64(len(f))), f...)
	}
	return out
}

// restOf returns the digest of the fields that a head authenticates by its content.
func restOf(m map[string]string) []byte {
	var out []byte
	for _, name := range restFields {
		out = append(binary.AppendUvarint(out, uint64(len(m[name]))), m[name]...)
	}
	if m["private"] != "" {
		out = append(out, 1)
	}
	sum := sha256.Sum256(out)
	return sum[:digestSize]
}
