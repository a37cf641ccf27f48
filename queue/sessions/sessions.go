// Package sessions keeps the sessions of people who signed in. All sessions of a group, which is an owner, are in
// one hash: so their number is bounded, and each step is one exchange.
package sessions

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/batchd/batchd/internal/batch"
	"github.com/batchd/batchd/queue/rdb"
	"github.com/batchd/batchd/queue/seal"
)

//go:embed lua
var luaFiles embed.FS

// Steps are the Lua steps of this package.
var Steps = struct{ Put, Read, End *rdb.Step }{
	Put:  rdb.LoadStep(luaFiles, "put", rdb.TimeLua),
	Read: rdb.LoadStep(luaFiles, "read", rdb.TimeLua),
	End:  rdb.LoadStep(luaFiles, "end"),
}

// Most is the most sessions of a group. A further one ends that which was not used for the longest time.
const Most = 100

const (
	keyPrefix, keySuffix = "batchd:sessions:{", "}"
	// fieldPrefix begins the fields that are sessions.
	fieldPrefix = "v"
	labelKind   = "n"
)

// Key returns the key of the hash with the sessions of a group.
func Key(group string) string { return keyPrefix + group + keySuffix }

// Sessions keeps sessions in Redis. It implements [batch.SessionStore] and is safe for concurrent use.
type Sessions struct {
	db    *rdb.DB
	seals *seal.Sealer
}

var _ batch.SessionStore = (*Sessions)(nil)

// New returns the sessions in a Redis.
func New(db *rdb.DB, seals *seal.Sealer) *Sessions { return &Sessions{db, seals} }

func label(group, id string) seal.Label {
	return seal.Label{ID: "sessions:" + group, Kind: labelKind, Bound: []byte(id)}
}

// Sealed returns the place of the sessions.
func Sealed() seal.Place {
	group := func(key string) string { return strings.TrimSuffix(strings.TrimPrefix(key, keyPrefix), keySuffix) }
	return seal.Place{
		Kind: labelKind, Key: Key("*"), Fields: fieldPrefix, OnlySealed: true,
		Label: func(key, id string) seal.Label { return label(group(key), id) },
		Name:  func(key, _ string) string { return "a session of " + group(key) },
	}
}

// PutSession implements [batch.SessionStore].
func (s *Sessions) PutSession(ctx context.Context, group, id string, value []byte, lifetime time.Duration) error {
	sealed := s.seals.Seal(label(group, id), value)
	if _, err := s.db.Run(ctx, Steps.Put, []string{Key(group)}, id, sealed, lifetime.Milliseconds(), Most); err != nil {
		return fmt.Errorf("store the session: %w", err)
	}
	return nil
}

// Session implements [batch.SessionStore]. A record that cannot be opened is no session: a writer to Redis without
// the seal keys cannot make one.
func (s *Sessions) Session(ctx context.Context, group, id string, idle time.Duration, use bool) ([]byte, error) {
	used := "0"
	if use {
		used = "1"
	}
	answer, err := s.db.Run(ctx, Steps.Read, []string{Key(group)}, id, idle.Milliseconds(), used)
	if err != nil {
		return nil, fmt.Errorf("read the session: %w", err)
	}
	if len(answer) == 0 || answer[0] == "" {
		return nil, batch.ErrNoSession
	}
	stored := []byte(answer[0])
	if s.seals.Enabled() && seal.KeyOf(stored) == "" {
		return nil, batch.ErrNoSession // also while batches in clear are accepted
	}
	value, err := s.seals.Open(label(group, id), stored)
	if errors.Is(err, seal.ErrSealed) {
		return nil, batch.ErrNoSession
	}
	return value, err
}

// EndSession implements [batch.SessionStore].
func (s *Sessions) EndSession(ctx context.Context, group, id string) error {
	if _, err := s.db.Run(ctx, Steps.End, []string{Key(group)}, id); err != nil {
		return fmt.Errorf("end the session: %w", err)
	}
	return nil
}
