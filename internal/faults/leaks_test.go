package faults

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"crypto/md5" //nolint:gosec // a hash that a leak could have
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // a hash that a leak could have
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

// needle is one form in which a secret may appear.
type needle struct {
	form string
	text []byte
	fold bool // the form may be in upper and in lower case
}

// leaks looks for secrets in whatever is collected of an installation.
type leaks struct {
	needles []needle
	found   []string // the form and the place of each
}

// add looks for a secret, in every form in which a program may write it.
func (l *leaks) add(name, secret string) {
	in := func(form, text string, fold bool) {
		if fold {
			text = strings.ToLower(text)
		}
		l.needles = append(l.needles, needle{name + " " + form, []byte(text), fold})
	}
	each := func(format, between string) string {
		var parts []string
		for _, c := range []byte(secret) {
			parts = append(parts, fmt.Sprintf(format, c))
		}
		return strings.Join(parts, between)
	}
	in("as written", secret, true)
	in("in hex", hex.EncodeToString([]byte(secret)), true)
	in("percent-encoded", each("%%%02x", ""), true)
	in("in escapes of JSON", each(`\u%04x`, ""), true)
	in("in escapes of hex", each(`\x%02x`, ""), true)
	in("in HTML", each("&#%d;", ""), true)
	for _, between := range []string{" ", ",", ", "} {
		in("in decimal bytes", each("%d", between), false)
		in("in bytes of Go", each("0x%02x", between), true)
	}
	in("in hex with blanks", each("%02x", " "), true)
	in("in hex with colons", each("%02x", ":"), true)
	var wide []byte
	for _, c := range utf16.Encode([]rune(secret)) {
		wide = append(wide, byte(c&0xff), byte(c>>8))
	}
	in("in UTF-16", string(wide), false)
	// Of what base64 makes of the secret only the characters count that do not depend on what is
	// before or behind it.
	for before := range 3 {
		plain := append(make([]byte, before), secret...)
		from, to := (8*before+5)/6, 8*len(plain)/6
		in("in base64", base64.StdEncoding.EncodeToString(plain)[from:to], false)
		in("in base64 for URLs", base64.URLEncoding.EncodeToString(plain)[from:to], false)
	}
	for before := range 5 {
		plain := append(make([]byte, before), secret...)
		from, to := (8*before+4)/5, 8*len(plain)/5
		in("in base32", base32.StdEncoding.EncodeToString(plain)[from:to], true)
	}
	// A secret that is base64 itself may be written as what it stands for.
	if raw, err := base64.RawStdEncoding.DecodeString(secret); err == nil {
		in("decoded", string(raw), false)
		in("decoded, in hex", hex.EncodeToString(raw), true)
	}
}

// addHashes looks for the hashes without a key of a whole credential: someone who reads one can
// try out credentials.
func (l *leaks) addHashes(name, credential string) {
	plain := []byte(credential)
	for form, sum := range map[string][]byte{
		"MD5": hashOf(md5.Sum(plain)), "SHA-1": hashOf(sha1.Sum(plain)), "SHA-256": hashOf(sha256.Sum256(plain)), "SHA-512": hashOf(sha512.Sum512(plain)), //nolint:gosec // hashes that a leak could have
	} {
		// A hash may be cut.
		sum = sum[:min(len(sum), 16)]
		l.needles = append(l.needles,
			needle{name + " hashed with " + form, sum, false},
			needle{name + " hashed with " + form + ", in hex", []byte(hex.EncodeToString(sum)), true},
			needle{name + " hashed with " + form + ", in base64", []byte(base64.RawStdEncoding.EncodeToString(sum)[:20]), false})
	}
}

func hashOf[T [16]byte | [20]byte | [32]byte | [64]byte](sum T) (out []byte) {
	switch sum := any(sum).(type) {
	case [16]byte:
		out = sum[:]
	case [20]byte:
		out = sum[:]
	case [32]byte:
		out = sum[:]
	case [64]byte:
		out = sum[:]
	}
	return out
}

// maxFound bounds what is reported of a place.
const maxFound = 20

// in looks into bytes, and into what is compressed in them. It returns the number of secrets found.
func (l *leaks) in(place string, hay []byte) int { return l.search(place, hay, 3) }

func (l *leaks) search(place string, hay []byte, depth int) int {
	n := 0
	folded := lower(hay)
	for _, s := range l.needles {
		where := hay
		if s.fold {
			where = folded
		}
		for from := 0; ; {
			at := bytes.Index(where[from:], s.text)
			if at < 0 {
				break
			}
			at += from
			from = at + len(s.text)
			if n++; n <= maxFound {
				l.found = append(l.found, fmt.Sprintf("%s is in %s: …%q…", s.form, place, hay[max(0, at-80):min(len(hay), at+len(s.text)+40)]))
			}
		}
	}
	if depth == 0 {
		return n
	}
	for _, c := range compressions {
		for from := 0; ; from++ {
			at := bytes.Index(hay[from:], c.magic)
			if at < 0 {
				break
			}
			from += at
			if r, err := c.open(bytes.NewReader(hay[from:])); err == nil {
				// What breaks off, or has other bytes behind it, counts as far as it can be read.
				plain, _ := io.ReadAll(io.LimitReader(r, 4<<20))
				n += l.search(place+", in "+c.name, plain, depth-1)
			}
		}
	}
	return n
}

