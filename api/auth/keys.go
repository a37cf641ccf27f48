package auth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/batchd/batchd/api/dialect"
	"github.com/batchd/batchd/internal/apikey"
	"github.com/batchd/batchd/internal/batch"
)

// HeaderKey has a key of batchd beside credentials that are meant for the target.
const HeaderKey = "X-Batchd-Key"

const (
	// refreshAfter is the age at which the known keys are read again in the background.
	refreshAfter = 1500 * time.Millisecond
	// holdFor is the age up to which the known keys decide. A revocation holds after that time in all
	// processes, also if the store is away.
	holdFor = 4 * time.Second
)

// Keys is the authenticator of the mode keys. It keeps all keys of a source in memory, and reads them again
// while requests come.
type Keys struct {
	source batch.KeySource
	log    *slog.Logger
	// other reports whether a value of HeaderKey is a credential of another authenticator. Nil reports none.
	other func(value string) bool

	known atomic.Pointer[keySet]
	mu    sync.Mutex
	read  *keyRead // the read under way, or nil
}

// keySet is what a read of the source found.
type keySet struct {
	version string
	// at is when the read began.
	at time.Time
	// secrets are the secrets by the first bytes of their hashes.
	secrets map[[8]byte][]secret
}

type secret struct {
	hash  [32]byte
	until time.Time
	key   *batch.Key
}

type keyRead struct {
	done chan struct{}
	set  *keySet
	err  error
}

// NewKeys returns an authenticator by the keys of a source. Other reports whether a value of [HeaderKey] belongs to
// another authenticator; nil reports none.
func NewKeys(source batch.KeySource, other func(value string) bool, log *slog.Logger) *Keys {
	return &Keys{source: source, other: other, log: log}
}

var errInvalidKey = &dialect.UnauthorizedError{Detail: "the key is not valid: it is unknown, revoked or expired"}

// Authenticate implements [Authenticator].
func (k *Keys) Authenticate(ctx context.Context, r *http.Request) (*Principal, error) {
	text, forward, err := takeKey(r, k.other)
	if text == "" || err != nil {
		return nil, err
	}
	if scheme, _, _ := strings.Cut(text, " "); strings.EqualFold(scheme, "Bearer") && forward {
		return nil, &dialect.UnauthorizedError{Detail: HeaderKey + " has the key after the word Bearer: send the key alone there, or as Authorization: Bearer"}
	}
	if !apikey.Valid(text) {
		return nil, &dialect.UnauthorizedError{Detail: "the key is not valid: it is not one of batchd's, or has a typing error"}
	}
	hash := apikey.Hash(text)
	found, err := k.find(ctx, hash)
	if err != nil {
		return nil, err
	}
	p := k.principal(found, hash)
	p.Forward = forward
	return p, nil
}

// principal returns who has a key, by the secret with a hash.
func (k *Keys) principal(found *batch.Key, hash [sha256.Size]byte) *Principal {
	p := &Principal{
		Mode: ModeKeys, Name: found.Name, Owner: KeyOwner(found.Owner),
		Targets: found.Targets, WebhookHosts: found.WebhookHosts, Quotas: found.Quotas, Expires: found.Expires,
		Check: func(ctx context.Context) error {
			_, err := k.find(ctx, hash)
			return err
		},
	}
	for _, scope := range found.Scopes {
		p.Scopes = append(p.Scopes, Scope(scope))
	}
	if found.Limits != (batch.OwnerLimits{}) {
		p.Limits = &found.Limits
	}
	return p
}

// KeyOwner returns the owner of the batches of keys with that owner. It differs from the owners of other modes,
// so that no token can have a subject that owns the batches of a key.
func KeyOwner(owner string) string { return "key:" + owner }

