package api

import (
	"errors"
	"io"
	"net/http"
	"time"
)

// pace is how fast a peer must send a body and take an answer: in any window, on average
// rate bytes a second.
type pace struct {
	window time.Duration
	rate   int64
}

// credit is how long a peer may keep the server waiting now. Waiting uses it up, and bytes
// bring it back, up to most. So a peer that stalls is cut after most, and one that is
// slower than its rate a little later, but not one that is only slow.
type credit struct {
	pace
	most, left time.Duration
}

func newCredit(p pace, most time.Duration) credit { return credit{p, most, most} }

// account adds that n bytes moved while the server waited since start for what a request
// holds in memory, which may be nothing.
func (c *credit) account(start time.Time, n int, held *reservation) {
	earned := time.Duration(float64(n) / float64(held.rate(c.rate)) * float64(time.Second))
	c.left = min(c.most, c.left-time.Since(start)+min(earned, c.most))
}

// withPace cuts peers that are too slow. It also answers before a body has been read:
// net/http would first read a part of it, for which a client may keep it waiting.
func withPace(next http.Handler, p pace) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn := http.NewResponseController(w)
		out := &paceWriter{ResponseWriter: w, conn: conn, credit: newCredit(p, 2*p.window)}
		if r.Body != nil && r.Body != http.NoBody {
			out.body = &paceReader{ReadCloser: r.Body, request: r, conn: conn, credit: newCredit(p, p.window), length: r.ContentLength, expects: r.Header.Get("Expect") != ""}
			// Set the deadline now: if no handler reads the body, net/http reads it
			// before it reuses the connection.
			out.body.setDeadline(time.Now().Add(p.window))
			r.Body = out.body
		}
		next.ServeHTTP(out, r)
		out.begin()
		if out.body != nil && !out.body.ended {
			// net/http need not look for the end of the body. The connection reads on for
			// a while when it is closed.
			out.body.setDeadline(time.Unix(1, 0))
			lingerAfter(r.Context())
		}
	})
}

// paceReader is the body of a request.
type paceReader struct {
	io.ReadCloser
	request *http.Request
	conn    *http.ResponseController
	credit  credit
	// memory is what the request holds, or nil.
	memory *reservation
	// length is the length of the body, or -1; read is how much of it was read.
	length, read int64
	// expects: the client sends the body after an interim answer, which the first read
	// sends.
	expects bool
	// touched: a handler read. ended: it saw the end. failed: there was another error.
	touched, ended, failed bool
}

// Read implements [io.Reader].
func (r *paceReader) Read(p []byte) (int, error) {
	r.touched = true
	start := time.Now()
	r.setDeadline(start.Add(r.credit.left))
	n, err := r.ReadCloser.Read(p)
	r.credit.account(start, n, r.memory)
	r.read += int64(n)
	switch {
	case errors.Is(err, io.EOF):
		r.ended = true
		r.request.Trailer = nil // nothing reads trailers, which can be hundreds
		// From here on, net/http reads the connection in the background to notice a
		// hang-up, and a deadline would look like one. net/http clears the deadline
		// when it first sees the end, but this may be a later read.
		r.setDeadline(time.Time{})
	case err != nil:
		r.failed = true
	}
	return n, err
}

func (r *paceReader) setDeadline(t time.Time) {
	_ = r.conn.SetReadDeadline(t) // fails only without a connection
}

// finish reads the rest of the body if it has already arrived, as that of a small request
// has. It does not wait, and asks for no body that the client keeps back.
func (r *paceReader) finish() {
	const buffered = 4 << 10 // net/http reads ahead that much
	if r.ended || r.failed || r.length < 0 || r.length-r.read > buffered || r.expects && !r.touched {
		return
	}
	rest := make([]byte, r.length-r.read+1)
	r.setDeadline(time.Unix(1, 0)) // a read of the connection fails, one of the buffer does not
	for !r.ended && !r.failed && len(rest) > 0 {
		n, err := r.ReadCloser.Read(rest)
		rest = rest[n:]
		r.ended, r.failed = errors.Is(err, io.EOF), err != nil && !errors.Is(err, io.EOF)
	}
	if r.ended {
		r.setDeadline(time.Time{})
	}
}

// paceWriter writes an answer.
type paceWriter struct {
	http.ResponseWriter
	conn   *http.ResponseController
	body   *paceReader // nil if the request has none
	credit credit
	begun  bool
	// memory is what the answer holds, or nil.
	memory *reservation
}

// Unwrap is for [http.ResponseController].
func (w *paceWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements [http.ResponseWriter].
func (w *paceWriter) WriteHeader(status int) {
	w.begin()
	start := w.start()
	w.ResponseWriter.WriteHeader(status)
	w.credit.account(start, 0, w.memory)
}

// begin lets the answer go out before the rest of the body has come.
func (w *paceWriter) begin() {
	if w.begun {
		return
	}
	w.begun = true
	if w.body == nil {
		return
	}
	if w.body.finish(); w.body.ended {
		return
	}
	// A connection that ends need not be read to the end of the body: net/http would
	// otherwise wait for up to 256 KiB of it before the answer goes out.
	w.Header().Set("Connection", "close")
}

// writePiece is the most bytes for which the credit of a client is counted at one time.
const writePiece = 16 << 10

// Write implements [io.Writer]. It counts a large text in pieces: the deadline of a piece
// depends on those before it.
func (w *paceWriter) Write(p []byte) (int, error) {
	w.begin()
	written := 0
	for {
		start := w.start()
		n, err := w.ResponseWriter.Write(p[written:min(len(p), written+writePiece)])
		w.credit.account(start, n, w.memory)
		if written += n; err != nil || written == len(p) {
			return written, err
		}
	}
}

// Flush implements [http.Flusher], which gin requires.
func (w *paceWriter) Flush() {
	w.begin()
	start := w.start()
	_ = w.conn.Flush() // a broken connection fails at the next write
	w.credit.account(start, 0, w.memory)
}

// start sets the deadline of a write.
func (w *paceWriter) start() time.Time {
	now := time.Now()
	_ = w.conn.SetWriteDeadline(now.Add(w.credit.left)) // fails only without a connection
	return now
}
