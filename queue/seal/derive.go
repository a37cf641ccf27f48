package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"hash/maphash"
	"sync/atomic"
)

// deriveInfo begins the info of HKDF; the batch's id, or the name of a value that belongs to no batch,
// follows.
const deriveInfo = "batchd batch v1"

// cachedKeys is the most derived keys that a sealer keeps, of about 1 KiB each.
const cachedKeys = 4096

// ringKey is one key of the ring. No value is sealed with it: each batch has a key of its own, which is
// derived from it.
type ringKey struct {
	id     string
	pseudo []byte // HKDF-Extract of the key
}

func newRingKey(id string, secret []byte) (*ringKey, error) {
	pseudo, err := hkdf.Extract(sha256.New, secret, nil)
	if err != nil {
		return nil, fmt.Errorf("seal key %q: %w", id, err)
	}
	return &ringKey{id: id, pseudo: pseudo}, nil
}

// derive returns the AES-256-GCM of a batch, with random nonces: at most 2^32 values per batch.
func (k *ringKey) derive(batch string) (cipher.AEAD, error) {
	secret, err := hkdf.Expand(sha256.New, k.pseudo, deriveInfo+batch, keySize)
	if err != nil {
		return nil, fmt.Errorf("derive the key of %s: %w", batch, err)
	}
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, fmt.Errorf("derive the key of %s: %w", batch, err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("derive the key of %s: %w", batch, err)
	}
	return aead, nil
}

// derivedKeys keeps the derived keys of batches that are in use. Each batch has one place, which it shares with
// other batches by chance: the last one of them keeps its key there. So the memory is bounded, and the usual case
// takes neither a lock nor an allocation.
type derivedKeys struct {
	seed   maphash.Seed
	places [cachedKeys]atomic.Pointer[derivedKey]
}

// derivedKey is a derived key, and the batch and the key of the ring that it belongs to.
type derivedKey struct {
	ring  *ringKey
	batch string
	aead  cipher.AEAD
}

// get returns a derived key, and derives it if it is not kept.
func (d *derivedKeys) get(ring *ringKey, batch string) (cipher.AEAD, error) {
	place := &d.places[maphash.String(d.seed, batch)%cachedKeys]
	if kept := place.Load(); kept != nil && kept.ring == ring && kept.batch == batch {
		return kept.aead, nil
	}
	aead, err := ring.derive(batch)
	if err != nil {
		return nil, err
	}
	place.Store(&derivedKey{ring, batch, aead})
	return aead, nil
}
