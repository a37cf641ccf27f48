package auth

import (
	"bytes"
	"encoding/base64"
	"slices"

	"github.com/batchd/batchd/internal/apikey"
)

const (
	// leastToken is less than the length of every token of an issuer, and leastClaims of its claims.
	leastToken  = 64
	leastClaims = 24
	// findWindow and findOverlap are longer than those of apikey, as a token is: with escapes, it is whole in one window.
	findWindow  = 64 << 10
	findOverlap = 32 << 10
	// pieceLen is how many characters of base64 are decoded at a time, a multiple of 4.
	pieceLen = 2048
)

// In reports whether a text has a token in it that is meant for this server: with the issuer and the audience in its
// unverified claims. The token is in clear, in base64 as in "Basic …", or has escapes of URLs, JSON or XML. The work
// grows with the length of the text alone, and the memory is bounded. A nil JWT finds none.
func (j *JWT) In(text []byte) bool {
	if j == nil || len(text) < leastToken {
		return false
	}
	f := &finder{jwt: j}
	return f.written(text) || apikey.Unescaped(text, findWindow, findOverlap, f.written)
}

// isForUs reports whether the second part of a token has the issuer and the audience.
func (j *JWT) isForUs(part []byte) bool {
	var c claims
	if decodePart(string(part), &c) != nil {
		return false
	}
	if iss, _ := c["iss"].(string); iss != j.cfg.Issuer {
		return false
	}
	switch aud := c["aud"].(type) {
	case string:
		return aud == j.cfg.Audience
	case []any:
		return slices.Contains(aud, any(j.cfg.Audience))
	}
	return false
}

// finder finds a token in a text that comes in pieces. It looks at the part between two dots, so no byte is decoded twice.
type finder struct {
	jwt *JWT
	// named: there are characters of a token before the next byte. inside: they began after a dot that had such
	// characters before it, and are in part.
	named, inside bool
	part          []byte
	// piece and plain are the buffers of inBase64.
	piece, plain []byte
}

// written reports whether a text has a token in it, in clear or in base64.
func (f *finder) written(text []byte) bool {
	f.reset()
	return bytes.IndexByte(text, '.') >= 0 && f.find(text) || f.inBase64(text)
}

func (f *finder) reset() { f.named, f.inside, f.part = false, false, f.part[:0] }

// find reports whether the text so far has a token in it.
func (f *finder) find(text []byte) bool {
	for _, c := range text {
		switch {
		case isTokenChar(c):
			f.named = true
			if !f.inside {
				continue
			}
			// An object in JSON, and blanks before it, begin with one of these in base64.
			if len(f.part) == mostTokenBytes || len(f.part) == 0 && bytes.IndexByte([]byte("eICD"), c) < 0 {
				f.inside, f.part = false, f.part[:0]
				continue
			}
			f.part = append(f.part, c)
		case c == '.':
			if f.inside && len(f.part) >= leastClaims && f.jwt.isForUs(f.part) {
				return true
			}
			f.named, f.inside, f.part = false, f.named, f.part[:0]
		default:
			f.reset()
		}
	}
	return false
}

func isTokenChar(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c == '-' || c == '_'
}

// inBase64 reports whether a text has base64 with a token in it. Base64 begins anywhere in a run of its characters, so
// each run is decoded from each of the first four.
func (f *finder) inBase64(text []byte) bool {
	for len(text) >= leastToken {
		end := 0
		for end < len(text) && isBase64(text[end]) {
			end++
		}
		if run := text[:end]; len(run) >= leastToken {
			for from := range 4 {
				if f.decodes(run[from:]) {
					return true
				}
			}
		}
		text = text[min(end+1, len(text)):]
	}
	return false
}

// isBase64 reports whether a byte is in base64 for texts or for URLs, which has ends of lines in a mail.
func isBase64(c byte) bool { return isTokenChar(c) || c == '+' || c == '/' || c == '\r' || c == '\n' }

// decodes reports whether a run of base64 has a token in it.
func (f *finder) decodes(run []byte) bool {
	if f.piece == nil {
		f.piece, f.plain = make([]byte, 0, pieceLen), make([]byte, base64.RawStdEncoding.DecodedLen(pieceLen))
	}
	f.reset()
	f.piece = f.piece[:0]
	for _, c := range run {
		switch c {
		case '\r', '\n':
			continue
		case '-':
			c = '+'
		case '_':
			c = '/'
		}
		if f.piece = append(f.piece, c); len(f.piece) == pieceLen && f.decoded() {
			return true
		}
	}
	if len(f.piece)%4 == 1 {
		f.piece = f.piece[:len(f.piece)-1]
	}
	return f.decoded()
}

// decoded decodes the piece, and reports whether the text so far has a token in it.
func (f *finder) decoded() bool {
	n, _ := base64.RawStdEncoding.Decode(f.plain, f.piece) // it has valid characters alone
	f.piece = f.piece[:0]
	return f.find(f.plain[:n])
}