// lower returns the bytes with the letters of ASCII in lower case. All others keep their places.
func lower(b []byte) []byte {
	out := bytes.Clone(b)
	for i, c := range out {
		if c >= 'A' && c <= 'Z' {
			out[i] = c + 'a' - 'A'
		}
	}
	return out
}

// compressions are those that begin with bytes by which they are found.
var compressions = []struct {
	name  string
	magic []byte
	open  func(io.Reader) (io.Reader, error)
}{
	{"gzip", []byte{0x1f, 0x8b, 8}, func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) }},
	{"zlib", []byte{0x78, 0x9c}, func(r io.Reader) (io.Reader, error) { return zlib.NewReader(r) }},
	{"zlib", []byte{0x78, 0x01}, func(r io.Reader) (io.Reader, error) { return zlib.NewReader(r) }},
	{"zlib", []byte{0x78, 0xda}, func(r io.Reader) (io.Reader, error) { return zlib.NewReader(r) }},
	{"zstd", []byte{0x28, 0xb5, 0x2f, 0xfd}, func(r io.Reader) (io.Reader, error) { return zstd.NewReader(r, zstd.WithDecoderConcurrency(1)) }},
	{"snappy", []byte("\xff\x06\x00\x00sNaPpY"), func(r io.Reader) (io.Reader, error) { return s2.NewReader(r), nil }},
	{"s2", []byte("\xff\x06\x00\x00S2sTwO"), func(r io.Reader) (io.Reader, error) { return s2.NewReader(r), nil }},
}

// random returns n random letters and digits.
func random(n int) string {
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	raw := make([]byte, n)
	_, _ = rand.Read(raw) // never fails
	for i, c := range raw {
		raw[i] = digits[int(c)%len(digits)]
	}
	return string(raw)
}

// Every form in which a secret could leak is found, wherever it begins, and nothing is found where
// there is no secret.
func TestTheSearchForSecretsFindsEachForm(t *testing.T) {
	t.Parallel()
	secret := random(16)
	credential := "Bearer " + secret
	bytesOf := func(format string) string { return strings.Trim(fmt.Sprintf(format, []byte(secret)), "[]{}") }
	compressed := func(write func(io.Writer) io.WriteCloser) string {
		var out bytes.Buffer
		w := write(&out)
		_, err := io.WriteString(w, strings.Repeat("blah ", 100)+secret)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		return out.String()
	}
	zip := func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }
	sum := sha256.Sum256([]byte(credential))
	quick := sha1.Sum([]byte(credential)) //nolint:gosec // a hash that a leak could have
	decoded, err := base64.RawStdEncoding.DecodeString(secret)
	require.NoError(t, err)
	forms := map[string]string{
		"plain": secret, "upper": strings.ToUpper(secret), "lower": strings.ToLower(secret),
		"in a URL": "https://u:" + secret + "@h/", "quoted by Go": fmt.Sprintf("%q", credential), "%x": bytesOf("%x"), "%X": bytesOf("%X"), "% x": bytesOf("% x"), "%v": bytesOf("%v"), "%#v": bytesOf("%#v"),
		"basic":                     "Basic " + base64.StdEncoding.EncodeToString([]byte("u:"+secret)),
		"base64":                    base64.StdEncoding.EncodeToString([]byte(secret)),
		"base64 behind one byte":    base64.StdEncoding.EncodeToString([]byte("x" + secret + "x")),
		"base64 behind two bytes":   base64.RawURLEncoding.EncodeToString([]byte("xy" + secret)),
		"base32":                    base32.StdEncoding.EncodeToString([]byte("xyz" + secret)),
		"decoded":                   string(decoded),
		"decoded in hex":            fmt.Sprintf("%X", decoded),
		"SHA-256":                   hex.EncodeToString(sum[:]),
		"SHA-256, raw and cut":      string(sum[:16]),
		"SHA-1 in base64":           base64.StdEncoding.EncodeToString(quick[:]),
		"gzip":                      compressed(zip),
		"zlib":                      compressed(func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) }),
		"snappy":                    compressed(func(w io.Writer) io.WriteCloser { return s2.NewWriter(w, s2.WriterSnappyCompat()) }),
		"s2":                        compressed(func(w io.Writer) io.WriteCloser { return s2.NewWriter(w) }),
		"zstd":                      compressed(func(w io.Writer) io.WriteCloser { z, err := zstd.NewWriter(w); require.NoError(t, err); return z }),
		"gzip whose end is missing": compressed(zip)[:len(compressed(zip))-6],
	}
	for name, format := range map[string]string{"percent": "%%%02X", "JSON": `\u%04x`, "hex escapes": `\x%02x`, "HTML": "&#%d;"} {
		var text strings.Builder
		for _, c := range []byte(secret) {
			fmt.Fprintf(&text, format, c)
		}
		forms[name] = text.String()
	}
	noise := make([]byte, 1<<16)
	_, _ = rand.Read(noise)
	for name, form := range forms {
		for _, around := range [][]byte{nil, noise} {
			l := leaks{}
			l.add("it", secret)
			l.addHashes("it", credential)
			require.Zero(t, l.in("noise", around), name)
			require.Positive(t, l.in("a place", append(append(bytes.Clone(around), form...), around...)), "%s: %s", name, form)
		}
	}
}
