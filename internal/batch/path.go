package batch

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// ValidatePath returns the fault of a path that a dispatcher appends to a target's base
// URL. The target receives its percent-escapes unchanged, so ValidatePath refuses only
// paths that a server or proxy could read as leaving the base URL, or as another path.
// These are dot segments, including those that appear only after the escapes are decoded
// once or twice, or with a backslash as the separator; control characters that are not
// encoded; and an encoded NUL.
func ValidatePath(path string) error {
	if plainPath(path) {
		return nil
	}
	return inspectPath(path)
}

func inspectPath(path string) error {
	switch {
	case path == "":
		return fmt.Errorf("the path is missing: expected one that starts with /")
	case len(path) > MaxPathLength:
		return fmt.Errorf("the path has %d bytes: at most %d are allowed", len(path), MaxPathLength)
	case path[0] != '/':
		return fmt.Errorf("the path does not start with /") // it may be a URL with a password, so it is not repeated
	case strings.HasPrefix(path, "//"):
		return fmt.Errorf("the path starts with //, which could name another host")
	case !utf8.ValidString(path):
		return fmt.Errorf("the path is not valid UTF-8: percent-encode the bytes of another encoding")
	case strings.Contains(path, "?"):
		return fmt.Errorf("the path holds a query: put it into the query")
	case strings.Contains(path, "#"):
		return fmt.Errorf("the path holds a #, which would begin a fragment: write %%23")
	case strings.Contains(path, `\`):
		return fmt.Errorf(`the path holds a backslash, which some servers read as a slash: write %%5C`)
	}
	if at := brokenEscape(path); at >= 0 {
		return fmt.Errorf("the path has a broken percent-escape: %q: write %%25 for a percent sign", clip(path[at:min(at+3, len(path))]))
	}
	for i := range len(path) {
		if c := path[i]; isControl(c) {
			return fmt.Errorf("the path holds the control character U+%04X: percent-encode it", c)
		}
	}
	for _, text := range decodingsOf(path) {
		if err := validateReading(text.string); err != nil {
			if text.decodings > 0 {
				return fmt.Errorf("%w (after decoding its percent-escapes)", err)
			}
			return err
		}
	}
	return nil
}

// plainPath reports whether a path needs no closer check. Most paths need none, and batchd
// checks a path before each attempt.
func plainPath(path string) bool {
	if path == "" || len(path) > MaxPathLength || path[0] != '/' || len(path) > 1 && path[1] == '/' {
		return false
	}
	for i := range len(path) {
		switch c := path[i]; {
		case c >= 'a' && c <= 'z', c >= '/' && c <= '9', c >= 'A' && c <= 'Z', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}

// validateReading checks a path in one of the forms in which a server or proxy may read
// it.
func validateReading(path string) error {
	if strings.IndexByte(path, 0) >= 0 || strings.Contains(path, "\xc0\x80") {
		return fmt.Errorf("the path holds U+0000, at which some servers end it, so that they read another path: leave it out")
	}
	// Some decoders drop bytes that are not UTF-8.
	for _, form := range []string{fold(path), strings.ToValidUTF8(fold(path), ""), fold(strings.ToValidUTF8(path, ""))} {
		for segment := range strings.FieldsFuncSeq(form, func(r rune) bool { return r == '/' || r == '\\' }) {
			if isDotSegment(segment) {
				segment = cutAny(segment, ";?#") // parameters may be secret
				return fmt.Errorf("the path holds the dot segment %q, which could leave the base URL", clip(segment))
			}
		}
	}
	return nil
}

// isDotSegment reports whether a server could read a segment as "." or "..". Before they
// look for the dots, some servers cut off a parameter, a decoded query or fragment, or
// blanks, and dots before blanks.
func isDotSegment(segment string) bool {
	segment = cutAny(segment, ";?#")
	name := strings.Trim(segment, " ")
	return name != "" && strings.Trim(name, ". ") == "" && (len(name) <= 2 || strings.Contains(name, " "))
}

// cutAny cuts a text before the first of some characters.
func cutAny(s, chars string) string {
	if i := strings.IndexAny(s, chars); i >= 0 {
		return s[:i]
	}
	return s
}

func isControl(c byte) bool { return c < 0x20 || c == 0x7f }

// EncodesSlash reports whether a path has a slash or a backslash that appears only
// after its percent-escapes are decoded, once or twice.
func EncodesSlash(path string) bool {
	separators := func(s string) int { return strings.Count(s, "/") + strings.Count(s, `\`) }
	written := separators(path)
	for _, text := range decodingsOf(path) {
		if separators(fold(text.string)) > written {
			return true
		}
	}
	return false
}

// EscapePath escapes the characters that a request line cannot contain (a space, UTF-8,
// and the few characters that RFC 3986 §3.3 excludes). It keeps all others unchanged,
// including existing escapes.
func EscapePath(path string) string {
	const upperHex = "0123456789ABCDEF"
	i := 0
	for i < len(path) && isPathByte(path[i]) {
		i++
	}
	if i == len(path) {
		return path
	}
	var out strings.Builder
	out.Grow(len(path) + 16)
	out.WriteString(path[:i])
	for ; i < len(path); i++ {
		if c := path[i]; isPathByte(c) {
			out.WriteByte(c)
		} else {
			out.Write([]byte{'%', upperHex[c>>4], upperHex[c&15]})
		}
	}
	return out.String()
}

func isPathByte(c byte) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		return true
	}
	return strings.IndexByte("/-._~!$&'()*+,;=:@[]%", c) >= 0
}

// brokenEscape returns the position of a percent sign without two hexadecimal digits,
// or -1.
func brokenEscape(s string) int {
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			continue
		}
		if _, ok := unhex(s[i:]); !ok {
			return i
		}
		i += 2
	}
	return -1
}

// unescape decodes the percent-escapes, and keeps a percent sign that begins none.
func unescape(s string) string {
	if strings.IndexByte(s, '%') < 0 {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '%' {
			if decoded, ok := unhex(s[i:]); ok {
				c = decoded
				i += 2
			}
		}
		out = append(out, c)
	}
	return string(out)
}

// unhex decodes the escape at the start of a text.
func unhex(s string) (byte, bool) {
	if len(s) < 3 {
		return 0, false
	}
	high, low := digit(s[1]), digit(s[2])
	return high<<4 | low, high < 16 && low < 16
}

func digit(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10
	}
	return 16
}
