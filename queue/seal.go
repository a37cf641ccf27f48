package queue

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

// errSealed says that a value cannot be opened.
var errSealed = errors.New("cannot open a sealed value")

// sealer seals values at the store's edge. The zero value stores them clear.
type sealer struct {
	first string // id of the key that seals
	ring  map[string]cipher.AEAD
}

func newSealer(cfg SealConfig) (*sealer, error) {
	var faults setting.Faults
	cfg.Check(setting.NewChecker(&faults).In("seal"))
	if err := faults.Err(); err != nil {
		return nil, err
	}
	s := &sealer{ring: make(map[string]cipher.AEAD, len(cfg.Keys))}
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

// randomSealKey makes a key that lives as long as the process.
func randomSealKey() SealKey {
	secret := make([]byte, sealKeySize)
	_, _ = rand.Read(secret) // never fails: crypto/rand ends the program instead
	return NewSealKey("process", secret)
}

// place names where a sealed value stands, for its authentication.
type place struct {
	id, kind string
	index    int
}

func (p place) bytes() []byte {
	out := make([]byte, 0, len(p.id)+len(p.kind)+8)
	out = append(out, p.id...)
	out = append(out, p.kind...)
	return strconv.AppendInt(out, int64(p.index), 10)
}

// seal binds the value to its place, so that it opens nowhere else.
func (s *sealer) seal(at place, value []byte) []byte {
	if s.first == "" {
		return append([]byte{formatClear}, value...)
	}
	aead := s.ring[s.first]
	out := make([]byte, 0, 2+len(s.first)+len(value)+aead.Overhead())
	out = append(out, formatSealed, byte(len(s.first))) //nolint:gosec // newSealer bounds the length
	out = append(out, s.first...)
	return aead.Seal(out, nil, value, at.bytes()) //nolint:gosec // the nonce is random, made by the AEAD itself
}

// current reports whether a value is sealed by the key that seals.
func (s *sealer) current(stored []byte) bool {
	if s.first == "" {
		return true
	}
	return bytes.HasPrefix(stored, append([]byte{formatSealed, byte(len(s.first))}, s.first...)) //nolint:gosec // newSealer bounds the length
}

// open is the inverse of seal.
func (s *sealer) open(at place, stored []byte) ([]byte, error) {
	if len(stored) == 0 {
		return nil, fmt.Errorf("%w: it is empty", errSealed)
	}
	switch stored[0] {
	case formatClear:
		return stored[1:], nil
	case formatSealed:
		if len(stored) < 2 || len(stored) < 2+int(stored[1]) {
			return nil, fmt.Errorf("%w: it is cut off", errSealed)
		}
		n := 2 + int(stored[1])
		id := string(stored[2:n])
		aead, known := s.ring[id]
		if !known {
			return nil, fmt.Errorf("%w: key %q is not in seal.keys", errSealed, id)
		}
		value, err := aead.Open(nil, nil, stored[n:], at.bytes())
		if err != nil {
			return nil, fmt.Errorf("%w with key %q: %w", errSealed, id, err)
		}
		return value, nil
	default:
		return nil, fmt.Errorf("%w: unknown format %#x", errSealed, stored[0])
	}
}
