package api

import (
	"errors"
	"io"

	"github.com/klauspost/compress/zstd"
)

// frames passes zstd frames on to a decoder, and calls window before the decoder
// sees the header of a frame that needs a window of that many bytes (RFC 8878 §3.1.1).
// Its error replaces the bytes.
type frames struct {
	src    io.Reader
	window func(bytes int64) error

	// head has the bytes of a header that is not complete.
	head []byte
	// inFrame: the next header is a block's, not a frame's.
	inFrame bool
	// skip is the number of bytes up to the next header.
	skip int64
	// checksum: a checksum of four bytes follows the last block.
	checksum bool
	// lost: the bytes are not zstd. The decoder reports that.
	lost bool
}

// Read implements [io.Reader].
func (f *frames) Read(p []byte) (int, error) {
	n, err := f.src.Read(p)
	if refused := f.scan(p[:n]); refused != nil {
		return 0, refused
	}
	return n, err
}

func (f *frames) scan(p []byte) error {
	for len(p) > 0 && !f.lost {
		if f.skip > 0 {
			n := min(f.skip, int64(len(p)))
			f.skip -= n
			p = p[n:]
			continue
		}
		f.head = append(f.head, p[0])
		p = p[1:]
		if err := f.header(); err != nil {
			return err
		}
	}
	return nil
}

// header reads the header of a frame or a block, if it is complete.
func (f *frames) header() error {
	if f.inFrame {
		f.block()
		return nil
	}
	var h zstd.Header
	if err := h.Decode(f.head); err != nil {
		f.lost = !errors.Is(err, io.ErrUnexpectedEOF)
		return nil // the header is not complete, or the decoder reports the error
	}
	f.head = f.head[:0]
	if h.Skippable {
		f.skip = int64(h.SkippableSize)
		return nil
	}
	f.inFrame, f.checksum = true, h.HasCheckSum
	size := h.WindowSize
	if h.SingleSegment {
		size = h.FrameContentSize
	}
	return f.window(int64(min(size, zstdWindow))) // the decoder refuses a larger one
}

// block reads the header of a block: three bytes with the flag of the last block, the
// type and the size.
func (f *frames) block() {
	if len(f.head) < 3 {
		return
	}
	bits := uint32(f.head[0]) | uint32(f.head[1])<<8 | uint32(f.head[2])<<16
	f.head = f.head[:0]
	const repeated = 1 // one byte stands for a block of the size
	if f.skip = int64(bits >> 3); bits>>1&3 == repeated {
		f.skip = 1
	}
	if bits&1 != 0 {
		f.inFrame = false
		if f.checksum {
			f.skip += 4
		}
	}
}
