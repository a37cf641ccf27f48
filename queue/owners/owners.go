// Package owners has the salt of an installation, and the hashes that are keyed with it: the names of owners by their
// credentials, idempotency keys, and fingerprints of submissions.
package owners

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
)

// Owners names the owners of batches by the credentials of requests that are passed through.
type Owners struct {
	db     *rdb.DB
	seals  *seal.Sealer
	cached atomic.Pointer[[]byte] // the salt, once it was read
}

// New returns the owners in a Redis.
func New(db *rdb.DB, seals *seal.Sealer) *Owners { return &Owners{db: db, seals: seals} }

// Name returns the name of the owner with that credential. The name is a hash keyed with a salt that
// all processes on this Redis share, so Redis has neither the credential nor a hash that an attacker
// could look up in a table.
func (o *Owners) Name(ctx context.Context, credential string) (string, error) {
	name, err := o.Hash(ctx, "owner", []byte(credential))
	return hex.EncodeToString(name[:16]), err
}

// Hash returns a hash of the parts that is keyed with the salt. Each purpose has hashes of its own, and other
// parts have another hash.
func (o *Owners) Hash(ctx context.Context, purpose string, parts ...[]byte) (sum [sha256.Size]byte, err error) {
	salt, err := o.salt(ctx)
	if err != nil {
		return sum, fmt.Errorf("read the salt: %w", err)
	}
	mac := hmac.New(sha256.New, salt)
	for _, part := range append([][]byte{[]byte(purpose)}, parts...) {
		mac.Write(binary.AppendUvarint(nil, uint64(len(part))))
		mac.Write(part)
	}
	mac.Sum(sum[:0])
	return sum, nil
}

var saltLabel = seal.Label{ID: "salt", Kind: "s"}

// Sealed returns the place of the salt.
func Sealed() seal.Place {
	return seal.Place{
		Kind: saltLabel.Kind, Key: keys.SaltKey,
		Label: func(string, string) seal.Label { return saltLabel },
		Name:  func(string, string) string { return "the salt of owners' names" },
	}
}

// salt reads the salt. The first process makes it.
func (o *Owners) salt(ctx context.Context) ([]byte, error) {
	if salt := o.cached.Load(); salt != nil {
		return *salt, nil
	}
	ctx, cancel := o.db.WithTimeout(ctx)
	defer cancel()
	if err := o.make(ctx); err != nil {
		return nil, err
	}
	stored, err := o.db.Client.Get(ctx, keys.SaltKey).Bytes()
	if err != nil {
		return nil, rdb.MapError(ctx, err)
	}
	salt, err := o.seals.Open(saltLabel, stored)
	if err != nil {
		return nil, err
	}
	o.cached.Store(&salt)
	return salt, nil
}

// make makes the salt, unless there is one.
func (o *Owners) make(ctx context.Context) error {
	fresh := make([]byte, 32)
	_, _ = rand.Read(fresh) // never fails: crypto/rand ends the program instead
	return rdb.MapError(ctx, o.db.Client.SetNX(ctx, keys.SaltKey, o.seals.Seal(saltLabel, fresh), 0).Err())
}

// Prepare is [Owners.Check] of a process that is going to store sealed values: with seal keys it makes the salt,
// unless there is one, so that a process with other keys notices.
func (o *Owners) Prepare(ctx context.Context) error {
	if o.seals.Enabled() {
		ctx, cancel := o.db.WithTimeout(ctx)
		defer cancel()
		if err := o.make(ctx); err != nil {
			return fmt.Errorf("make the salt: %w", err)
		}
	}
	return o.Check(ctx)
}

// Check opens the salt that is stored now, if there is one. If the seal keys of this process are not those of the
// processes that stored it, the error wraps [seal.ErrSealed] and says what to do.
func (o *Owners) Check(ctx context.Context) error {
	ctx, cancel := o.db.WithTimeout(ctx)
	defer cancel()
	stored, err := o.db.Client.Get(ctx, keys.SaltKey).Bytes()
	switch {
	case errors.Is(err, redis.Nil):
		return nil
	case err != nil:
		return fmt.Errorf("read the salt: %w", rdb.MapError(ctx, err))
	}
	if _, err := o.seals.Open(saltLabel, stored); err != nil {
		return fmt.Errorf("%w: %s", err, o.advice(seal.KeyOf(stored)))
	}
	return nil
}

// advice says what to do if the salt that a key sealed, or none, cannot be opened.
func (o *Owners) advice(key string) string {
	switch {
	case key == "":
		return "what is in Redis was stored without seal.keys: to keep it, set seal.accept_clear_until and run batchd seal rotate; otherwise use an empty database"
	case !o.seals.Enabled():
		return fmt.Sprintf("key %q encrypted what is in Redis, and this process has no seal.keys: set the same ones as the processes that stored it", key)
	}
	return fmt.Sprintf("key %q encrypted what is in Redis, and seal.keys has another one or none of that name: set the same ones as the processes that stored it", key)
}
