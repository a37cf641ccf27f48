package batches

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/batchd/batchd/queue/keys"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
)

// Name returns the owner's name for a credential that is passed through: a hash
// keyed with a salt that all processes on this Redis share, so that neither the
// credential nor a hash that could be looked up elsewhere is ever stored.
func (s *Owners) Name(ctx context.Context, credential string) (string, error) {
	salt, err := s.salt(ctx)
	if err != nil {
		return "", fmt.Errorf("read the owners' salt: %w", err)
	}
	mac := hmac.New(sha256.New, salt)
	mac.Write([]byte(credential))
	return hex.EncodeToString(mac.Sum(nil)[:16]), nil
}

func (s *Owners) salt(ctx context.Context) ([]byte, error) {
	if salt := s.owners.Load(); salt != nil {
		return *salt, nil
	}
	ctx, cancel := s.db.WithTimeout(ctx)
	defer cancel()
	fresh := make([]byte, 32)
	_, _ = rand.Read(fresh) // never fails: crypto/rand ends the program instead
	where := seal.Label{ID: "salt", Kind: "o"}
	if err := s.db.Client.SetNX(ctx, keys.SaltKey, s.seals.Seal(where, fresh), 0).Err(); err != nil {
		return nil, rdb.MapError(ctx, err)
	}
	stored, err := s.db.Client.Get(ctx, keys.SaltKey).Bytes()
	if err != nil {
		return nil, rdb.MapError(ctx, err)
	}
	salt, err := s.seals.Open(where, stored)
	if err != nil {
		return nil, err
	}
	if !s.seals.Current(stored) { // so that the old key can be dropped
		if err := s.db.Client.Set(ctx, keys.SaltKey, s.seals.Seal(where, salt), 0).Err(); err != nil {
			return nil, rdb.MapError(ctx, err)
		}
	}
	s.owners.Store(&salt)
	return salt, nil
}
