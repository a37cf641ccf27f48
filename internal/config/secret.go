package config

import (
	"fmt"
	"strings"
)

const redacted = "(redacted)"

// Secret is a value that is not shown: however it is printed, logged or
// marshalled, "(redacted)" stands in its place, or nothing where it is empty.
type Secret string

// Reveal returns the value itself.
func (s Secret) Reveal() string { return string(s) }

// String implements fmt.Stringer.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// Format implements fmt.Formatter: String alone would leave %d and the like to
// show the value.
func (s Secret) Format(f fmt.State, _ rune) { writeState(f, s.String()) }

// MarshalText implements encoding.TextMarshaler.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// RedisURL says which Redis to use: "embedded", or a URL with one of the
// schemes that [RedisURL.Scheme] may return. It may hold a password, so it shows
// itself without.
type RedisURL string

// Embedded is the [RedisURL] of the store in batchd's own process, which forgets
// everything with it.
const Embedded RedisURL = "embedded"

// Scheme returns the part before "://": redis, rediss, redis+sentinel,
// rediss+sentinel, redis+cluster or rediss+cluster; or nothing where it is embedded.
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
func (u RedisURL) String() string { return redactURL(string(u)) }

// Format implements fmt.Formatter.
func (u RedisURL) Format(f fmt.State, _ rune) { writeState(f, u.String()) }

// MarshalText implements encoding.TextMarshaler.
func (u RedisURL) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// redactURL hides the user name and password of a URL, and its query, where
// some clients take a password too. It parses by hand: net/url refuses several
// hosts, and what cannot be parsed must not be shown either.
func redactURL(raw string) string {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		if raw == "" || raw == string(Embedded) {
			return raw
		}
		return redacted
	}
	// A password may hold any character unescaped, so the last @ counts.
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		rest = redacted + rest[at:]
	}
	if q := strings.IndexAny(rest, "?#"); q >= 0 {
		rest = rest[:q+1] + redacted
	}
	return scheme + "://" + rest
}

func writeState(f fmt.State, s string) {
	// A failed write is the printer's to notice; fmt offers no way to report it.
	_, _ = f.Write([]byte(s))
}
