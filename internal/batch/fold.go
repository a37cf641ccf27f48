package batch

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// fold returns a path, or a part of one, as the most lenient server reads it: without
// control characters and characters that are not shown, with overlong UTF-8 and %uXXXX
// decoded, with compatibility characters such as full-width letters replaced by the plain
// ones, and in lower case. It keeps bytes that are not UTF-8. A result of more than
// MaxPathLength is incomplete: one character can become 18.
func fold(s string) string {
	if !needsFold(s) {
		return strings.ToLower(s)
	}
	// One pass may bring forth what another replaces: a control character can be in the
	// middle of an overlong one.
	for range 4 {
		folded := foldOnce(s)
		if folded == s || len(folded) > MaxPathLength {
			return folded
		}
		s = folded
	}
	return s
}

// needsFold reports whether fold changes more than the case.
func needsFold(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c >= utf8.RuneSelf, isControl(c):
			return true
		case c == '%' && i+1 < len(s) && s[i+1]|0x20 == 'u':
			return true
		}
	}
	return false
}

func foldOnce(s string) string {
	s = decodeOverlong(s)
	var out strings.Builder
	out.Grow(len(s))
	for i := range len(s) {
		if !isControl(s[i]) {
			out.WriteByte(s[i])
		}
	}
	s = compatible(out.String())
	out.Reset()
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			out.WriteByte(s[i])
		case isHidden(r):
		case r == 'ß' || r == 'ẞ':
			out.WriteString("ss")
		default:
			out.WriteRune(foldRune(r))
		}
		i += size
	}
	return out.String()
}

// compatible returns the form NFKC of a text, up to a little more than MaxPathLength. It
// keeps bytes that are not UTF-8.
func compatible(s string) string {
	if norm.NFKC.IsNormalString(s) {
		return s
	}
	var it norm.Iter
	it.InitString(norm.NFKC, s)
	out := make([]byte, 0, len(s))
	for !it.Done() && len(out) <= MaxPathLength {
		out = append(out, it.Next()...)
	}
	return string(out)
}

// isHidden reports whether a character is not shown, so that a server may drop it.
func isHidden(r rune) bool {
	return r >= utf8.RuneSelf && unicode.In(r, unicode.Cc, unicode.Cf, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

// foldRune returns a character in lower case, as a comparison without regard to case
// sees it. It replaces characters for which Windows takes another if a character set
// does not have them.
func foldRune(r rune) rune {
	switch r {
	case '\u2044', '\u2215', '\u29f8': // the slashes of fractions and divisions
		return '/'
	case '\u2216', '\u29f5', '\u29f9', '¥', '₩':
		return '\\'
	case 'ı', 'İ':
		return 'i'
	}
	if unicode.IsSpace(r) {
		return ' '
	}
	return unicode.ToLower(unicode.ToUpper(r))
}

// decodeOverlong decodes UTF-8 sequences that are longer than necessary, and %uXXXX.
func decodeOverlong(s string) string {
	var out strings.Builder
	from := 0
	for i := 0; i < len(s); {
		r, size := overlong(s[i:])
		if size == 0 {
			i++
			continue
		}
		out.WriteString(s[from:i])
		out.WriteRune(r)
		i += size
		from = i
	}
	if from == 0 {
		return s
	}
	out.WriteString(s[from:])
	return out.String()
}

// overlong decodes the sequence at the start of a text. The size is 0 if the text begins
// with no such sequence.
func overlong(s string) (r rune, size int) {
	switch c := s[0]; {
	case c == '%' && len(s) >= 6 && s[1]|0x20 == 'u':
		for _, c := range []byte(s[2:6]) {
			d := digit(c)
			if d > 15 {
				return 0, 0
			}
			r = r<<4 | rune(d)
		}
		return r, 6
	case c == 0xc0 || c == 0xc1: // some decoders do not look at the high bits of the second byte
		if len(s) < 2 {
			return 0, 0
		}
		return rune(c&0x1f)<<6 | rune(s[1]&0x3f), 2
	case c == 0xe0 && len(s) > 1 && s[1] < 0xa0:
		return continued(s, 3, 0)
	case c == 0xf0 && len(s) > 1 && s[1] < 0x90:
		return continued(s, 4, 0)
	case c >= 0xf8 && c < 0xfc:
		return continued(s, 5, rune(c&3))
	case c >= 0xfc && c < 0xfe:
		return continued(s, 6, rune(c&1))
	}
	return 0, 0
}

// continued decodes a sequence of that size whose first byte has the bits r.
func continued(s string, size int, r rune) (rune, int) {
	if len(s) < size {
		return 0, 0
	}
	for _, c := range []byte(s[1:size]) {
		if c&0xc0 != 0x80 {
			return 0, 0
		}
		r = r<<6 | rune(c&0x3f)
	}
	if r > unicode.MaxRune || r < 0 {
		return 0, 0
	}
	return r, size
}
