package apikey

import (
	"bytes"
	"encoding/base64"
	"strings"
)

const (
	// likeLen is the number of digits after the prefix from which on a text looks like a key, whole or not.
	likeLen = 24
	// least is the length of the shortest text that looks like a key. Encodings only make it longer.
	least = len(Prefix) + likeLen
	// maxDecodings is how often escapes are decoded. A receiver that decodes more often is not known.
	maxDecodings = 2
	// window is the length of the part of a text that is decoded at a time, and overlap that which two parts have
	// in common: all that looks like a key is whole in one of the parts, in any encoding.
	window  = 16 << 10
	overlap = 5 << 10
)

func isDigit(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z'
}

// In reports whether a text has something in it that looks like a key, whole or with a typing error: in clear, in
// base64 as in "Basic …", or with escapes of URLs, JSON or XML, which are decoded up to twice. The work grows with the length of
// the text alone, and the memory is bounded.
func In(text []byte) bool {
	if len(text) < least {
		return false
	}
	return written(text) || Unescaped(text, window, overlap, written)
}

// Unescaped reports whether a text has something in it behind escapes of URLs, JSON or XML, which are decoded up to
// twice. It decodes a window of the text at a time, and two windows have overlap bytes in common. Nothing without an
// escape is searched.
func Unescaped(text []byte, window, overlap int, found func(part []byte) bool) bool {
	var buf []byte
	for {
		part := text[:min(len(text), window)]
		if at := nextEscape(part, 0); at >= 0 {
			if buf == nil {
				buf = make([]byte, 0, len(part))
			}
			buf = unescape(buf[:0], part, at)
			for range maxDecodings - 1 {
				if found(buf) {
					return true
				}
				if at = nextEscape(buf, 0); at < 0 {
					break
				}
				buf = unescape(buf[:0], buf, at)
			}
			if found(buf) {
				return true
			}
		}
		if len(text) <= window {
			return false
		}
		text = text[window-overlap:]
	}
}

// InValue is In for the value of a header, a part of a URL or another short text.
func InValue(value string) bool {
	if len(value) < least {
		return false
	}
	if strings.Contains(value, Prefix) || strings.ContainsAny(value, `%\&`) {
		return In([]byte(value))
	}
	for i := range cores {
		if strings.Contains(value, cores[i]) {
			return In([]byte(value))
		}
	}
	return false
}

// written reports whether a text has a key in it, in clear or in base64.
func written(text []byte) bool {
	if inClear(text) {
		return true
	}
	for i := range cores {
		core := []byte(cores[i])
		for from := 0; ; from += len(core) {
			at := bytes.Index(text[from:], core)
			if at < 0 {
				break
			}
			if from += at; inBase64(text, from, i) {
				return true
			}
		}
	}
	return false
}

func inClear(text []byte) bool {
	for {
		at := bytes.Index(text, prefix)
		if at < 0 {
			return false
		}
		text = text[at+len(prefix):]
		n := 0
		for n < len(text) && n < likeLen && isDigit(text[n]) {
			n++
		}
		if n == likeLen {
			return true
		}
	}
}

var prefix = []byte(Prefix)

// coreWord is the part of the prefix that no encoding of URLs, JSON or XML escapes.
const coreWord = "batchd"

// cores are what the word looks like in base64, after none, one or two other bytes of a group of three.
var cores = func() (found [3]string) {
	for i := range found {
		text := base64.StdEncoding.EncodeToString(append(make([]byte, i, 16), coreWord...))
		found[i] = text[coreStart(i) : (8*(i+len(coreWord)))/6]
	}
	return found
}()

// coreStart returns the number of characters of base64 before the core after that many bytes.
func coreStart(before int) int { return (8*before + 5) / 6 }

// inBase64 reports whether a key follows, the word of whose prefix is in base64 at that position, after so many
// other bytes of a group. It reads no further than the text resembles a key.
func inBase64(text []byte, at, before int) bool {
	// What of the first characters belongs to the bytes before the word does not matter.
	r := base64Reader{text: text[at:], n: 6 * coreStart(before)}
	for range before + len(coreWord) {
		r.next()
	}
	if !r.underscore() {
		return false
	}
	for range likeLen {
		if c, ok := r.next(); !ok || !isDigit(c) {
			return false
		}
	}
	return true
}

// base64Reader reads the bytes of a text in base64, in either of its alphabets.
type base64Reader struct {
	text []byte
	bits uint32 // the last characters
	n    int    // the number of bits of them that were not read
}

// underscore reads an underscore, in clear or as an escape.
func (r *base64Reader) underscore() bool {
	var room [longestEscape]byte
	read := room[:0]
	for len(read) < cap(read) {
		c, ok := r.next()
		if !ok {
			return false
		}
		read = append(read, c)
		switch c, size := escaped(read); {
		case read[0] == '_':
			return true
		case size > 0:
			return c == '_'
		case !isMark(read[0]):
			return false
		}
	}
	return false
}

// next returns the next byte. It passes over ends of lines.
func (r *base64Reader) next() (byte, bool) {
	for r.n < 8 {
		if len(r.text) == 0 {
			return 0, false
		}
		c := r.text[0]
		r.text = r.text[1:]
		switch {
		case c >= 'A' && c <= 'Z':
			c -= 'A'
		case c >= 'a' && c <= 'z':
			c -= 'a' - 26
		case c >= '0' && c <= '9':
			c += 52 - '0'
		case c == '+' || c == '-':
			c = 62
		case c == '/' || c == '_':
			c = 63
		case c == '\r' || c == '\n':
			continue
		default:
			return 0, false
		}
		r.bits = r.bits<<6 | uint32(c)
		r.n += 6
	}
	r.n -= 8
	return byte(r.bits >> r.n), true //nolint:gosec // the lower 8 bits
}
