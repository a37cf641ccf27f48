package client

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// Compression is how an upload is compressed.
type Compression string

// The compressions. Zstd is the faster and smaller of the two.
const (
	NoCompression Compression = ""
	Gzip          Compression = "gzip"
	Zstd          Compression = "zstd"
)

func (c Compression) announce(header http.Header) error {
	switch c {
	case NoCompression:
		return nil
	case Gzip, Zstd:
		header.Set("Content-Encoding", string(c))
		return nil
	}
	return fmt.Errorf("unknown compression %q: expected %q or %q", string(c), Gzip, Zstd)
}

// upload is the body of a request. It reads its source only while the transport reads
// it, so it needs no goroutine. It can be cut off: once Close has returned, it does not
// use the source any more.
type upload struct {
	mu     sync.Mutex
	source io.Reader
	closed bool
	failed error

	// packer compresses into packed; it is nil without compression.
	packer io.WriteCloser
	packed bytes.Buffer
	chunk  []byte
}

var errUploadClosed = errors.New("the upload was closed")

func newUpload(source io.Reader, compression Compression) (*upload, error) {
	u := &upload{source: source}
	var err error
	switch compression {
	case Gzip:
		u.packer = gzip.NewWriter(&u.packed)
	case Zstd:
		// Use a concurrency of one: further goroutines would outlive a request that is
		// cut off.
		u.packer, err = zstd.NewWriter(&u.packed, zstd.WithEncoderConcurrency(1))
	case NoCompression:
	}
	if err != nil {
		return nil, fmt.Errorf("start compressing: %w", err)
	}
	return u, nil
}

// Read implements [io.Reader].
func (u *upload) Read(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.closed:
		return 0, errUploadClosed
	case u.failed != nil:
		return 0, u.failed
	case u.packer == nil:
		n, err := u.source.Read(p)
		return n, u.note(err)
	}
	for u.packed.Len() == 0 && u.source != nil {
		if err := u.pack(); err != nil {
			return 0, u.note(err)
		}
	}
	return u.packed.Read(p) // io.EOF after the last packed byte
}

// pack compresses the next chunk of the source, and drops the source at its end.
func (u *upload) pack() error {
	if u.chunk == nil {
		u.chunk = make([]byte, 64<<10)
	}
	n, err := u.source.Read(u.chunk)
	if _, werr := u.packer.Write(u.chunk[:n]); werr != nil {
		return fmt.Errorf("compress the upload: %w", werr)
	}
	if errors.Is(err, io.EOF) {
		u.source = nil
		if err := u.packer.Close(); err != nil {
			return fmt.Errorf("compress the upload: %w", err)
		}
		return nil
	}
	return err
}

// note keeps the source's own error, which is more useful than the transport's error
// about it.
func (u *upload) note(err error) error {
	if err != nil && !errors.Is(err, io.EOF) {
		u.failed = err
	}
	return err
}

// Close waits for a Read in progress.
func (u *upload) Close() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closed = true
	return nil
}

// cause returns the source's error that ended the upload, or nil.
func (u *upload) cause() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.failed
}
