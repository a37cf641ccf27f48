package api

import (
	"errors"
	"io"
	"net/http"
	"time"
)

// withStallTimeout gives every read of a request's body and every write of its
// answer a deadline of their own. A peer that stalls is cut; one that is slow,
// or an answer that is long, is not.
func withStallTimeout(next http.Handler, timeout time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn := http.NewResponseController(w)
		if r.Body != nil && r.Body != http.NoBody {
			body := &stallReader{ReadCloser: r.Body, conn: conn, timeout: timeout}
			// From the start, because a body that no handler reads is read by
			// net/http before it reuses the connection.
			body.extend(timeout)
			r.Body = body
		}
		next.ServeHTTP(&stallWriter{ResponseWriter: w, conn: conn, timeout: timeout}, r)
	})
}

type stallReader struct {
	io.ReadCloser
	conn    *http.ResponseController
	timeout time.Duration
}

func (r *stallReader) Read(p []byte) (int, error) {
	r.extend(r.timeout)
	n, err := r.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		// The connection is now read in the background to notice a hang-up, for
		// which a deadline would pass. net/http clears it when it first sees the
		// end, but this may be a read after that.
		r.extend(0)
	}
	return n, err
}

func (r *stallReader) extend(timeout time.Duration) {
	var deadline time.Time
	if timeout > 0 {
		deadline = time.Now().Add(timeout)
	}
	_ = r.conn.SetReadDeadline(deadline) // unsupported only where there is no connection
}

type stallWriter struct {
	http.ResponseWriter
	conn    *http.ResponseController
	timeout time.Duration
}

// Unwrap serves [http.ResponseController].
func (w *stallWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *stallWriter) WriteHeader(status int) {
	w.extend()
	w.ResponseWriter.WriteHeader(status)
}

func (w *stallWriter) Write(p []byte) (int, error) {
	w.extend()
	return w.ResponseWriter.Write(p)
}

// Flush implements [http.Flusher], which gin asks for.
func (w *stallWriter) Flush() {
	w.extend()
	_ = w.conn.Flush() // a broken connection shows at the next write
}

// extend gives twice the time, because net/http may read what is left of the
// body before it writes, and an answer must outlive a body that stalls.
func (w *stallWriter) extend() {
	_ = w.conn.SetWriteDeadline(time.Now().Add(2 * w.timeout)) // unsupported as above
}
