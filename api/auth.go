package api

import (
	"slices"

	"github.com/gin-gonic/gin"

	"github.com/batchd/batchd/api/auth"
	"github.com/batchd/batchd/api/dialect"
)

const (
	keyPrincipal = "principal"
	keyOwner     = "owner"
)

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
func (s *Server) chain() auth.Chain {
	var chain auth.Chain
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
	return chain
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
			return &dialect.UnauthorizedError{Detail: "the request has no credential: send one in the Authorization header"}
		}
		if !p.Scopes.Has(scope) {
			return refuse(kindForbidden, "the credential does not have the scope %s", scope)
		}
		c.Set(keyPrincipal, p)
		c.Header("Cache-Control", "no-store")
		return nil
	}
}

// identify determines the owner of the batches that a request of the native API is about.
func (s *Server) identify(c *gin.Context) error {
	c.Header(headerStore, s.storeName())
	p := principal(c)
	if p.Mode != auth.ModePassthrough {
		c.Set(keyOwner, p.Owner)
		return nil
	}
	identity, err := identity(c)
	if err != nil {
		return err
	}
	return s.setOwner(c, identity)
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

// setOwner determines the owner with an identity in the mode passthrough.
func (s *Server) setOwner(c *gin.Context, identity string) error {
	owner, err := s.cfg.Owner(c.Request.Context(), identity)
	if err != nil {
		return err
	}
	c.Set(keyOwner, owner)
	return nil
}

const askForAuthorization = "send the credential of the target API in one Authorization header: it is passed on with every action, and the batch belongs to it"

// identity returns the identity behind a request's credentials, so that a client that sent a batch in
// a dialect can read it here with the same credentials. It removes the token from the query.
func identity(c *gin.Context) (string, error) {
	credentials := principal(c).Credentials
	query, err := parseQuery(c.Request.URL.RawQuery)
	if err != nil {
		return "", err
	}
	if query.Has("token") {
		if credentials, err = credentials.WithToken(query); err != nil {
			return "", err
		}
		query.Del("token")
		c.Request.URL.RawQuery = query.Encode()
	}
	if identity := credentials.Identity(); identity != "" {
		return identity, nil
	}
	return "", &dialect.UnauthorizedError{Detail: askForAuthorization}
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
	return "", &dialect.UnauthorizedError{Detail: askForAuthorization}
}

func owner(c *gin.Context) string { return c.GetString(keyOwner) }

// principal returns who makes the request. Every route with a scope other than open has one.
func principal(c *gin.Context) *auth.Principal {
	p, _ := c.Value(keyPrincipal).(*auth.Principal)
	return p
}

// own determines the owner of a batch that came in a dialect.
func (s *Server) own(c *gin.Context, credentials dialect.Credentials) error {
	p := principal(c)
	if p.Mode != auth.ModePassthrough {
		c.Set(keyOwner, p.Owner)
		return s.claimConnection(c)
	}
	identity := credentials.Identity()
	if identity == "" {
		return &dialect.UnauthorizedError{Detail: "send the credential of the target API: it is passed on with every action, and the batch belongs to it"}
	}
	if err := s.setOwner(c, identity); err != nil {
		return err
	}
	return s.claimConnection(c)
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
