package api

import (
	"github.com/gin-gonic/gin"
)

const (
	keyOwner = "owner"
	// anonymous owns every batch where there is no authentication.
	anonymous = "anonymous"
)

// authenticate finds the owner of a request.
func (s *Server) authenticate(c *gin.Context) {
	owner := anonymous
	if s.cfg.Auth == AuthPassthrough {
		credential, err := credential(c)
		if err != nil {
			s.fail(c, err)
			return
		}
		if owner, err = s.cfg.Owner(c.Request.Context(), credential); err != nil {
			s.fail(c, err)
			return
		}
	}
	c.Set(keyOwner, owner)
	c.Header("Cache-Control", "private, no-cache")
	c.Next()
}

// credential returns the one Authorization header of a request.
func credential(c *gin.Context) (string, error) {
	values := c.Request.Header.Values("Authorization")
	if len(values) != 1 || values[0] == "" {
		return "", refuse(kindUnauthorized, "send the credential of the target API in one Authorization header: it is passed on with every action, and the batch belongs to it").
			with("WWW-Authenticate", `Bearer realm="batchd"`)
	}
	return values[0], nil
}

// forwarded is the credential to add to each action, empty where there is none.
func (s *Server) forwarded(c *gin.Context) string {
	if s.cfg.Auth != AuthPassthrough {
		return ""
	}
	return c.GetHeader("Authorization")
}

func owner(c *gin.Context) string { return c.GetString(keyOwner) }
