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
	"time"

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

// clearSuffix ends a version whose keys include records that are stored in clear. On the day when those are no longer
// accepted, the version is another one.
const clearSuffix = "+clear"

// Keys implements [batch.KeySource]. A record that cannot be opened is no key: a writer without the seal keys
// cannot make one.
func (k *Keys) Keys(ctx context.Context, version string) ([]batch.Key, string, bool, error) {
	suffix := ""
	if k.seals.AcceptsClear() {
		suffix = clearSuffix
	}
	known, same := strings.CutSuffix(version, suffix)
	if !same || suffix == "" && strings.HasSuffix(version, clearSuffix) {
		known = ""
	}
	found, faults, now, err := k.read(ctx, known)
	if err != nil {
		return nil, "", false, err
	}
	for _, fault := range faults {
		k.log.ErrorContext(ctx, "key not usable", "key", fault.Name, "error", fault.Err)
	}
	return found, now + suffix, now != known, nil
}

// ListKeys implements [batch.KeyStore].
func (k *Keys) ListKeys(ctx context.Context) ([]batch.Key, []batch.KeyFault, error) {
	found, faults, _, err := k.read(ctx, "")
	return found, faults, err
}

// read reads all keys, unless the version is still the same.
func (k *Keys) read(ctx context.Context, version string) (found []batch.Key, faults []batch.KeyFault, now string, err error) {
	answer, err := k.db.Run(ctx, Steps.Read, []string{Key}, version)
	if err != nil {
		return nil, nil, "", fmt.Errorf("read the keys: %w", err)
	}
	for i := 1; i+1 < len(answer); i += 2 {
		name, ok := strings.CutPrefix(answer[i], fieldPrefix)
		if !ok {
			continue
		}
		key, err := k.open(name, []byte(answer[i+1]))
		if err != nil {
			faults = append(faults, batch.KeyFault{Name: name, Err: err})
			continue
		}
		found = append(found, *key)
	}
	return found, faults, answer[0], nil
}

const labelKind = "k"

func label(name string) seal.Label { return seal.Label{ID: "key:" + name, Kind: labelKind} }

// Sealed returns the place of the records.
func Sealed() seal.Place {
	return seal.Place{
		Kind: labelKind, Key: Key, Fields: fieldPrefix,
		Label: func(_, name string) seal.Label { return label(name) },
		Name: func(_, name string) string {
			if name == "" {
				return "batchd's own keys"
			}
			return "the record of key " + name
		},
	}
}

// Place implements [batch.KeyStore].
func (k *Keys) Place() string { return "Redis" }

// open returns the key of a record.
func (k *Keys) open(name string, stored []byte) (*batch.Key, error) {
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
	return k.change(ctx, name, func(key *batch.Key, fault error) (*batch.Key, error) {
		if fault != nil {
			return nil, fmt.Errorf("the record of key %s cannot be read: %w: add the seal key that sealed it to seal.keys, or revoke the key", name, fault)
		}
		return change(key)
	})
}

// RevokeKey implements [batch.KeyStore].
func (k *Keys) RevokeKey(ctx context.Context, name string, at time.Time) (unreadable, err error) {
	err = k.change(ctx, name, func(key *batch.Key, fault error) (*batch.Key, error) {
		unreadable = fault
		switch {
		case fault != nil:
			key = &batch.Key{Name: name}
		case key == nil:
			return nil, fmt.Errorf("key %s: %w", name, batch.ErrNoKey)
		}
		key.Revoke(at)
		return key, nil
	})
	return unreadable, err
}

// change stores what a function makes of a key, or of the reason why it cannot be read.
func (k *Keys) change(ctx context.Context, name string, change func(key *batch.Key, fault error) (*batch.Key, error)) error {
	for range mostTries {
		stored, err := k.stored(ctx, name)
		if err != nil {
			return err
		}
		var key *batch.Key
		var fault error
		if stored != nil {
			key, fault = k.open(name, stored)
		}
		if key, err = change(key, fault); err != nil {
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
