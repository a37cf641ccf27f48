package api

import (
	"crypto/sha256"
	"encoding/binary"
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

// The memory that a body holds, beside what is parsed of it.
const (
	// bodyBase is for the buffers between the connection and the parser.
	bodyBase = 32 << 10
	// gzipMemory and zstdMemory are for a decompressor. That of zstd has a window besides.
	gzipMemory = 64 << 10
	zstdMemory = 512 << 10
	// stagedMost is the most for actions on their way to the store: a chunk that is being
	// staged and the next one. Each byte of an action is there up to stagedTimes.
	stagedMost  = 512 << 10
	stagedTimes = 3
	// itemTimes is how many times an item of a stream is in memory at most: in the
	// parser's buffer, which doubles, and in the fields of the action.
	itemTimes = 4
	// documentTimes is the same for a document that is parsed as a whole, beside the
	// document itself.
	documentTimes = 2
	// keptMemory is for what the server remembers of an action to the end of the
	// submission, beside its id and group.
	keptMemory = 160
)

// ratioFloor is a size up to which a body may be any number of times larger than its
// compressed form.
const ratioFloor = 64 << 10

// bodyLimits bound a body.
type bodyLimits struct {
	size   int64 // in bytes, both as sent and decompressed
	ratio  int64
	rate   int64 // in bytes a second, for errors
	memory *reservation
}

// body is the decompressed body of a submission. Reading fails if the submission
// exceeds a limit.
type body struct {
	bodyLimits

	src    io.Reader
	wire   *wireReader
	coding string
	read   int64
	sum    hash.Hash
	// decoder is the memory of the decompressor, parser that of the largest item so far, or
	// of the whole document, kept that of what is remembered of all items, and held that of
	// the largest check of a value.
	decoder, parser, kept, held int64
	// err is the reason why reading ended before the body did. It is kept because a
	// parser on top would report a fault of its own in the incomplete body.
	err   error
	close func()
}

// openBody decodes the Content-Encoding of a request. The caller closes the body, which
// releases the reservation; net/http closes the reader below it.
func openBody(r *http.Request, limits bodyLimits) (_ *body, err error) {
	b := &body{bodyLimits: limits, wire: &wireReader{src: r.Body, most: limits.size}, sum: sha256.New(), close: func() {}}
	defer func() {
		if err != nil {
			b.Close()
		}
	}()
	b.src = b.wire
	b.coding = strings.ToLower(strings.TrimSpace(strings.Join(r.Header.Values("Content-Encoding"), ",")))
	switch b.coding {
	case "", "identity":
		b.coding = ""
		if r.ContentLength > limits.size {
			return nil, tooLarge(limits.size)
		}
	case "gzip", "x-gzip":
		b.decoder = gzipMemory
	case "zstd":
		b.decoder = zstdMemory
	default:
		return nil, refuse(kindUnsupportedMedia, "the Content-Encoding %q is not supported: expected gzip or zstd", intake.Clip(b.coding)).
			with("Accept-Encoding", "gzip, zstd")
	}
	if err := b.account(); err != nil {
		return nil, err
	}
	switch b.decoder {
	case gzipMemory:
		z, err := gzip.NewReader(b.wire)
		if err != nil {
			return nil, b.classify(err)
		}
		b.src, b.close = z, func() { _ = z.Close() }
	case zstdMemory:
		src := &frames{src: b.wire, window: func(bytes int64) error {
			b.decoder = max(b.decoder, zstdMemory+bytes)
			return b.account()
		}}
		z, err := zstd.NewReader(src, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(zstdWindow))
		if err != nil {
			return nil, b.classify(err)
		}
		b.src, b.close = z, z.Close
	}
	return b, nil
}

// Close frees the decompressor and releases the reservation.
func (b *body) Close() {
	b.close()
	b.memory.release()
}

// account reserves the memory that the body holds now.
func (b *body) account() error {
	if b.err != nil {
		return b.err
	}
	b.err = b.memory.set(bodyBase + b.decoder + b.parser + b.kept + b.held + min(b.read*stagedTimes, stagedMost))
	return b.err
}

// parse accounts for an item of that many bytes that is parsed from a stream.
func (b *body) parse(item int64) error {
	b.parser = max(b.parser, item*itemTimes)
	return b.account()
}

// keep accounts for bytes that stay in memory to the end of the submission.
func (b *body) keep(bytes int64) error {
	b.kept += bytes
	return b.account()
}

// hold accounts for bytes that the check of a value needs beside the value.
func (b *body) hold(bytes int64) error {
	b.held = max(b.held, bytes)
	return b.account()
}

// Read implements [io.Reader].
func (b *body) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.src.Read(p)
	b.read += int64(n)
	b.sum.Write(p[:n])
	switch {
	case b.err != nil: // the decompressor needs more memory than there is
	case b.read > b.size, b.wire.exceeded:
		b.err = tooLarge(b.size)
	case b.coding != "" && b.read > ratioFloor+b.ratio*b.wire.read:
		b.err = refuse(kindTooLarge, "the body is more than %d times larger than its compressed form: send it with less compression, or raise limits.body_ratio", b.ratio)
	case err != nil && !errors.Is(err, io.EOF):
		b.err = b.classify(err)
	case b.account() != nil:
	default:
		return n, err
	}
	return 0, b.err
}

