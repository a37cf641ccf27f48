package api

import (
	"net/http"

	"github.com/gin-gonic/gin"

	"github.com/batchd/batchd/api/auth"
)

const timeFormat = "2006-01-02T15:04:05.000Z"

// callerDocument says who makes a request, and what it may do.
type callerDocument struct {
	Mode auth.Mode `json:"mode"`
	// Name is empty in the mode passthrough, where the credential has no name.
	Name string `json:"name,omitempty"`
	// Owner is empty if the credential is another owner at each endpoint and target.
	Owner   string      `json:"owner,omitempty"`
	Scopes  auth.Scopes `json:"scopes"`
	Targets []string    `json:"targets"`
	Expires string      `json:"expires,omitempty"`
	// Session is set if a cookie authenticates the request.
	Session *sessionDocument `json:"session,omitempty"`
}

// sessionDocument is a session of a person who signed in.
type sessionDocument struct {
	SignedInAt string `json:"signed_in_at"`
	EndsAt     string `json:"ends_at"`
	// IdleSeconds is after how many seconds without a request it ends.
	IdleSeconds int `json:"idle_seconds"`
}

// whoami answers with the caller.
func (s *Server) whoami(c *gin.Context) error {
	if _, err := negotiate(c, mediaJSON); err != nil {
		return err
	}
	if _, err := parameters(c); err != nil {
		return err
	}
	return writeJSON(c, http.StatusOK, mediaJSON, s.caller(c))
}

// caller returns the document about the caller of a request.
func (s *Server) caller(c *gin.Context) *callerDocument {
	p := principal(c)
	doc := &callerDocument{Mode: p.Mode, Name: p.Name, Owner: p.Owner, Scopes: p.Scopes, Targets: s.targetsOf(p)}
	if owners := c.GetStringSlice(keyOwners); doc.Owner == "" && len(owners) == 1 {
		doc.Owner = owners[0]
	}
	if doc.Scopes == nil {
		doc.Scopes = auth.Scopes{}
	}
	if !p.Expires.IsZero() {
		doc.Expires = p.Expires.UTC().Format(timeFormat)
	}
	if p.Session != nil {
		doc.Session = &sessionDocument{p.Session.SignedIn.UTC().Format(timeFormat), p.Session.Ends.UTC().Format(timeFormat), int(p.Session.Idle.Seconds())}
	}
	return doc
}
