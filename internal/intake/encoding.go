package intake

import (
	"bytes"
	"fmt"
	"unicode/utf8"
)

// byteOrderMark is U+FEFF in UTF-8, which Windows programs write in front of a text.
const byteOrderMark = "\xef\xbb\xbf"

// CutMark returns the text without a byte order mark at its start (RFC 8259 §8.1).
func CutMark(text []byte) []byte { return bytes.TrimPrefix(text, []byte(byteOrderMark)) }

// HasMark reports whether the text begins with a byte order mark.
func HasMark(text []byte) bool { return bytes.HasPrefix(text, []byte(byteOrderMark)) }

// TextPlace is a place in a text. Line and column count from 1, columns in bytes.
type TextPlace struct{ Line, Column int }

// PlaceIn returns the place of the byte at an offset.
func PlaceIn(text []byte, offset int) TextPlace {
	before := text[:min(offset, len(text))]
	line := bytes.Count(before, []byte{'\n'})
	start := bytes.LastIndexByte(before, '\n') + 1
	return TextPlace{Line: line + 1, Column: len(before) - start + 1}
}

// CheckText returns why a text cannot be read as UTF-8, and the place: another
// encoding, a byte that is not UTF-8, or a byte order mark after the start. The detail
// is empty if the text is valid.
func CheckText(text []byte) (at TextPlace, detail string) {
	if encoding := OtherEncoding(text); encoding != "" {
		return TextPlace{1, 1}, NotInUTF8(encoding)
	}
	if i := InvalidUTF8(text); i >= 0 {
		return PlaceIn(text, i), fmt.Sprintf("the byte 0x%02x is not UTF-8: save the text as UTF-8", text[i])
	}
	first := len(text) - len(CutMark(text))
	if i := bytes.Index(text[first:], []byte(byteOrderMark)); i >= 0 {
		return PlaceIn(text, first+i), MarkInside
	}
	return TextPlace{}, ""
}

// MarkInside is the fault of a byte order mark that is not at the start of a text.
const MarkInside = "there is a byte order mark (U+FEFF) here, which is allowed at the very start only: remove it (a file that was appended to another leaves one)"

// NotInUTF8 returns the fault of a text in another encoding.
func NotInUTF8(encoding string) string {
	return "the text is in " + encoding + ": save it as UTF-8"
}

// InvalidUTF8 returns the offset of the first byte that is not UTF-8, or -1.
func InvalidUTF8(text []byte) int {
	if utf8.Valid(text) {
		return -1
	}
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && size <= 1 {
			return i
		}
		i += size
	}
	return -1
}

// OtherEncoding returns the encoding of a text that begins with start, if that shows
// UTF-16 or UTF-32: by a byte order mark, or by the zero bytes in ASCII characters.
// Otherwise it returns "".
func OtherEncoding(start []byte) string {
	for _, mark := range []struct{ bytes, encoding string }{
		{"\xff\xfe\x00\x00", "UTF-32"}, {"\x00\x00\xfe\xff", "UTF-32"}, {"\xff\xfe", "UTF-16"}, {"\xfe\xff", "UTF-16"},
	} {
		if bytes.HasPrefix(start, []byte(mark.bytes)) {
			return mark.encoding
		}
	}
	const looked = 4 << 10
	start = start[:min(len(start), looked)]
	var zeros [4]int
	for i, c := range start {
		if c == 0 {
			zeros[i%4]++
		}
	}
	even, odd := zeros[0]+zeros[2], zeros[1]+zeros[3]
	switch {
	case even+odd == 0:
		return ""
	case even+odd < max(2, len(start)/16) && len(start) > 2:
		return "" // stray bytes
	case len(start) >= 4 && even+odd > len(start)/2 && (zeros[0] == 0 || zeros[3] == 0):
		return "UTF-32"
	case even == 0 || odd == 0:
		return "UTF-16"
	}
	return ""
}

// TrimLeftBlank removes JSON white space from the start (RFC 8259 §2).
func TrimLeftBlank(text []byte) []byte { return bytes.TrimLeft(text, blanks) }

// TrimBlank removes JSON white space from both ends (RFC 8259 §2). It also returns the
// number of bytes removed from the start. A line of NDJSON without other characters is
// not an action.
func TrimBlank(text []byte) (front int, rest []byte) {
	rest = TrimLeftBlank(text)
	return len(text) - len(rest), bytes.TrimRight(rest, blanks)
}

// blanks is the white space of JSON.
const blanks = " \t\r\n"
