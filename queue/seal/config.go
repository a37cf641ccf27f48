package seal

import (
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/batchd/batchd/internal/setting"
)

// Config holds the keys that encrypt stored values.
type Config struct {
	// Keys are the keys of the ring: the first one seals, all of them open. Defaults to none: values
	// are then stored in clear, except in the embedded store, which seals with a key of its own.
	Keys []Key `yaml:"keys"`
	// AcceptClearUntil is the last day, in UTC, on which values that were stored before there were keys are
	// still read, as in 2027-01-31. Until then, someone who can write to Redis can plant batches and keys of batchd's own.
	// Defaults to none: with keys, values in clear are refused.
	AcceptClearUntil string `yaml:"accept_clear_until"`
}

// clearEnds returns the time from which values in clear are refused, or zero if they always are.
func (s Config) clearEnds() time.Time {
	day, err := time.Parse(time.DateOnly, s.AcceptClearUntil)
	if err != nil {
		return time.Time{}
	}
	return day.AddDate(0, 0, 1)
}

// Key is one key of the ring.
type Key struct {
	// ID names the key in every value that it sealed: 1 to 32 letters, digits, ".",
	// "-" and "_". It must not change while such data is kept.
	ID string `yaml:"id"`
	// Base64 holds the 32 bytes of the key, for AES-256, in standard base64.
	Base64 setting.Secret `yaml:"base64"`
}

// NewKey returns the key of 32 random bytes.
func NewKey(id string, secret []byte) Key {
	return Key{ID: id, Base64: setting.Secret(base64.StdEncoding.EncodeToString(secret))}
}

// keyID matches ids, and no key: logs may show ids, so a key that was written in the place of
// the id must not match, not even without padding.
var keyID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$`)

// keySize is the length of a key in bytes.
const keySize = 32

// Bytes returns the 32 bytes of the key. Its errors repeat nothing of it: base64's own
// names the byte that it stopped at.
func (k Key) Bytes() ([]byte, error) {
	const makeOne = "make one with: openssl rand -base64 32"
	raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(k.Base64.Reveal(), "="))
	switch {
	case k.Base64 == "":
		return nil, errors.New("the key is missing: " + makeOne)
	case err != nil:
		return nil, errors.New("the key is not valid base64: " + makeOne)
	case len(raw) != keySize:
		return nil, fmt.Errorf("the key has %d bytes: expected %d: %s", len(raw), keySize, makeOne)
	}
	return raw, nil
}

// Check reports what is wrong with the keys.
func (s Config) Check(c *setting.Checker) {
	first := map[string]string{}
	for i, k := range s.Keys {
		key := fmt.Sprintf("keys[%d]", i)
		if c.IsBroken(key) {
			continue
		}
		// One variable can hold several keys, so the message names the key.
		name := fmt.Sprintf("key %d", i+1)
		if keyID.MatchString(k.ID) {
			name = fmt.Sprintf("key %q", k.ID)
		} else {
			c.Faultf(key+".id", "%s has no usable id: expected 1 to 32 letters, digits, ., - or _", name)
		}
		if _, err := k.Bytes(); err != nil {
			c.Faultf(key+".base64", "%s: %w", name, err)
		}
		if other, ok := first[k.ID]; ok && k.ID != "" {
			c.Faultf(key+".id", "%s appears twice: the other is %s", name, c.Where(other))
			continue
		}
		first[k.ID] = key
	}
	if s.AcceptClearUntil == "" {
		return
	}
	if _, err := time.Parse(time.DateOnly, s.AcceptClearUntil); err != nil {
		c.Faultf("accept_clear_until", "cannot read %q as a date: expected for example 2027-01-31", setting.Clip(s.AcceptClearUntil))
	}
}
