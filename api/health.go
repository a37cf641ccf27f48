package api

import (
	"net/http"

	"github.com/gin-gonic/gin"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/internal/batch"
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

// ready reports whether the server would serve a request. With ?verbose it adds the checks behind that, which only
// an admin may read.
func (s *Server) ready(c *gin.Context) error {
	c.Header("Cache-Control", "no-store")
	query, _ := splitQuery(c.Request.URL.RawQuery) // a query that cannot be read asks for nothing
	verbose := query.Has("verbose")
	if scope := s.operatorScope(); verbose && scope != auth.Open {
		if err := s.authenticate(scope)(c); err != nil {
			return err
		}
	}
	status, detail := s.readiness(c)
	switch {
	case verbose:
		return s.showChecks(c, status)
	case status != "ready":
		return refuse(kindUnavailable, "%s", detail).with("Retry-After", "1")
	}
	return writeJSON(c, http.StatusOK, mediaJSON, struct {
		Status string `json:"status"`
	}{status})
}

// readiness returns the status of the server, and what a client without the scope admin may know about it.
func (s *Server) readiness(c *gin.Context) (status, detail string) {
	select {
	case <-s.draining:
		return "stopping", "the server is stopping"
	default:
	}
	ctx := c.Request.Context()
	if err := s.cfg.Store.Ping(ctx); err != nil {
		s.cfg.Logger.WarnContext(ctx, "not ready", "request_id", requestID(c), "error", err)
		return "unavailable", "the store does not answer"
	}
	return "ready", ""
}

func (s *Server) showChecks(c *gin.Context, status string) error {
	doc := batch.Readiness{Status: status, Checks: []batch.Check{}}
	if s.cfg.Checks != nil {
		doc.Checks = append(doc.Checks, s.cfg.Checks(c.Request.Context())...)
	}
	code := http.StatusOK
	if status != "ready" {
		code = http.StatusServiceUnavailable
		c.Header("Retry-After", "1")
	}
	return writeJSON(c, code, mediaJSON, doc)
}

// operatorScope is the scope of what is for those who operate the server. Without authentication it is open: then
// the server listens on a loopback address, unless a setting allows others.
func (s *Server) operatorScope() auth.Scope {
	if s.cfg.Auth.Has(auth.ModeNone) {
		return auth.Open
	}
	return auth.Admin
}
