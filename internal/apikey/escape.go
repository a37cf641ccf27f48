package apikey

import "bytes"

// longestEscape is the length of the longest escape, a reference of XML.
const longestEscape = len("&#x00005F;")

// isMark reports whether an escape can begin with a character.
func isMark(c byte) bool { return c == '%' || c == '\\' || c == '&' }

// nextEscape returns the position of the first escape of a text from that position on, or -1.
func nextEscape(text []byte, from int) int {
	for ; from < len(text); from++ {
		if isMark(text[from]) {
			if _, size := escaped(text[from:]); size > 0 {
				return from
			}
		}
	}
	return -1
}

// unescape appends a text to buf and decodes its escapes, the first of which is at that position. What is no
// escape stays. The text may be that of buf: no escape is shorter than what it stands for.
func unescape(buf, text []byte, at int) []byte {
	from := 0
	for at >= 0 {
		buf = append(buf, text[from:at]...)
		c, size := escaped(text[at:])
		buf = append(buf, c)
		from = at + size
		at = nextEscape(text, from)
	}
	return append(buf, text[from:]...)
}

// escaped decodes the escape at the start of a text: %5F, %u005F, \u005F, \x5F, \/, &#95; or &#x5F;. The size is 0
// if there is none, or if it stands for a character that is not ASCII.
func escaped(text []byte) (c byte, size int) {
	if len(text) < 2 {
		return 0, 0
	}
	switch mark, kind := text[0], text[1]; {
	case mark == '\\' && kind == '/':
		return '/', 2
	case (mark == '\\' || mark == '%') && (kind == 'u' || kind == 'U'):
		return number(text, 2, 4, 16)
	case mark == '\\' && kind == 'x':
		return number(text, 2, 2, 16)
	case mark == '%':
		return number(text, 1, 2, 16)
	case mark == '&' && kind == '#':
		return entity(text)
	}
	return 0, 0
}

// entity decodes a reference of XML by number.
func entity(text []byte) (c byte, size int) {
	end := bytes.IndexByte(text[:min(len(text), longestEscape)], ';')
	switch {
	case end < 3:
		return 0, 0
	case text[2]|0x20 == 'x':
		c, size = number(text, 3, end-3, 16)
	default:
		c, size = number(text, 2, end-2, 10)
	}
	if size == 0 {
		return 0, 0
	}
	return c, end + 1
}

// number decodes so many digits from that position on.
func number(text []byte, from, digits, base int) (c byte, size int) {
	if digits == 0 || len(text) < from+digits {
		return 0, 0
	}
	n := 0
	for _, c := range text[from : from+digits] {
		d := base
		switch {
		case c >= '0' && c <= '9':
			d = int(c - '0')
		case c >= 'a' && c <= 'f':
			d = int(c-'a') + 10
		case c >= 'A' && c <= 'F':
			d = int(c-'A') + 10
		}
		if d >= base {
			return 0, 0
		}
		n = n*base + d
	}
	if n > 0x7f {
		return 0, 0
	}
	return byte(n), from + digits
}
