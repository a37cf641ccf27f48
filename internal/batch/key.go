package batch

import (
	"context"
	"errors"
	"time"
)

// Key is a key that batchd made for a caller. It has no secret, but the hashes of secrets.
type Key struct {
	// Name names the key among all keys.
	Name string `json:"name" yaml:"name"`
	// Owner owns the batches that are submitted with the key. Several keys can have one owner.
	Owner string `json:"owner" yaml:"owner"`
	// Scopes are what the key may do: submit, read, cancel.
	Scopes []string `json:"scopes" yaml:"scopes"`
	// Targets are the targets that the key may send actions to. Nil means all, and an empty list none.
	Targets []string `json:"targets,omitzero" yaml:"targets"`
	// WebhookHosts are the hosts that webhooks may name. Nil means all that the settings allow, and an empty list none.
	WebhookHosts []string `json:"webhook_hosts,omitzero" yaml:"webhook_hosts"`
	// Limits replace the configured limits of an owner.
	Limits OwnerLimits `json:"limits,omitzero" yaml:"limits"`
	// Expires is when the key expires. Zero means never.
	Expires time.Time `json:"expires,omitzero" yaml:"expires"`
	// Created and Revoked are when the key was created and revoked.
	Created time.Time `json:"created,omitzero" yaml:"created"`
	Revoked time.Time `json:"revoked,omitzero" yaml:"revoked"`
	// Secrets are those that are valid: one, or two while a rotation is under way.
	Secrets []KeySecret `json:"secrets" yaml:"secrets"`
}

// KeySecret is the hash of the secret of a key.
type KeySecret struct {
	// SHA256 is the hash of the key's text, in hex.
	SHA256 string `json:"sha256" yaml:"sha256"`
	// Until is when a secret that was replaced ends. Zero means with the key.
	Until time.Time `json:"until,omitzero" yaml:"until"`
}

// ValidAt reports whether the key can be used at a time.
func (k *Key) ValidAt(now time.Time) bool {
	return k.Revoked.IsZero() && (k.Expires.IsZero() || now.Before(k.Expires))
}

// ValidAt reports whether the secret can be used at a time, if its key can.
func (s *KeySecret) ValidAt(now time.Time) bool { return s.Until.IsZero() || now.Before(s.Until) }

// KeySource knows all keys.
type KeySource interface {
	// Keys returns all keys and a version. If the version is still the same, it returns no keys and
	// changed is false.
	Keys(ctx context.Context, version string) (keys []Key, now string, changed bool, err error)
}

// KeyFault is a stored key that cannot be read. Nothing authenticates by it.
type KeyFault struct {
	Name string
	Err  error
}

// KeyStore keeps keys.
type KeyStore interface {
	KeySource
	// ListKeys returns all keys, and those that cannot be read.
	ListKeys(ctx context.Context) (keys []Key, faults []KeyFault, err error)
	// RevokeKey revokes a key, also one that cannot be read: unreadable says then why, and nothing but the name and the
	// time is left of it. It returns [ErrNoKey] if there is no such key. Repeating it changes nothing.
	RevokeKey(ctx context.Context, name string, at time.Time) (unreadable, err error)
	// Place says for people where the keys are.
	Place() string
	// ChangeKey reads a key, or nil, calls change and stores what it returns, as one step: if another process
	// changes the key meanwhile, change is called again. It fails if the key cannot be read.
	ChangeKey(ctx context.Context, name string, change func(*Key) (*Key, error)) error
}

// Revoke makes a key invalid for good.
func (k *Key) Revoke(at time.Time) {
	if k.Revoked.IsZero() {
		k.Revoked = at
	}
	k.Secrets = nil
}

// These errors are those of changes of keys.
var (
	ErrKeyExists = errors.New("a key with this name exists")
	ErrNoKey     = errors.New("there is no key with this name")
)
