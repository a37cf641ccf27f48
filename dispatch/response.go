package dispatch

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/klauspost/compress/gzip"

	"github.com/batchd/batchd/internal/batch"
)

const (
	// firstBuffer is the most memory that is allocated because a Content-Length announces it.
	firstBuffer = 64 << 10
	// drainBytes and drainTime bound the effort of reading the rest of a truncated
	// body to keep its connection. A new connection costs about as much.
	drainBytes = 64 << 10
	drainTime  = 50 * time.Millisecond
)

// gzipRequested is the Accept-Encoding of an action that has none, which requests share.
var gzipRequested = []string{"gzip"}

// body is the part of an answer's body that is kept.
type body struct {
	bytes     []byte
	truncated bool
	// decoded: the bytes were decompressed, so Content-Encoding and Content-Length of the
	// answer do not describe them. undecoded: they are still compressed, or claimed to be.
	decoded, undecoded bool
}

// answerError is the error of an answer that began but can't be used.
type answerError struct {
	code    batch.ErrorCode
	message string
}

// Error implements error.
func (e *answerError) Error() string { return e.message }

// decodes reports whether dispatch decompresses the answer: an action that names encodings itself
// gets the body as it comes.
func decodes(a *batch.Action, req *http.Request) bool {
	_, own := a.Header("Accept-Encoding")
	return !own && req.Header["Accept-Encoding"] != nil
}

// readBody reads the body of an answer. For a compressed body, limit applies to the decoded
// bytes; a body that cannot be decoded is kept as it came. With an error the answer broke
// off, and the body has the bytes that came before.
func (d *Dispatcher) readBody(res *http.Response, limit int64, decode bool) (b body, err error) {
	codings := contentCodings(res.Header)
	if decode && len(codings) == 1 && (codings[0] == "gzip" || codings[0] == "x-gzip") {
		b, err = d.inflate(res.Body, limit)
	} else {
		b.bytes, b.truncated, err = readCapped(res.Body, limit, res.ContentLength)
		b.undecoded = len(b.bytes) > 0 && slices.ContainsFunc(codings, isCompression)
	}
	if err == nil && b.truncated && res.ProtoMajor == 1 {
		d.drain(res.Body)
	}
	return b, err
}

// contentCodings returns the codings that were applied to a body, in order and in lower
// case. Identity is none.
func contentCodings(h http.Header) []string {
	var codings []string
	for _, line := range h["Content-Encoding"] {
		for coding := range strings.SplitSeq(line, ",") {
			if coding = strings.ToLower(strings.TrimSpace(coding)); coding != "" && coding != "identity" {
				codings = append(codings, coding)
			}
		}
	}
	return codings
}

// isCompression reports whether a content coding changes the bytes of a body. Some
// targets name a character set or a framing there instead, which change none.
func isCompression(coding string) bool {
	switch coding {
	case "gzip", "x-gzip", "deflate", "br", "zstd", "compress", "x-compress", "dcb", "dcz", "exi", "pack200-gzip":
		return true
	}
	return false
}

// inflater decodes gzip, and keeps the beginning of its input. Answers use it one after the other.
type inflater struct {
	gzip.Reader

	source watchedReader
}

// inflate reads and decodes a gzip body.
func (d *Dispatcher) inflate(raw io.Reader, limit int64) (body, error) {
	in, ok := d.inflaters.Get().(*inflater)
	if !ok {
		in = new(inflater)
	}
	source := &in.source
	// A stream of empty blocks decodes to nothing for ever. A genuine stream that
	// is flushed after every few bytes grows, but not to four times its size.
	*source = watchedReader{r: raw, left: 4*limit + firstBuffer, kept: source.kept[:0], most: limit + 1}
	defer func() {
		source.r = nil // or the pool keeps the connection's buffers
		if cap(source.kept) > firstBuffer {
			source.kept = nil
		}
		d.inflaters.Put(in)
	}()
	err := in.Reset(source)
	if errors.Is(err, io.EOF) && source.read == 0 {
		return body{}, nil // 204, 304, or an empty body in spite of the header
	}
	if err == nil {
		b := body{decoded: true}
		if b.bytes, b.truncated, err = readCapped(in, limit, -1); err == nil {
			return b, nil
		}
	}
	// The body is no gzip, or decodes to almost nothing. Its beginning was kept; read the
	// rest.
	if source.err == nil {
		source.left = max(limit+1-source.read, 0)
		_, _ = io.Copy(io.Discard, source) // how it ends is in source.err
	}
	b := body{bytes: bytes.Clone(source.kept), undecoded: true}
	if int64(len(b.bytes)) > limit {
		b.bytes, b.truncated = b.bytes[:limit], true
	}
	if source.err != nil && !errors.Is(source.err, io.EOF) {
		return b, source.err
	}
	return b, nil
}

