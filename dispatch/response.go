package dispatch

import (
	"errors"
	"fmt"
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
	// firstBuffer is the most that is allocated on the word of a Content-Length.
	firstBuffer = 64 << 10
	// drainBytes and drainTime bound what is spent on the rest of a truncated
	// body to keep its connection. A new one costs about as much.
	drainBytes = 64 << 10
	drainTime  = 50 * time.Millisecond
)

// gzipRequested is the Accept-Encoding of an action that has none, which requests share.
var gzipRequested = []string{"gzip"}

// body is what was kept of an answer's body.
type body struct {
	bytes     []byte
	truncated bool
	// decoded says that bytes are not what Content-Encoding and Content-Length
	// of the answer speak of.
	decoded bool
}

// answerError says that an answer began but can't be used.
type answerError struct {
	code    batch.ErrorCode
	message string
}

// Error implements error.
func (e *answerError) Error() string { return e.message }

// decodes reports whether the answer's compression is ours to undo: whoever
// names encodings by itself gets the body as it comes.
func decodes(a *batch.Action, req *http.Request) bool {
	_, own := a.Header("Accept-Encoding")
	return !own && req.Header["Accept-Encoding"] != nil
}

// readBody reads the body of an answer. Of a compressed one, limit is applied
// to what it decodes to. Cancel ends the attempt's context.
func (d *Dispatcher) readBody(res *http.Response, limit int64, decode bool) (b body, err error) {
	if res.StatusCode < http.StatusOK {
		// 101 was not asked for: Upgrade is never sent. Below 100 is no status (RFC 9110 §15).
		return body{}, &answerError{batch.CodeProtocol, fmt.Sprintf("it answered with the status %d, which ends no request", res.StatusCode)}
	}
	if decode && isGzip(res.Header) {
		b, err = d.inflate(res.Body, limit)
	} else {
		b.bytes, b.truncated, err = readCapped(res.Body, limit, res.ContentLength)
	}
	if err == nil && b.truncated && res.ProtoMajor == 1 {
		d.drain(res.Body)
	}
	return b, err
}

func isGzip(h http.Header) bool {
	v := h["Content-Encoding"]
	return len(v) == 1 && (strings.EqualFold(v[0], "gzip") || strings.EqualFold(v[0], "x-gzip"))
}

// inflate reads and decodes a gzip body.
func (d *Dispatcher) inflate(raw io.Reader, limit int64) (body, error) {
	// A stream of empty blocks decodes to nothing for ever. A serious one that
	// is flushed after every few bytes grows, but not to four times its size.
	source := &watchedReader{r: raw, left: 4*limit + firstBuffer}
	inflater, ok := d.inflaters.Get().(*gzip.Reader)
	if !ok {
		inflater = new(gzip.Reader)
	}
	defer func() {
		source.r = nil // or the pool keeps the connection's buffers
		d.inflaters.Put(inflater)
	}()
	err := inflater.Reset(source)
	if errors.Is(err, io.EOF) && source.read == 0 {
		return body{}, nil // 204, 304, or an empty body in spite of the header
	}
	b := body{decoded: true}
	if err == nil {
		b.bytes, b.truncated, err = readCapped(inflater, limit, -1)
	}
	if err == nil {
		return b, nil
	}
	switch {
	case source.left <= 0:
		return body{}, &answerError{batch.CodeBodyTooLarge, fmt.Sprintf("its compressed answer is over %d bytes and decodes to hardly any", source.read)}
	case source.err != nil && !errors.Is(source.err, io.EOF):
		return body{}, source.err
	}
	return body{}, &answerError{batch.CodeProtocol, "its answer is not the gzip stream that its Content-Encoding announces"}
}

// watchedReader bounds a reader, and remembers how it ended.
type watchedReader struct {
	r    io.Reader
	left int64
	read int64
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
	if err != nil {
		w.err = err
	}
	return n, err
}

// readCapped reads up to limit bytes, and says whether there are more. Length is
// the announced one, or below 0: a hint that is not trusted with memory.
func readCapped(r io.Reader, limit, length int64) (kept []byte, truncated bool, err error) {
	size := min(limit, firstBuffer)
	if length >= 0 {
		size = min(size, length)
	} else {
		size = min(size, 1<<10)
	}
	// One byte more than is wanted tells an end from a cut.
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
			return nil, false, err
		}
	}
}

// drain reads the rest of a body if it is small and there already, since an
// HTTP/1 connection can be used again only after that.
func (d *Dispatcher) drain(rest io.Reader) {
	if h, ok := rest.(hurried); ok {
		h.hurry(d.drainTime)
	}
	_, _ = io.CopyN(io.Discard, rest, drainBytes) // it ends how it ends: the connection is kept or it is not
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
