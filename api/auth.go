package api

import (
	"slices"

	"github.com/gin-gonic/gin"

	"github.com/batchd/batchd/api/auth"
)

const keyPrincipal = "principal"

// headerStore tells a client whether its batches survive a restart of the server:
// "memory" or "redis".
const headerStore = "Batchd-Store"

func (s *Server) storeName() string {
	if s.cfg.InMemory {
		return "memory"
	}
	return "redis"
}

// chain returns the authenticators of the configured modes. Their order does not depend on the
// configuration.
func (s *Server) chain() (auth.Chain, error) {
	var (
		chain auth.Chain
		other func(value string) bool
	)
	if s.cfg.Auth.Has(auth.ModeJWT) {
		var err error
		if s.jwt, err = auth.NewJWT(s.cfg.Auth.JWT, s.cfg.Logger); err != nil {
			return nil, err
		}
		s.jwt.Only = !s.cfg.Auth.Has(auth.ModePassthrough)
		other = s.jwt.Owns
	}
	var keys *auth.Keys
	if s.cfg.Auth.Has(auth.ModeKeys) {
		keys = auth.NewKeys(s.cfg.Keys, other, s.cfg.Logger)
		chain = append(chain, keys)
	} else {
		chain = append(chain, auth.Guard{Other: other})
	}
	if s.jwt != nil {
		chain = append(chain, s.jwt)
	}
	if s.cfg.Sessions != nil && (keys != nil || s.jwt != nil) {
		s.sessions = auth.NewSessions(s.cfg.Auth.Sessions, s.cfg.Sessions, keys, s.jwt, s.guardRequest)
		chain = append(chain, s.sessions)
	}
	for _, one := range []struct {
		mode auth.Mode
		auth.Authenticator
	}{
		{auth.ModePassthrough, auth.Passthrough{}},
		{auth.ModeNone, auth.None{}},
	} {
		if s.cfg.Auth.Has(one.mode) {
			chain = append(chain, one.Authenticator)
		}
	}
	return chain, nil
}

// authenticate determines who makes a request, and refuses a principal without the scope.
func (s *Server) authenticate(scope auth.Scope) handler {
	return func(c *gin.Context) error {
		ctx := c.Request.Context()
		p, err := s.auth.Authenticate(ctx, c.Request)
		if err != nil {
			return err
		}
		if p == nil {
			return s.noCredential(c, scope)
		}
		c.Set(keyPrincipal, p) // also for the audit log of a refusal
		switch {
		case p.Mode == auth.ModePassthrough && s.lacksCredential(c.Request, scope):
			return s.noCredential(c, scope)
		case p.Scopes.Has(scope):
		case scope == auth.Admin:
			return refuse(kindForbidden, "the credential does not have the scope admin: %s", s.howToBeAdmin())
		default:
			return refuse(kindForbidden, "the credential does not have the scope %s", scope)
		}
		c.Header("Cache-Control", "no-store")
		return nil
	}
}

// claimConnection counts the connection of a request for its owner. Without authentication
// all clients are the same owner, and count by their addresses alone. In the mode
// passthrough they count by both, because a client can invent credentials.
func (s *Server) claimConnection(c *gin.Context) error {
	conn, p := connOf(c.Request.Context()), principal(c)
	if conn == nil || p.Mode == auth.ModeNone || owner(c) == "" {
		return nil
	}
	if err := conn.claim(owner(c), p.Mode != auth.ModePassthrough); err != nil {
		c.Header("Connection", "close")
		return err
	}
	return nil
}

// forwarded returns the credential to add to each action, or "".
func (s *Server) forwarded(c *gin.Context) (string, error) {
	if !principal(c).Forward {
		return "", nil
	}
	if authorization := c.GetHeader("Authorization"); authorization != "" {
		return authorization, nil
	}
	if principal(c).Mode != auth.ModePassthrough {
		return "", nil
	}
	return "", s.noCredential(c, auth.Submit)
}

// principal returns who makes the request. Every route with a scope other than open has one.
func principal(c *gin.Context) *auth.Principal {
	p, _ := c.Value(keyPrincipal).(*auth.Principal)
	return p
}

// targetsOf returns those of the configured targets that a principal may use.
func (s *Server) targetsOf(p *auth.Principal) []string {
	if p.Targets == nil {
		return s.cfg.Targets
	}
	return slices.DeleteFunc(slices.Clone(s.cfg.Targets), func(target string) bool { return !p.Allows(target) })
}

// checkTarget refuses a principal that may not use the target of an endpoint or, without an endpoint, no
// target at all.
func (s *Server) checkTarget(p *auth.Principal, ep *Endpoint) error {
	if ep != nil && !p.Allows(ep.Target) || len(s.targetsOf(p)) == 0 {
		return refuse(kindForbidden, "the credential is for other targets")
	}
	return nil
}
