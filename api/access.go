package api

import (
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/batchd/batchd/internal/apikey"
	"github.com/batchd/batchd/internal/batch"
)

const (
	headerRequestID = "X-Request-ID"
	keyRequestID    = "request_id"
)

// observe gives the request an id, and logs and counts the request when it is answered.
// It does not log the query, which may contain a webhook's URL.
func (s *Server) observe(c *gin.Context) {
	id := c.GetHeader(headerRequestID)
	if !isPlainName(id, 128) || apikey.InValue(id) {
		id = rand.Text()
	}
	c.Set(keyRequestID, id)
	h := c.Writer.Header()
	h.Set(headerRequestID, id)
	SetSecurityHeaders(h, c.Request.TLS != nil)

	start := time.Now()
	defer func() {
		took := time.Since(start)
		s.record(c)
		s.metrics.observe(c.Request.Method, c.FullPath(), c.Writer.Status(), took)
		s.cfg.Logger.LogAttrs(c.Request.Context(), slog.LevelInfo, "request",
			slog.String("request_id", id),
			slog.String("method", loggedMethod(c.Request.Method)),
			slog.String("path", loggedPath(c.Request.URL.Path)),
			slog.String("route", c.FullPath()),
			slog.Int("status", c.Writer.Status()),
			slog.Int("bytes", max(0, c.Writer.Size())),
			slog.Duration("duration", took),
			slog.String("remote", c.Request.RemoteAddr),
		)
	}()
	c.Next()
}

// loggedMethod returns a method as the log has it.
func loggedMethod(method string) string {
	if !slices.Contains(batch.Methods, method) {
		return "(unknown)"
	}
	return method
}

// loggedPath returns a path as the log has it: short, and without a key that a client put into it by mistake.
func loggedPath(path string) string {
	if apikey.InValue(path) {
		return "(a key of batchd)"
	}
	if len(path) > mostLoggedPath {
		return strings.ToValidUTF8(path[:mostLoggedPath], "") + "…"
	}
	return path
}

// mostLoggedPath is the most bytes of a path that the log has.
const mostLoggedPath = 256

// recoverPanic answers a panic as any other internal error.
func (s *Server) recoverPanic(c *gin.Context) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if err, ok := p.(error); ok && err == http.ErrAbortHandler { //nolint:errorlint // net/http compares the value of the panic, too
			panic(p)
		}
		s.cfg.Logger.ErrorContext(c.Request.Context(), "panic", "request_id", requestID(c), "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		s.fail(c, fmt.Errorf("panic: %v", p))
	}()
	c.Next()
}

func requestID(c *gin.Context) string { return c.GetString(keyRequestID) }

// isPlainName reports whether s consists of letters, digits and the marks that occur in
// ids. Such a name is safe in a log, a header and a key.
func isPlainName(s string, most int) bool {
	if s == "" || len(s) > most {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return true
}
