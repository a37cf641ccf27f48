package batch

import (
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	// maxDecodings is how often a server may decode the escapes of a path.
	maxDecodings = 2
	// maxReading bounds the text of all readings of one path together, which takes some
	// milliseconds of CPU. A path of a few hundred characters does not reach it in any
	// spelling.
	maxReading = 512 << 10
)

// Readings returns the ways in which servers could read a path, each in segments, or nil
// if there are too many. Servers may decode the path once or twice or not at all, before
// or after they split it. They may split at slashes, or also at backslashes and at
// characters that resemble them. They may end the path at a control character or at a
// query that appears after decoding. They may keep or drop parameters, and dots and blanks
// at the ends of segments. All readings are in the form of fold and without empty
// segments, except for the first segment, which is always empty.
func Readings(path string) [][]string {
	if isPlain(path) {
		return [][]string{kept(strings.Split(strings.ToLower(path), "/"))}
	}
	r := readings{seen: make(map[string]struct{})}
	for _, text := range decodingsOf(path) {
		for _, form := range forms(text.string) {
			r.read(strings.Split(form, "/"), maxDecodings-text.decodings)
		}
	}
	if r.size > maxReading {
		return nil
	}
	return r.all
}

// readings collects distinct readings.
type readings struct {
	all  [][]string
	seen map[string]struct{}
	size int
}

// read adds the readings of a path that was split, whose segments may be decoded so many
// times more.
func (r *readings) read(segments []string, decodings int) {
	for _, segments := range [][]string{segments, mapped(segments, valid)} {
		folded := mapped(segments, fold)
		for _, segment := range folded {
			if len(segment) > MaxPathLength {
				r.size = maxReading + 1
			}
		}
		for _, read := range [][]string{folded, mapped(folded, blank), mapped(folded, valid)} {
			for _, read := range [][]string{read, mapped(read, trimmed), mapped(read, bare), mapped(mapped(read, bare), trimmed)} {
				r.add(read)
			}
		}
	}
	if decodings == 0 || r.size > maxReading {
		return
	}
	for _, f := range decoders {
		if decoded := mapped(segments, f); &decoded[0] != &segments[0] {
			r.read(decoded, decodings-1)
		}
	}
}

func (r *readings) add(segments []string) {
	read := kept(segments)
	key := strings.Join(read, "\x00")
	if _, known := r.seen[key]; known || r.size > maxReading {
		return
	}
	r.seen[key] = struct{}{}
	r.size += len(key)
	r.all = append(r.all, read)
}

// isPlain reports whether all servers read a path in the same way, but for the case.
func isPlain(path string) bool {
	for i := range len(path) {
		switch c := path[i]; {
		case c <= ' ', c >= 0x7f, c == '%', c == ';', c == '\\', c == '?', c == '#', c == '+', c == '(':
			return false
		case c == '.' && (i+1 == len(path) || path[i+1] == '/' || path[i+1] == '.'):
			return false
		case c == ':' && i+1 < len(path) && (path[i+1] == ':' || path[i+1] == '$'):
			return false
		}
	}
	return true
}

// decoding is a path as a server reads it before it splits it.
type decoding struct {
	string
	decodings int
}

// decodingsOf returns a path without and with its escapes decoded, once or twice. A server
// may fold a path before it decodes it, and so find further escapes.
func decodingsOf(path string) []decoding {
	all := []decoding{{path, 0}}
	for i := 0; i < len(all); i++ {
		text := all[i]
		if text.decodings == maxDecodings {
			break // and so are all that follow
		}
		for _, f := range decoders {
			next := f(text.string)
			if next != text.string && !slices.ContainsFunc(all, func(d decoding) bool { return d.string == next }) {
				all = append(all, decoding{next, text.decodings + 1})
			}
		}
	}
	return all
}

// decoders are the ways in which servers decode the escapes of a path.
var decoders = []func(string) string{unescape, unescapeFolded, unescapeValid}

// unescapeValid is unescape for a server that drops bytes that are not UTF-8 first.
func unescapeValid(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return unescape(valid(s))
}

// valid returns a text without bytes that are not UTF-8.
func valid(s string) string { return strings.ToValidUTF8(s, "") }

// blank returns a text with blanks for plus signs, as in a form.
func blank(s string) string { return strings.ReplaceAll(s, "+", " ") }

// unescapeFolded is unescape for a server that folds first. It changes nothing if such a
// server finds the same escapes.
func unescapeFolded(s string) string {
	if !needsFold(s) {
		return s
	}
	if folded := fold(s); strings.Contains(folded, "%") {
		return unescape(folded)
	}
	return s
}

// forms returns the ways in which servers could take a path before they split it at its
// slashes: unchanged or folded, to the end or to a query, fragment or control character,
// and with or without backslashes as slashes.
func forms(path string) []string {
	all := []string{path}
	if needsFold(path) {
		all = append(all, fold(path))
	}
	for _, form := range slices.Clone(all) {
		if i := strings.IndexAny(form, "?#"); i >= 0 {
			all = append(all, form[:i])
		}
		if i := strings.IndexFunc(form, func(r rune) bool { return r < utf8.RuneSelf && isControl(byte(r)) }); i > 0 { //nolint:gosec // the rune is ASCII
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

// kept returns an empty segment and then the segments that are not empty.
func kept(segments []string) []string {
	out := make([]string, 1, len(segments)+1)
	for _, segment := range segments {
		if segment != "" {
			out = append(out, segment)
		}
	}
	return out
}

// trimmed returns a segment without blanks around it, without dots at its end, and without
// the name of a stream, as Windows reads the name of a file. It returns nothing for the
// session that ASP.NET takes out of a path.
func trimmed(segment string) string {
	if isSession(segment) {
		return ""
	}
	return strings.TrimRight(strings.TrimLeft(withoutStream(segment), " "), " .")
}

// withoutStream returns a segment without the name and type of a stream, as in
// "a::$DATA" and "a:$I30:$INDEX_ALLOCATION".
func withoutStream(segment string) string {
	if i := strings.IndexByte(segment, ':'); i >= 0 && strings.Contains(segment[i:], ":$") {
		return segment[:i]
	}
	return segment
}

// isSession reports whether a segment is like (S(x)) or (A(x)F(y)), in lower case.
func isSession(segment string) bool {
	return len(segment) >= 5 && segment[0] == '(' && segment[1] >= 'a' && segment[1] <= 'z' && segment[2] == '(' && strings.HasSuffix(segment, "))")
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