// takeKey takes the key out of a request. Forward: an Authorization that remains is meant for the target.
func takeKey(r *http.Request, other func(value string) bool) (text string, forward bool, err error) {
	twice := &dialect.UnauthorizedError{Detail: "the request has several keys: send one, in " + HeaderKey + " or as Authorization: Bearer"}
	own := r.Header.Values(HeaderKey)
	if other != nil && slices.ContainsFunc(own, other) && !slices.ContainsFunc(own, apikey.InValue) {
		own = nil
	} else {
		r.Header.Del(HeaderKey)
	}
	authorization := r.Header.Values("Authorization")
	if !slices.ContainsFunc(authorization, apikey.InValue) {
		switch len(own) {
		case 0:
			return "", false, nil
		case 1:
			return strings.TrimSpace(own[0]), true, nil
		}
		return "", false, twice
	}
	r.Header.Del("Authorization")
	if len(own) > 0 || len(authorization) > 1 {
		return "", false, twice
	}
	scheme, rest, _ := strings.Cut(strings.TrimSpace(authorization[0]), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", false, &dialect.UnauthorizedError{Detail: "the Authorization header has a key of batchd without the scheme Bearer: send it as Authorization: Bearer batchd_… or in " + HeaderKey}
	}
	return strings.TrimSpace(rest), false, nil
}

// Guard comes first in a chain without keys. It takes keys of batchd out of a request, so that they are not
// passed on to a target.
type Guard struct {
	// Other is as for [NewKeys].
	Other func(value string) bool
}

// Authenticate implements [Authenticator].
func (g Guard) Authenticate(_ context.Context, r *http.Request) (*Principal, error) {
	_, _, _ = takeKey(r, g.Other) // what remains decides
	return nil, nil
}

// find returns the valid key with a secret of that hash.
func (k *Keys) find(ctx context.Context, hash [sha256.Size]byte) (*batch.Key, error) {
	set, err := k.fresh(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	for _, s := range set.secrets[[8]byte(hash[:8])] {
		if subtle.ConstantTimeCompare(s.hash[:], hash[:]) == 1 && s.key.ValidAt(now) && (s.until.IsZero() || now.Before(s.until)) {
			return s.key, nil
		}
	}
	return nil, errInvalidKey
}

// fresh returns the known keys, if they are fresh enough to decide, or those that a read of the source finds.
// Requests at the same time share a read.
func (k *Keys) fresh(ctx context.Context) (*keySet, error) {
	set := k.known.Load()
	age := holdFor
	if set != nil {
		age = time.Since(set.at)
	}
	if age < refreshAfter {
		return set, nil
	}
	read := k.start(ctx)
	if age < holdFor {
		return set, nil // the read goes on in the background
	}
	select {
	case <-read.done:
		if read.err != nil {
			return nil, read.err
		}
		return read.set, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// start starts a read of the source, unless one is under way.
func (k *Keys) start(ctx context.Context) *keyRead {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.read != nil {
		return k.read
	}
	read := &keyRead{done: make(chan struct{})}
	k.read = read
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), holdFor)
		defer cancel()
		read.set, read.err = k.load(ctx)
		k.mu.Lock()
		k.read = nil
		k.mu.Unlock()
		close(read.done)
	}()
	return read
}

// load reads the source.
func (k *Keys) load(ctx context.Context) (*keySet, error) {
	at, version := time.Now(), ""
	known := k.known.Load()
	if known != nil {
		version = known.version
	}
	keys, now, changed, err := k.source.Keys(ctx, version)
	if err != nil {
		k.log.WarnContext(ctx, "keys not read", "error", err)
		if errors.As(err, new(*batch.UnavailableError)) {
			return nil, err
		}
		return nil, &batch.UnavailableError{RetryAfter: holdFor, Err: err}
	}
	set := &keySet{version: now, at: at}
	if changed || known == nil {
		set.secrets = make(map[[8]byte][]secret)
		for i := range keys {
			for _, s := range keys[i].Secrets {
				var one secret
				if n, err := hex.Decode(one.hash[:], []byte(s.SHA256)); err != nil || n != len(one.hash) {
					k.log.ErrorContext(ctx, "key not usable", "key", keys[i].Name, "error", "the hash of its secret is not a SHA-256")
					continue
				}
				one.until, one.key = s.Until, &keys[i]
				index := [8]byte(one.hash[:8])
				set.secrets[index] = append(set.secrets[index], one)
			}
		}
	} else {
		set.secrets = known.secrets
	}
	k.known.Store(set)
	return set, nil
}
