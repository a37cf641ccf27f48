package setting

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
func (s Secret) Format(f fmt.State, _ rune) { WriteState(f, s.String()) }

// MarshalText implements encoding.TextMarshaler.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// RedactURL hides the user name and password of a URL, and its query, where some
// clients take a password too. A text that is no URL is hidden as a whole. It parses by
// hand: net/url refuses several hosts, and what cannot be parsed must not be shown either.
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
	// A failed write is the printer's to notice; fmt offers no way to report it.
	_, _ = f.Write([]byte(text))
}