// watchedReader bounds a reader, and remembers its beginning and how it ended.
type watchedReader struct {
	r    io.Reader
	left int64
	read int64
	kept []byte // up to most bytes
	most int64
	err  error
}

// Read implements io.Reader.
func (w *watchedReader) Read(p []byte) (int, error) {
	if w.left <= 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := w.r.Read(p[:min(int64(len(p)), w.left)])
	w.left -= int64(n)
	w.read += int64(n)
	w.kept = append(w.kept, p[:min(int64(n), w.most-int64(len(w.kept)))]...)
	if err != nil {
		w.err = err
	}
	return n, err
}

// readCapped reads up to limit bytes, and reports whether there are more. Length is the
// announced length, or negative if none was announced; it is only a hint for the first
// allocation. With an error it returns the bytes that came before.
func readCapped(r io.Reader, limit, length int64) (kept []byte, truncated bool, err error) {
	size := min(limit, firstBuffer)
	if length >= 0 {
		size = min(size, length)
	} else {
		size = min(size, 1<<10)
	}
	// One byte beyond the limit distinguishes a complete body from a truncated one.
	buf := make([]byte, 0, size+1)
	for {
		if len(buf) == cap(buf) {
			buf = slices.Grow(buf, 1)
		}
		n, err := r.Read(buf[len(buf):min(int64(cap(buf)), limit+1)])
		buf = buf[:len(buf)+n]
		switch {
		case int64(len(buf)) > limit:
			return buf[:limit], true, nil
		case errors.Is(err, io.EOF) && len(buf) == 0:
			return nil, false, nil
		case errors.Is(err, io.EOF):
			return buf, false, nil
		case err != nil:
			return buf, false, err
		}
	}
}

// drain reads the rest of a body if it is small and there already, since an
// HTTP/1 connection can be used again only after that.
func (d *Dispatcher) drain(rest io.Reader) {
	if h, ok := rest.(readDeadliner); ok {
		h.hurry(d.drainTime)
	}
	_, _ = io.CopyN(io.Discard, rest, drainBytes) // however it ends, the connection is kept or not
}

// lowered has the names in lower case of headers that most answers have.
var lowered = func() map[string]string {
	names := make(map[string]string)
	for _, key := range []string{
		"Cache-Control", "Content-Encoding", "Content-Length", "Content-Type", "Date", "Etag", "Last-Modified", "Location", "Server", "Vary",
	} {
		names[key] = strings.ToLower(key)
	}
	return names
}()

// headerText returns a header's value as text. One that is not UTF-8 is taken for
// ISO 8859-1, which HTTP used before (RFC 9110 §5.5), so that no byte is lost.
func headerText(v string) string {
	if utf8.ValidString(v) {
		return v
	}
	runes := make([]rune, len(v))
	for i := range len(v) {
		runes[i] = rune(v[i])
	}
	return string(runes)
}

// resultHeaders returns the end-to-end headers of an answer, names in lower
// case and in order.
func resultHeaders(h http.Header, decoded bool) []batch.Field {
	var named map[string]bool
	if values := h["Connection"]; len(values) > 0 {
		named = connectionOptions([]batch.Field{{Name: "Connection", Value: strings.Join(values, ",")}})
	}
	fields := make([]batch.Field, 0, len(h))
	for key, values := range h {
		if disposition(key) == hopByHop || named[key] || decoded && (key == "Content-Encoding" || key == "Content-Length") {
			continue
		}
		name := lowered[key]
		if name == "" {
			name = strings.ToLower(key)
		}
		for _, v := range values {
			fields = append(fields, batch.Field{Name: name, Value: headerText(v)})
		}
	}
	// Stable, so that the values of one name stay in order.
	slices.SortStableFunc(fields, func(a, b batch.Field) int { return strings.Compare(a.Name, b.Name) })
	return fields
}
