package queue

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/batchd/batchd/internal/setting"
)

// RedisConfig says where batches are kept.
type RedisConfig struct {
	// URL is "embedded", or that of a Redis, a Sentinel or a Cluster; see [Open]. Defaults
	// to embedded.
	URL RedisURL `yaml:"url"`
}

// WithDefaults returns the settings with those replaced that are zero.
func (r RedisConfig) WithDefaults() RedisConfig {
	if r.URL == "" {
		r.URL = Embedded
	}
	return r
}

// RedisURL is "embedded", or a URL with one of the schemes that [RedisURL.Scheme] may
// return. It may hold a password, so it shows itself without.
type RedisURL string

// Embedded is the [RedisURL] of the store in this process, which forgets everything
// with it.
const Embedded = "embedded"

// Scheme returns the part before "://": redis, rediss, redis+sentinel,
// rediss+sentinel, redis+cluster or rediss+cluster; or nothing if there is none.
func (u RedisURL) Scheme() string {
	scheme, _, ok := strings.Cut(string(u), "://")
	if !ok {
		return ""
	}
	return scheme
}

// Reveal returns the URL with its password.
func (u RedisURL) Reveal() string { return string(u) }

// String implements fmt.Stringer.
func (u RedisURL) String() string {
	if u == Embedded {
		return string(u)
	}
	return setting.RedactURL(string(u))
}

// Format implements fmt.Formatter.
func (u RedisURL) Format(f fmt.State, _ rune) { setting.WriteState(f, u.String()) }

// MarshalText implements encoding.TextMarshaler.
func (u RedisURL) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// Check reports what is wrong with the settings.
func (r RedisConfig) Check(c *setting.Checker) { c.Check("url", r.URL.check()) }

// check checks the scheme and the hosts; the client checks the rest. It repeats nothing
// but the scheme, since any other part may be the password.
func (u RedisURL) check() error {
	if u == Embedded {
		return nil
	}
	const expected = "expected embedded, or a URL such as redis://localhost:6379/0"
	_, rest, ok := strings.Cut(u.Reveal(), "://")
	if !ok {
		return errors.New("the value is neither embedded nor a URL: " + expected)
	}
	known := []string{"redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"}
	if !slices.Contains(known, u.Scheme()) {
		return fmt.Errorf("unknown scheme %q: expected %s", setting.Clip(u.Scheme()), setting.OneOf(known))
	}
	rest = rest[strings.LastIndexByte(rest, '@')+1:]
	hosts, more := rest, ""
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		hosts, more = rest[:i], rest[i:]
	}
	if _, query, ok := strings.Cut(more, "?"); ok {
		if values, err := url.ParseQuery(query); err == nil && len(values["addr"]) > 0 { // further nodes of a cluster
			hosts += "," + strings.Join(values["addr"], ",")
		}
	}
	for host := range strings.SplitSeq(hosts, ",") {
		name, port := host, "6379"
		if h, p, err := net.SplitHostPort(host); err == nil {
			name, port = h, p
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || name == "" || strings.Contains(strings.Trim(name, "[]"), ":") && !strings.HasPrefix(host, "[") {
			return errors.New("the URL has no usable host and port: " + expected)
		}
	}
	return nil
}

// SealConfig holds the keys that what is stored is encrypted with.
type SealConfig struct {
	// Keys are tried in their order: the first seals, all open. Defaults to none, which
	// stores in clear, except on the embedded store, where a key of the process's own
	// seals.
	Keys []SealKey `yaml:"keys"`
}

// SealKey is one key of the ring that seals what is stored.
type SealKey struct {
	// ID names the key beside everything that it sealed: 1 to 32 letters, digits, ".",
	// "-" and "_". It must not change while such data is kept.
	ID string `yaml:"id"`
	// Base64 holds the 32 bytes of the key, for AES-256, in standard base64.
	Base64 setting.Secret `yaml:"base64"`
}

// NewSealKey returns the key of 32 random bytes.
func NewSealKey(id string, secret []byte) SealKey {
	return SealKey{ID: id, Base64: setting.Secret(base64.StdEncoding.EncodeToString(secret))}
}

// sealKeyID matches no key, not even one without padding that is written in the place of
// the id: an id may be shown.
var sealKeyID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$`)

// sealKeySize is the length of a key in bytes.
const sealKeySize = 32

// Bytes returns the 32 bytes of the key. Its errors repeat nothing of it: base64's own
// names the byte that it stopped at.
func (k SealKey) Bytes() ([]byte, error) {
	const makeOne = "make one with: openssl rand -base64 32"
	raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(k.Base64.Reveal(), "="))
	switch {
	case k.Base64 == "":
		return nil, errors.New("the key is missing: " + makeOne)
	case err != nil:
		return nil, errors.New("the key is not valid base64: " + makeOne)
	case len(raw) != sealKeySize:
		return nil, fmt.Errorf("the key has %d bytes: expected %d: %s", len(raw), sealKeySize, makeOne)
	}
	return raw, nil
}

// Check reports what is wrong with the keys.
func (s SealConfig) Check(c *setting.Checker) {
	first := map[string]string{}
	for i, k := range s.Keys {
		key := fmt.Sprintf("keys[%d]", i)
		if c.IsBroken(key) {
			continue
		}
		// One variable can hold several keys, so the message names the key.
		name := fmt.Sprintf("key %d", i+1)
		if sealKeyID.MatchString(k.ID) {
			name = fmt.Sprintf("key %q", k.ID)
		} else {
			c.Faultf(key+".id", "%s has no usable id: expected 1 to 32 letters, digits, ., - or _", name)
		}
		if _, err := k.Bytes(); err != nil {
			c.Faultf(key+".base64", "%s: %w", name, err)
		}
		if other, ok := first[k.ID]; ok && k.ID != "" {
			c.Faultf(key+".id", "%s is there twice: the other is %s", name, c.Where(other))
			continue
		}
		first[k.ID] = key
	}
}
