package apikey

import (
	"bytes"
	"encoding/base64"
	"net/url"
	"strings"
)

// likeLen is the number of digits after the prefix from which on a text looks like a key, whole or not.
const likeLen = 24

func isDigit(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z'
}

// In reports whether a text has something in it that looks like a key, whole or with a typing error.
func In(text []byte) bool {
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

// cores are what the prefix looks like in base64, for each of the three places where it may begin.
var cores = func() (found [3]string) {
	for i := range found {
		text := base64.StdEncoding.EncodeToString(append(make([]byte, i, 16), Prefix...))
		found[i] = text[(8*i+5)/6 : (8*(i+len(Prefix)))/6]
	}
	return found
}()

// InValue reports whether the value of a header, a part of a URL or another short text has a key in it: in
// clear, percent-encoded, or in base64 as in "Basic …".
func InValue(value string) bool {
	if strings.Contains(value, Prefix) && In([]byte(value)) {
		return true
	}
	if strings.Contains(value, "%") {
		if plain, err := url.PathUnescape(value); err == nil && plain != value && InValue(plain) {
			return true
		}
	}
	for _, core := range cores {
		if at := strings.Index(value, core); at >= 0 && inBase64(value, at) {
			return true
		}
	}
	return false
}

// inBase64 decodes the run of base64 around a place of a text.
func inBase64(text string, at int) bool {
	is := func(c byte) bool { return isDigit(c) || c == '+' || c == '/' || c == '-' || c == '_' }
	from, to := at, at
	for from > 0 && is(text[from-1]) {
		from--
	}
	for to < len(text) && is(text[to]) {
		to++
	}
	run := strings.NewReplacer("-", "+", "_", "/").Replace(text[from:to])
	for skip := range 4 { // the run may begin before the encoded text does
		if skip > len(run) {
			break
		}
		part := run[skip:]
		if len(part)%4 == 1 {
			part = part[:len(part)-1]
		}
		if plain, err := base64.RawStdEncoding.DecodeString(part); err == nil && In(plain) {
			return true
		}
	}
	return false
}
