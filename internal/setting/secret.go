package setting

import (
	"fmt"
	"strings"
)

const redacted = "(redacted)"

// Secret is a value that is never shown: printing, logging and marshalling give
// "(redacted)", or "" for an empty value.
type Secret string

// Reveal returns the value.
func (s Secret) Reveal() string { return string(s) }

// String implements fmt.Stringer.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// Format implements fmt.Formatter: with String alone, %d and similar verbs would show
// the value.
func (s Secret) Format(f fmt.State, _ rune) { WriteState(f, s.String()) }

// MarshalText implements encoding.TextMarshaler.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// RedactURL hides the user name and password of a URL, and its query, where some clients
// accept a password, too. It hides a text that is not a URL as a whole. It does not use
// net/url, which refuses URLs with several hosts: URLs that cannot be parsed must be
// redacted, too.
func RedactURL(raw string) string {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		return Secret(raw).String()
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

// WriteState writes a value's text for [fmt.Formatter].
func WriteState(f fmt.State, text string) {
	// The printer sees a failed write itself; fmt offers no way to report it.
	_, _ = f.Write([]byte(text))
}
