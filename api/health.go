package api

import (
	"net/http"

	"github.com/gin-gonic/gin"
)

// health reports that the process is alive. It does not ask the store, so that an orchestrator does
// not kill the process while the store is unavailable.
func (s *Server) health(c *gin.Context) error {
	c.Header("Cache-Control", "no-store")
	return writeJSON(c, http.StatusOK, mediaJSON, struct {
		Status  string `json:"status"`
		Version string `json:"version,omitempty"`
	}{"ok", s.cfg.Version})
}

// ready reports whether the server would serve a request.
func (s *Server) ready(c *gin.Context) error {
	c.Header("Cache-Control", "no-store")
	select {
	case <-s.draining:
		return refuse(kindUnavailable, "the server is stopping").with("Retry-After", "1")
	default:
	}
	ctx := c.Request.Context()
	if err := s.cfg.Store.Ping(ctx); err != nil {
		s.cfg.Logger.WarnContext(ctx, "not ready", "request_id", requestID(c), "error", err)
		return refuse(kindUnavailable, "the store does not answer").with("Retry-After", "1")
	}
	return writeJSON(c, http.StatusOK, mediaJSON, struct {
		Status string `json:"status"`
	}{"ready"})
}
