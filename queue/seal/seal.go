// Package seal encrypts stored values, and binds each value to its batch, kind and index.
//
// A stored value begins with its format. A sealed one names the key that sealed it, so that keys
// can be replaced: the first key of a [Config] seals, and all of them open.
package seal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"

	"github.com/batchd/batchd/internal/setting"
)

// Formats of a stored value, its first byte.
const (
	formatClear  = 0x00 // the value follows
	formatSealed = 0x01 // length and id of the key, nonce, AES-256-GCM ciphertext
)

// ErrSealed says that a stored value cannot be opened: it was changed, belongs to
// another label, or its key is not in seal.keys.
var ErrSealed = errors.New("cannot open a sealed value")

// Sealer seals values before they are stored, and opens them. The zero value stores them in
// clear. It is safe for concurrent use.
type Sealer struct {
	first string // id of the key that seals
	ring  map[string]cipher.AEAD
}

// New returns a sealer with the keys of a configuration, or what is wrong with them.
func New(cfg Config) (*Sealer, error) {
	var faults setting.Faults
	cfg.Check(setting.NewChecker(&faults).In("seal"))
	if err := faults.Err(); err != nil {
		return nil, err
	}
	s := &Sealer{ring: make(map[string]cipher.AEAD, len(cfg.Keys))}
	for i, k := range cfg.Keys {
		secret, err := k.Bytes()
		if err != nil {
			return nil, fmt.Errorf("seal key %q: %w", k.ID, err)
		}
		block, err := aes.NewCipher(secret)
		if err != nil {
			return nil, fmt.Errorf("seal key %q: %w", k.ID, err)
		}
		aead, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			return nil, fmt.Errorf("seal key %q: %w", k.ID, err)
		}
		s.ring[k.ID] = aead
		if i == 0 {
			s.first = k.ID
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
	Kind  string // which of the batch's values it is, such as "a" for an action
	Index int    // the index of the action, or 0
}

func (l Label) bytes() []byte {
	out := make([]byte, 0, len(l.ID)+len(l.Kind)+8)
	out = append(out, l.ID...)
	out = append(out, l.Kind...)
	return strconv.AppendInt(out, int64(l.Index), 10)
}

// Seal returns the value as it is stored. [Sealer.Open] opens it under the same label only.
func (s *Sealer) Seal(at Label, value []byte) []byte {
	if s.first == "" {
		return append([]byte{formatClear}, value...)
	}
	aead := s.ring[s.first]
	out := make([]byte, 0, 2+len(s.first)+len(value)+aead.Overhead())
	out = append(out, formatSealed, byte(len(s.first))) //nolint:gosec // New bounds the length
	out = append(out, s.first...)
	return aead.Seal(out, nil, value, at.bytes()) //nolint:gosec // the nonce is random, made by the AEAD itself
}

// Enabled reports whether values are sealed, not stored in clear.
func (s *Sealer) Enabled() bool { return s.first != "" }

// Current reports whether a stored value was sealed by the first key, so that the others are
// not needed to open it.
func (s *Sealer) Current(stored []byte) bool {
	if s.first == "" {
		return true
	}
	return bytes.HasPrefix(stored, append([]byte{formatSealed, byte(len(s.first))}, s.first...)) //nolint:gosec // New bounds the length
}

// Open returns the value that was sealed under a label, or an error that wraps [ErrSealed].
// A value that was stored in clear is returned as a part of stored, without a copy.
func (s *Sealer) Open(at Label, stored []byte) ([]byte, error) {
	if len(stored) == 0 {
		return nil, fmt.Errorf("%w: it is empty", ErrSealed)
	}
	switch stored[0] {
	case formatClear:
		return stored[1:], nil
	case formatSealed:
		if len(stored) < 2 || len(stored) < 2+int(stored[1]) {
			return nil, fmt.Errorf("%w: it is cut off", ErrSealed)
		}
		n := 2 + int(stored[1])
		id := string(stored[2:n])
		aead, known := s.ring[id]
		if !known {
			return nil, fmt.Errorf("%w: key %q is not in seal.keys", ErrSealed, id)
		}
		value, err := aead.Open(nil, nil, stored[n:], at.bytes())
		if err != nil {
			return nil, fmt.Errorf("%w with key %q: %w", ErrSealed, id, err)
		}
		return value, nil
	default:
		return nil, fmt.Errorf("%w: unknown format %#x", ErrSealed, stored[0])
	}
}
