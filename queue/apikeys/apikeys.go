// Package apikeys keeps batchd's own keys in Redis: the hashes of their secrets, and what they may do.
//
// All keys are in one hash, which a process reads as a whole when its version has changed. So checking keys
// costs no exchange for a request, however many invented keys come.
package apikeys

import (
	"context"
	"crypto/rand"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
)

//go:embed lua
var luaFiles embed.FS

// Steps are the Lua steps of this package.
var Steps = struct{ Read, Change *rdb.Step }{
	Read:   rdb.LoadStep(luaFiles, "read"),
	Change: rdb.LoadStep(luaFiles, "change"),
}

const (
	// Key is the key of the hash with all keys.
	Key = "batchd:apikeys"
	// fieldPrefix begins the fields that are keys.
	fieldPrefix = "k:"
	// mostTries bounds how often a change is tried while other processes change the same key.
	mostTries = 20
)

// Keys keeps batchd's own keys. It implements [batch.KeyStore] and is safe for concurrent use.
type Keys struct {
	db    *rdb.DB
	log   *slog.Logger
	seals *seal.Sealer
}

var _ batch.KeyStore = (*Keys)(nil)

// New returns the keys in a Redis.
func New(db *rdb.DB, log *slog.Logger, seals *seal.Sealer) *Keys { return &Keys{db, log, seals} }

// Keys implements [batch.KeySource]. A record that cannot be opened is no key: a writer without the seal keys
// cannot make one.
func (k *Keys) Keys(ctx context.Context, version string) ([]batch.Key, string, bool, error) {
	answer, err := k.db.Run(ctx, Steps.Read, []string{Key}, version)
	if err != nil {
		return nil, "", false, fmt.Errorf("read the keys: %w", err)
	}
	if answer[0] == version {
		return nil, version, false, nil
	}
	var found []batch.Key
	for i := 1; i+1 < len(answer); i += 2 {
		name, ok := strings.CutPrefix(answer[i], fieldPrefix)
		if !ok {
			continue
		}
		key, err := k.open(name, []byte(answer[i+1]))
		if err != nil {
			k.log.ErrorContext(ctx, "key not usable", "key", name, "error", err)
			continue
		}
		found = append(found, *key)
	}
	return found, answer[0], true, nil
}

func label(name string) seal.Label { return seal.Label{ID: "key:" + name, Kind: "k"} }

// open returns the key of a record, which must be sealed if anything is.
func (k *Keys) open(name string, stored []byte) (*batch.Key, error) {
	inClear := (&seal.Sealer{}).Seal(seal.Label{}, nil)
	if k.seals.Enabled() && len(stored) > 0 && stored[0] == inClear[0] {
		return nil, errors.New("the record is not sealed, as seal.keys demands")
	}
	plain, err := k.seals.Open(label(name), stored)
	if err != nil {
		return nil, err
	}
	key := new(batch.Key)
	if err := json.Unmarshal(plain, key); err != nil {
		return nil, fmt.Errorf("read the record: %w", err)
	}
	if key.Name != name {
		return nil, errors.New("the record is another key's")
	}
	return key, nil
}

// ChangeKey implements [batch.KeyStore].
func (k *Keys) ChangeKey(ctx context.Context, name string, change func(*batch.Key) (*batch.Key, error)) error {
	for range mostTries {
		stored, err := k.stored(ctx, name)
		if err != nil {
			return err
		}
		var key *batch.Key
		if stored != nil {
			if key, err = k.open(name, stored); err != nil {
				return fmt.Errorf("key %s: %w", name, err)
			}
		}
		if key, err = change(key); err != nil {
			return err
		}
		text, err := json.Marshal(key)
		if err != nil {
			return fmt.Errorf("write the record of key %s: %w", name, err)
		}
		answer, err := k.db.Run(ctx, Steps.Change, []string{Key}, fieldPrefix+name, stored, k.seals.Seal(label(name), text), rand.Text())
		if err != nil {
			return fmt.Errorf("store key %s: %w", name, err)
		}
		if answer[0] == "1" {
			return nil
		}
	}
	return fmt.Errorf("store key %s: other processes changed it all the time", name)
}

// stored returns the record of a key, or nil.
func (k *Keys) stored(ctx context.Context, name string) ([]byte, error) {
	ctx, cancel := k.db.WithTimeout(ctx)
	defer cancel()
	stored, err := k.db.Client.HGet(ctx, Key, fieldPrefix+name).Bytes()
	if errors.Is(err, redis.Nil) {
		return nil, nil
	}
	return stored, rdb.MapError(ctx, err)
}
