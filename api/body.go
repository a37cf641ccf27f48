package api

import (
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/batchd/batchd/internal/intake"
)

const (
	mediaJSON   = "application/json"
	mediaNDJSON = "application/x-ndjson"

	// zstdWindow is the largest window that a decoder of the content coding must
	// support (RFC 9659 §3).
	zstdWindow = 8 << 20
)

// submissionMedia returns the media type of a submission, with aliases resolved.
func submissionMedia(h http.Header) (string, error) {
	const expected = "send application/json or application/x-ndjson, in UTF-8"
	raw := h.Get("Content-Type")
	if raw == "" {
		return "", refuse(kindUnsupportedMedia, "the Content-Type is missing: %s", expected)
	}
	media, params, err := mime.ParseMediaType(raw)
	if err != nil {
		return "", refuse(kindUnsupportedMedia, "the Content-Type cannot be parsed: %s", expected)
	}
	if charset, ok := params["charset"]; ok && !strings.EqualFold(charset, "utf-8") {
		return "", refuse(kindUnsupportedMedia, "the charset %q is not supported: %s", intake.Clip(charset), expected)
	}
	if media == mediaJSON {
		return mediaJSON, nil
	}
	if isNDJSON(media) {
		return mediaNDJSON, nil
	}
	return "", refuse(kindUnsupportedMedia, "the Content-Type %q is not supported: %s", intake.Clip(media), expected)
}

func isNDJSON(media string) bool {
	switch media {
	case mediaNDJSON, "application/ndjson", "application/jsonl", "application/x-jsonlines":
		return true
	}
	return false
}

// body is the decompressed body of a submission. Reading fails if the submission
// exceeds a limit.
type body struct {
	src    io.Reader
	wire   *wireReader
	coding string
	limit  int64
	read   int64
	sum    hash.Hash
	// err is the reason why reading ended before the body did. It is kept because a
	// parser on top would report a fault of its own in the incomplete body.
	err   error
	close func()
}

// openBody decodes the Content-Encoding of a request. The caller closes the body;
// net/http closes the reader below it.
func openBody(r *http.Request, limit int64) (*body, error) {
	b := &body{wire: &wireReader{src: r.Body}, limit: limit, sum: sha256.New(), close: func() {}}
	b.src = b.wire
	b.coding = strings.ToLower(strings.TrimSpace(strings.Join(r.Header.Values("Content-Encoding"), ",")))
	switch b.coding {
	case "", "identity":
		b.coding = ""
		if r.ContentLength > limit {
			return nil, tooLarge(limit)
		}
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(b.wire)
		if err != nil {
			return nil, b.classify(err)
		}
		b.src, b.close = z, func() { _ = z.Close() }
	case "zstd":
		z, err := zstd.NewReader(b.wire, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(zstdWindow))
		if err != nil {
			return nil, b.classify(err)
		}
		b.src, b.close = z, z.Close
	default:
		return nil, refuse(kindUnsupportedMedia, "the Content-Encoding %q is not supported: expected gzip or zstd", intake.Clip(b.coding)).
			with("Accept-Encoding", "gzip, zstd")
	}
	return b, nil
}

// Close frees the decompressor.
func (b *body) Close() { b.close() }

// Read implements [io.Reader].
func (b *body) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.src.Read(p)
	b.read += int64(n)
	b.sum.Write(p[:n])
	switch {
	case b.read > b.limit, b.wire.read > b.limit:
		b.err = tooLarge(b.limit)
	case err != nil && !errors.Is(err, io.EOF):
		b.err = b.classify(err)
	default:
		return n, err
	}
	return 0, b.err
}

// classify distinguishes a broken connection from broken content.
func (b *body) classify(err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return refuse(kindStalled, "no byte came for %s: nothing was stored", stallTimeout).with("Connection", "close")
	case b.wire.err != nil:
		return refuse(kindBadBody, "the body ended before it was complete: nothing was stored")
	case errors.Is(err, zstd.ErrWindowSizeExceeded):
		return refuse(kindTooLarge, "the zstd window is larger than %d MiB: compress with a smaller one", zstdWindow>>20)
	}
	return refuse(kindBadBody, "the body is not valid %s: nothing was stored", b.coding)
}

func tooLarge(limit int64) error {
	return refuse(kindTooLarge, "the body has more than %d bytes: send it in several batches", limit)
}

// fingerprint identifies the submission. The whole body must have been read before.
func (b *body) fingerprint(media string, r *http.Request) []byte {
	outer := sha256.New()
	for _, part := range []string{media, r.URL.RawQuery, r.URL.EscapedPath()} {
		outer.Write([]byte(part))
		outer.Write([]byte{0}) // no part contains a zero byte
	}
	outer.Write(b.sum.Sum(nil))
	return outer.Sum(nil)
}

// wireReader counts the bytes that came over the connection, and remembers whether the
// connection failed.
type wireReader struct {
	src  io.Reader
	read int64
	err  error
}

// Read implements [io.Reader].
func (w *wireReader) Read(p []byte) (int, error) {
	n, err := w.src.Read(p)
	w.read += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		w.err = err
	}
	return n, err
}

// itemReader bounds how much may be read for one item of a stream. Without it, a parser
// that must see a whole item could be made to hold the whole body.
//
// A parser reads on only when the bytes that it has do not complete the item. So that
// one item needs all bytes read since the mark, read-ahead included.
type itemReader struct {
	src  io.Reader
	span int64
	read int64
	mark int64
	// exceeded: the item was too long.
	exceeded bool
}

// Read implements [io.Reader].
func (r *itemReader) Read(p []byte) (int, error) {
	if r.read-r.mark > r.span {
		r.exceeded = true
		return 0, errItemTooLong
	}
	n, err := r.src.Read(p)
	r.read += int64(n)
	return n, err
}

var errItemTooLong = errors.New("the item is too long")
