package api

import (
	"errors"
	"io"
	"net/http"
	"time"
)

// withStallTimeout gives every read of a request's body and every write of its answer
// its own deadline. It cuts a peer that stalls, but not a slow peer or a long answer.
func withStallTimeout(next http.Handler, timeout time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn := http.NewResponseController(w)
		if r.Body != nil && r.Body != http.NoBody {
			body := &stallReader{ReadCloser: r.Body, conn: conn, timeout: timeout}
			// Set the deadline now: if no handler reads the body, net/http reads it
			// before it reuses the connection.
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
		// From here on, net/http reads the connection in the background to notice a
		// hang-up, and a deadline would look like one. net/http clears the deadline
		// when it first sees the end, but this may be a later read.
		r.extend(0)
	}
	return n, err
}

func (r *stallReader) extend(timeout time.Duration) {
	var deadline time.Time
	if timeout > 0 {
		deadline = time.Now().Add(timeout)
	}
	_ = r.conn.SetReadDeadline(deadline) // fails only without a connection
}

type stallWriter struct {
	http.ResponseWriter
	conn    *http.ResponseController
	timeout time.Duration
}

// Unwrap is for [http.ResponseController].
func (w *stallWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *stallWriter) WriteHeader(status int) {
	w.extend()
	w.ResponseWriter.WriteHeader(status)
}

func (w *stallWriter) Write(p []byte) (int, error) {
	w.extend()
	return w.ResponseWriter.Write(p)
}

// Flush implements [http.Flusher], which gin requires.
func (w *stallWriter) Flush() {
	w.extend()
	_ = w.conn.Flush() // a broken connection fails at the next write
}

// extend sets twice the timeout, because net/http may read the rest of the body before
// it writes, and an answer must outlive a body that stalls.
func (w *stallWriter) extend() {
	_ = w.conn.SetWriteDeadline(time.Now().Add(2 * w.timeout)) // fails only without a connection, as above
}