// readAll returns the whole body. Expected is its length, or -1.
func (b *body) readAll(expected int64) ([]byte, error) {
	size := int64(reservationStep)
	if b.coding == "" && expected >= 0 {
		size = min(expected+1, 1<<20) // one more byte to see the end
	}
	var data []byte
	for {
		// While the buffer grows, both are in memory.
		b.parser = int64(len(data)) + size
		if err := b.account(); err != nil {
			return nil, err
		}
		data = append(make([]byte, 0, size), data...)
		b.parser = size
		for int64(len(data)) < size {
			n, err := b.Read(data[len(data):size])
			data = data[:len(data)+n]
			if errors.Is(err, io.EOF) {
				b.parser = size + documentTimes*int64(len(data))
				return data, b.account()
			}
			if err != nil {
				return nil, err
			}
		}
		size = min(2*size, b.size+1)
		if b.coding == "" && expected >= int64(len(data)) {
			size = min(size, expected+1)
		}
	}
}

// classify distinguishes a broken connection from broken content.
func (b *body) classify(err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return refuse(kindStalled, "the body came too slowly: expected at least %d bytes a second, on average of %s; nothing was stored", b.rate, stallTimeout).with("Connection", "close")
	case b.wire.exceeded:
		return tooLarge(b.size)
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

// fingerprint identifies a submission with the credential that is sent with its actions. The whole body must
// have been read before.
func (b *body) fingerprint(media, credential string, r *http.Request) []byte {
	outer := sha256.New()
	for _, part := range []string{media, credential, r.URL.RawQuery, r.URL.EscapedPath()} {
		outer.Write(binary.AppendUvarint(nil, uint64(len(part))))
		outer.Write([]byte(part))
	}
	outer.Write(b.sum.Sum(nil))
	return outer.Sum(nil)
}

// wireReader counts the bytes that came over the connection, and remembers whether the
// connection failed. Content without an end, such as a skippable frame, does not pass it.
type wireReader struct {
	src  io.Reader
	most int64
	read int64
	err  error
	// exceeded: more bytes came than most.
	exceeded bool
}

// Read implements [io.Reader].
func (w *wireReader) Read(p []byte) (int, error) {
	n, err := w.src.Read(p)
	w.read += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		w.err = err
	}
	if w.read > w.most {
		w.exceeded = true
		return 0, errTooManyBytes
	}
	return n, err
}

var errTooManyBytes = errors.New("more bytes than the limit")

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
	// hold accounts for the memory of an item with that many bytes.
	hold func(item int64) error
	// exceeded: the item was too long.
	exceeded bool
}

// Read implements [io.Reader].
func (r *itemReader) Read(p []byte) (int, error) {
	if r.read-r.mark > r.span {
		r.exceeded = true
		return 0, errItemTooLong
	}
	if err := r.hold(r.read - r.mark + int64(len(p))); err != nil { // the parser's buffer
		return 0, err
	}
	n, err := r.src.Read(p)
	r.read += int64(n)
	return n, err
}

var errItemTooLong = errors.New("the item is too long")
