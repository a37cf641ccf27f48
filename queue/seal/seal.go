// Package seal encrypts stored values, and binds each value to its batch, kind and index.
//
// A stored value begins with its format. A sealed one names the key that sealed it, so that keys
// can be replaced: the first key of a [Config] seals, and all of them open. Each batch has a key of its
// own, derived from that key, so a value of one batch never opens in another.
package seal

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"time"

	"github.com/batchd/batchd/internal/setting"
)

// Formats of a stored value, its first byte.
const (
	formatClear  = 0x00 // the value follows
	formatSealed = 0x01 // length and id of the key, nonce, AES-256-GCM ciphertext
)

// ErrSealed says that a stored value cannot be opened: it was changed, belongs to
// another label, its key is not in seal.keys, or it is stored in clear although there are keys.
var ErrSealed = errors.New("cannot open a sealed value")

// ErrChanged says that stored values contradict each other, or what is sealed: they were changed.
var ErrChanged = errors.New("what is stored contradicts itself")

// Sealer seals values before they are stored, and opens them. The zero value stores them in
// clear. It is safe for concurrent use.
type Sealer struct {
	first      *ringKey // the key that seals, or nil
	prefix     []byte   // of every value that the first key sealed
	ring       map[string]*ringKey
	derived    *derivedKeys
	clearUntil time.Time        // until then values that are stored in clear open, too
	now        func() time.Time // a test replaces it
}

// New returns a sealer with the keys of a configuration, or what is wrong with them.
func New(cfg Config) (*Sealer, error) {
	var faults setting.Faults
	cfg.Check(setting.NewChecker(&faults).In("seal"))
	if err := faults.Err(); err != nil {
		return nil, err
	}
	s := &Sealer{ring: make(map[string]*ringKey, len(cfg.Keys)), derived: &derivedKeys{seed: maphash.MakeSeed()}, clearUntil: cfg.clearEnds(), now: time.Now}
	for i, k := range cfg.Keys {
		secret, err := k.Bytes()
		if err != nil {
			return nil, fmt.Errorf("seal key %q: %w", k.ID, err)
		}
		key, err := newRingKey(k.ID, secret)
		if err != nil {
			return nil, err
		}
		s.ring[k.ID] = key
		if i == 0 {
			s.first = key
			s.prefix = append([]byte{formatSealed, byte(len(k.ID))}, k.ID...) //nolint:gosec // Check bounds the length
		}
	}
	return s, nil
}

// RandomKey returns a new random key, for values that nothing outside this process reads.
func RandomKey() Key {
	secret := make([]byte, keySize)
	_, _ = rand.Read(secret) // never fails: crypto/rand ends the program instead
	return NewKey("process", secret)
}

// Label says what a value is and which batch and action it belongs to. It is authenticated with
// the value, so that a value which was moved elsewhere does not open.
type Label struct {
	ID    string // the batch, or the name of a value that belongs to no batch
	Kind  string // which of the batch's values it is, such as "a" for an action: one of [Kinds]
	Index int    // the index of the action, or 0
	Bound []byte // what else is authenticated with the value; it is not stored with it
}

// append appends the label in a form that no other label has: each part follows its length.
func (l *Label) append(out []byte) []byte {
	out = append(binary.AppendUvarint(out, uint64(len(l.ID))), l.ID...)
	out = append(binary.AppendUvarint(out, uint64(len(l.Kind))), l.Kind...)
	out = binary.AppendVarint(out, int64(l.Index))
	return append(binary.AppendUvarint(out, uint64(len(l.Bound))), l.Bound...)
}

// labels has buffers for encoded labels.
var labels = sync.Pool{New: func() any { return new([]byte) }}

// Seal returns the value as it is stored. [Sealer.Open] opens it under the same label only.
func (s *Sealer) Seal(at Label, value []byte) []byte {
	if s.first == nil {
		return append([]byte{formatClear}, value...)
	}
	at.check()
	aead, err := s.derived.get(s.first, at.ID)
	if err != nil {
		panic(err) // AES and HKDF accept every key of this size
	}
	out := make([]byte, 0, len(s.prefix)+len(value)+aead.Overhead())
	out = append(out, s.prefix...)
	label := labels.Get().(*[]byte) //nolint:errcheck,forcetypeassert // the pool has no other values
	*label = at.append((*label)[:0])
	out = aead.Seal(out, nil, value, *label) //nolint:gosec // the nonce is random, made by the AEAD itself
	labels.Put(label)
	return out
}

// Enabled reports whether values are sealed, not stored in clear.
func (s *Sealer) Enabled() bool { return s.first != nil }

// AcceptsClear reports whether values that are stored in clear open although there are keys.
func (s *Sealer) AcceptsClear() bool { return s.first != nil && s.now().Before(s.clearUntil) }

// Prefix returns the bytes with which each value begins that the first key sealed. Without keys it is empty.
func (s *Sealer) Prefix() string { return string(s.prefix) }

// Current reports whether a stored value was sealed by the first key, so that the others are
// not needed to open it.
func (s *Sealer) Current(stored []byte) bool {
	return s.first == nil || bytes.HasPrefix(stored, s.prefix)
}

// Open returns the value that was sealed under a label, or an error that wraps [ErrSealed].
// A value that was stored in clear is returned as a part of stored, without a copy.
func (s *Sealer) Open(at Label, stored []byte) ([]byte, error) {
	if len(stored) == 0 {
		return nil, fmt.Errorf("%w: it is empty", ErrSealed)
	}
	switch stored[0] {
	case formatClear:
		if s.first != nil && !s.AcceptsClear() {
			return nil, fmt.Errorf("%w: it is stored in clear, and seal.keys is set", ErrSealed)
		}
		return stored[1:], nil
	case formatSealed:
		id, sealed, ok := cutKey(stored)
		if !ok {
			return nil, fmt.Errorf("%w: it is cut off", ErrSealed)
		}
		key, known := s.ring[string(id)]
		if !known {
			return nil, fmt.Errorf("%w: key %q is not in seal.keys", ErrSealed, id)
		}
		aead, err := s.derived.get(key, at.ID)
		if err != nil {
			return nil, fmt.Errorf("%w with key %q: %w", ErrSealed, id, err)
		}
		label := labels.Get().(*[]byte) //nolint:errcheck,forcetypeassert // the pool has no other values
		*label = at.append((*label)[:0])
		value, err := aead.Open(nil, nil, sealed, *label)
		labels.Put(label)
		if err != nil {
			return nil, fmt.Errorf("%w with key %q: it was changed, or belongs to another place", ErrSealed, id)
		}
		return value, nil
	default:
		return nil, fmt.Errorf("%w: unknown format %#x", ErrSealed, stored[0])
	}
}

// KeyOf returns the id of the key that sealed a stored value, or "" if none did.
func KeyOf(stored []byte) string {
	if len(stored) == 0 || stored[0] != formatSealed {
		return ""
	}
	id, _, _ := cutKey(stored)
	return string(id)
}

// cutKey splits a sealed value into the id of its key, and nonce and ciphertext.
func cutKey(stored []byte) (id, sealed []byte, ok bool) {
	if len(stored) < 2 || len(stored) < 2+int(stored[1]) {
		return nil, nil, false
	}
	n := 2 + int(stored[1])
	return stored[2:n], stored[n:], true
}
