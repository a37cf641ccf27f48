package api

import (
	"github.com/gin-gonic/gin"

	"github.com/batchd/batchd/api/dialect"
)

const (
	keyOwner = "owner"
	// anonymous owns every batch if there is no authentication.
	anonymous = "anonymous"
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

// authenticate determines the owner of a request.
func (s *Server) authenticate(c *gin.Context) {
	owner := anonymous
	if s.cfg.Auth.Mode == AuthPassthrough {
		identity, err := identity(c)
		if err != nil {
			s.fail(c, err)
			return
		}
		if owner, err = s.cfg.Owner(c.Request.Context(), identity); err != nil {
			s.fail(c, err)
			return
		}
	}
	c.Set(keyOwner, owner)
	c.Header("Cache-Control", "private, no-cache")
	c.Header(headerStore, s.storeName())
	c.Next()
}

const askForAuthorization = "send the credential of the target API in one Authorization header: it is passed on with every action, and the batch belongs to it"

// identity returns the identity behind a request's credentials, so that a client that sent a batch in
// a dialect can read it here with the same credentials. It removes the token from the query.
func identity(c *gin.Context) (string, error) {
	credentials, err := dialect.ReadCredentials(c.Request.Header)
	if err != nil {
		return "", err
	}
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
	if s.cfg.Auth.Mode != AuthPassthrough {
		return "", nil
	}
	if authorization := c.GetHeader("Authorization"); authorization != "" {
		return authorization, nil
	}
	return "", &dialect.UnauthorizedError{Detail: askForAuthorization}
}

func owner(c *gin.Context) string { return c.GetString(keyOwner) }

// own determines the owner of a batch that came in a dialect.
func (s *Server) own(c *gin.Context, credentials dialect.Credentials) error {
	if s.cfg.Auth.Mode != AuthPassthrough {
		c.Set(keyOwner, anonymous)
		return nil
	}
	identity := credentials.Identity()
	if identity == "" {
		return &dialect.UnauthorizedError{Detail: "send the credential of the target API: it is passed on with every action, and the batch belongs to it"}
	}
	owner, err := s.cfg.Owner(c.Request.Context(), identity)
	if err != nil {
		return err
	}
	c.Set(keyOwner, owner)
	return nil
}
