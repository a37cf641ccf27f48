package batch

import (
	"fmt"
	"slices"
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
		return fmt.Errorf("the path %q does not start with /", clip(path))
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
	for level := range 3 {
		if err := validateReading(path); err != nil {
			if level > 0 {
				return fmt.Errorf("%w (after decoding its percent-escapes)", err)
			}
			return err
		}
		decoded := unescape(path)
		if decoded == path {
			return nil
		}
		path = decoded
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
	if strings.IndexByte(path, 0) >= 0 {
		return fmt.Errorf("the path holds U+0000, at which some servers end it, so that they read another path: leave it out")
	}
	for segment := range strings.FieldsFuncSeq(lenient(path), func(r rune) bool { return r == '/' || r == '\\' }) {
		// Before they look for the dots, some servers cut off a parameter, a decoded
		// query or fragment, or blanks.
		name := segment
		if i := strings.IndexAny(segment, ";?#"); i >= 0 {
			name = segment[:i]
		}
		// Some decoders drop bytes that are not UTF-8.
		if name = strings.Trim(strings.ToValidUTF8(name, ""), " "); name == "." || name == ".." {
			return fmt.Errorf("the path holds the dot segment %q, which could leave the base URL", clip(segment))
		}
	}
	return nil
}

func isControl(c byte) bool { return c < 0x20 || c == 0x7f }

// lenient returns a path, or a part of one, as lenient servers read it: without control
// characters, which URL parsers drop, and with the [lookalikes] replaced.
func lenient(s string) string {
	control, ascii := false, true
	for i := range len(s) {
		control = control || isControl(s[i])
		ascii = ascii && s[i] < utf8.RuneSelf
	}
	if !ascii {
		s = lookalikes.Replace(s) // first, because a lookalike may end with a control character
	}
	if control {
		s = string(slices.DeleteFunc([]byte(s), isControl))
	}
	if ascii || !control {
		return s
	}
	return lookalikes.Replace(s)
}

// lookalikes replaces the sequences that lenient decoders and Unicode normalization
// turn into a dot, a slash or a backslash: overlong UTF-8 and compatibility characters.
var lookalikes = strings.NewReplacer(
	"\xc0\xae", ".", "\xe0\x80\xae", ".", "\xf0\x80\x80\xae", ".",
	"\xc0\xaf", "/", "\xe0\x80\xaf", "/", "\xf0\x80\x80\xaf", "/",
	"\xc1\x9c", `\`, "\xc1\x1c", `\`, "\xe0\x81\x9c", `\`, "\xf0\x80\x81\x9c", `\`,
	"\uff0e", ".", "\u2024", ".", "\ufe52", ".", "\u2025", "..",
	"\uff0f", "/", "\uff3c", `\`, "\ufe68", `\`,
)

// EncodesSlash reports whether a path has a slash or a backslash that appears only
// after its percent-escapes are decoded, once or twice.
func EncodesSlash(path string) bool {
	separators := func(s string) int { return strings.Count(s, "/") + strings.Count(s, `\`) }
	written := separators(path)
	for range 2 {
		if path = unescape(path); separators(lookalikes.Replace(path)) > written {
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

// Readings returns the ways in which servers could read a path, each in segments.
// Servers may decode the path once or twice or not at all, before or after they split
// it. They may split at slashes, or also at backslashes and [lookalikes]. They may keep
// or drop control characters, parameters, and a query that appears after decoding. All
// readings are in lower case and without blanks and empty segments, except for the
// first segment, which is always empty.
func Readings(path string) [][]string {
	if isPlain(path) {
		return [][]string{reading(strings.Split(path, "/"))}
	}
	var all [][]string
	var last *string
	add := func(segments []string) {
		if &segments[0] == last {
			return
		}
		last = &segments[0]
		read := reading(segments)
		if !slices.ContainsFunc(all, func(other []string) bool { return slices.Equal(other, read) }) {
			all = append(all, read)
		}
	}
	for before := range 3 {
		for _, form := range forms(path) {
			segments := strings.Split(form, "/")
			for range 3 - before {
				for _, read := range [][]string{segments, mapped(segments, lenient)} {
					add(read)
					add(mapped(read, bare))
				}
				segments = mapped(segments, unescape)
			}
		}
		decoded := unescape(path)
		if decoded == path {
			break
		}
		path = decoded
	}
	return all
}

// isPlain reports whether all servers read a path in the same way.
func isPlain(path string) bool {
	for i := range len(path) {
		switch c := path[i]; {
		case c <= ' ', c >= 0x7f, c == '%', c == ';', c == '\\', c == '?', c == '#':
			return false
		}
	}
	return true
}

// reading returns an empty segment and then the segments that are not empty, in lower
// case and without blanks around them.
func reading(segments []string) []string {
	kept := make([]string, 1, len(segments)+1)
	for _, segment := range segments {
		if segment = lower(strings.TrimSpace(segment)); segment != "" {
			kept = append(kept, segment)
		}
	}
	return kept
}

// lower returns a segment in lower case. In a segment that is not UTF-8, it changes
// only ASCII: [strings.ToLower] would replace all other bytes by the same character.
func lower(segment string) string {
	if utf8.ValidString(segment) {
		return strings.ToLower(segment)
	}
	out := []byte(segment)
	for i, c := range out {
		if c >= 'A' && c <= 'Z' {
			out[i] = c + 'a' - 'A'
		}
	}
	return string(out)
}

// forms returns a path unchanged and as lenient servers read it, each with and without
// a possible query or fragment, and each with and without backslashes as slashes.
func forms(path string) []string {
	all := []string{path}
	if read := lenient(path); read != path {
		all = append(all, read)
	}
	for _, form := range slices.Clone(all) {
		if i := strings.IndexAny(form, "?#"); i >= 0 {
			all = append(all, form[:i])
		}
	}
	for _, form := range slices.Clone(all) {
		if strings.Contains(form, `\`) {
			all = append(all, strings.ReplaceAll(form, `\`, "/"))
		}
	}
	return all
}

// bare returns a segment without its parameters.
func bare(segment string) string {
	name, _, _ := strings.Cut(segment, ";")
	return name
}

// mapped returns f of each segment. It returns the same slice if f changes none.
func mapped(segments []string, f func(string) string) []string {
	out := segments
	for i, segment := range segments {
		got := f(segment)
		if got == segment {
			continue
		}
		if &out[0] == &segments[0] {
			out = slices.Clone(segments)
		}
		out[i] = got
	}
	return out
}
