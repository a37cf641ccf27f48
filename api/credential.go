package api

import (
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/api/dialect"
	"github.com/batchd/batchd/internal/apikey"
	"github.com/batchd/batchd/internal/intake"
)

// howToSendKey says where a key of batchd belongs in a request.
const howToSendKey = "as Authorization: Bearer batchd_… or in X-Batchd-Key"

// noCredential refuses a request in which no configured mode finds a credential. The text names what the modes
// accept for the scope, and a key of batchd in a wrong place.
func (s *Server) noCredential(c *gin.Context, scope auth.Scope) error {
	if place := s.misplacedKey(c.Request); place != "" {
		return &dialect.UnauthorizedError{Detail: "there is a key of batchd in " + place + ", where batchd does not look for one: send it " + howToSendKey}
	}
	ways := s.ownCredentials()
	if scope != auth.Admin && s.cfg.Auth.Has(auth.ModePassthrough) {
		where := "in one Authorization header"
		if c.Value(keyDialect) != nil {
			where = "as the target expects it"
		}
		ways = append(ways, "the credential of the target API "+where+", which is passed on with every action and owns the batch")
	}
	if len(ways) == 0 {
		return &dialect.UnauthorizedError{Detail: "this needs the scope admin, which no credential of a target has: " + s.howToBeAdmin()}
	}
	return &dialect.UnauthorizedError{Detail: "the request has no credential: send " + strings.Join(ways, ", or ")}
}

// ownCredentials describes the credentials that batchd itself checks.
func (s *Server) ownCredentials() (ways []string) {
	if s.cfg.Auth.Has(auth.ModeKeys) {
		ways = append(ways, "a key of batchd "+howToSendKey)
	}
	if s.cfg.Auth.Has(auth.ModeJWT) {
		ways = append(ways, "a token of the OpenID provider as Authorization: Bearer … or in X-Batchd-Key")
	}
	return ways
}

// howToBeAdmin says how a client gets a credential with the scope admin.
func (s *Server) howToBeAdmin() string {
	switch {
	case s.cfg.Auth.Has(auth.ModeKeys):
		return "batchd keys create NAME --scope admin makes a key that has it"
	case s.cfg.Auth.Has(auth.ModeJWT):
		return "a token has it if its scopes claim has batchd:admin"
	}
	return "add keys to auth.modes, or set monitor.listen"
}

// refusedByDialect adds to the error of a dialect about a credential what else the server accepts. In the mode
// passthrough a dialect only knows the credential of the target.
func (s *Server) refusedByDialect(c *gin.Context, err error) error {
	refused, ok := errors.AsType[*dialect.UnauthorizedError](err)
	if !ok || principal(c).Mode != auth.ModePassthrough {
		return err
	}
	ways := s.ownCredentials()
	if len(ways) == 0 || hasCredential(c.Request) {
		return err
	}
	return &dialect.UnauthorizedError{Detail: refused.Detail + "; or send " + strings.Join(ways, ", or ")}
}

// misplacedKey returns where a request has a key of batchd that does not count there, or "". The authenticators have
// removed those from the places where they count.
func (s *Server) misplacedKey(r *http.Request) string {
	if !s.cfg.Auth.Has(auth.ModeKeys) {
		return ""
	}
	var names []string
	for name, values := range r.Header {
		if slices.ContainsFunc(values, apikey.InValue) {
			names = append(names, name)
		}
	}
	if len(names) > 0 {
		return "the header " + slices.Min(names)
	}
	for name, values := range r.URL.Query() {
		if slices.ContainsFunc(values, apikey.InValue) {
			names = append(names, name)
		}
	}
	if len(names) > 0 && !apikey.InValue(slices.Min(names)) {
		return "the query parameter " + intake.Clip(slices.Min(names))
	}
	return ""
}

// lacksCredential reports whether a request in the mode passthrough has no credential: the target's would be a key of
// batchd, or a scope is asked for that no credential of a target has, and there is none. Package dialect decides about
// all other requests.
func (s *Server) lacksCredential(r *http.Request, scope auth.Scope) bool {
	return scope == auth.Admin && !hasCredential(r) || r.Header.Get("Authorization") == "" && s.misplacedKey(r) != ""
}

// hasCredential reports whether a request has a credential of any dialect.
func hasCredential(r *http.Request) bool {
	for _, name := range []string{"Authorization", "X-Api-Key", "X-User-Key"} {
		if strings.TrimSpace(r.Header.Get(name)) != "" {
			return true
		}
	}
	return r.URL.Query().Get("token") != ""
}
